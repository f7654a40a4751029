"""The scheduler interface on Ray."""
