"""Command line: parses, prints, calls run."""
