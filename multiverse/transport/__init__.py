"""Bytes to one server and back: the HTTP client, and which addresses it may dial."""
