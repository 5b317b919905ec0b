"""Who asks: keys and limits."""
