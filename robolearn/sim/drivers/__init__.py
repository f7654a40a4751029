"""Simulated robots, one file each."""
