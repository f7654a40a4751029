"""Plug-ins that cost nothing, for tests of the command line."""
