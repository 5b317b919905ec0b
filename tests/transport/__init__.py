"""Tests of the HTTP client alone, on uvloop and on asyncio's own loop, against scripted peers."""
