"""Makes helpers in this directory importable from every test."""
