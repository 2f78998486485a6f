"""Models as programs that run without this library."""
