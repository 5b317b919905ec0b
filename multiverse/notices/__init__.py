"""Owners hear of it: messages to people outside the gateway when their servers fall silent or come back."""
