"""Rows on disk: who is registered, what probes found, what was used; the only room that knows SQLite."""
