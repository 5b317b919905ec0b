"""Multiverse: an inference gateway with which a class shares the AI models its students host."""

__version__ = "1.0.0"
