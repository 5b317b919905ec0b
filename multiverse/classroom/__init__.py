"""Pretend servers for a class: failures that can be had by a click, and watched live."""
