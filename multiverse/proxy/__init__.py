"""The way of one request from a client to a server and back."""
