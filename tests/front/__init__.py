"""The front door alone, with a Tornado application of the tests behind it."""
