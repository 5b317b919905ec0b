"""One request handler for each route."""
