"""robolearn: a robotics real-world learning stack."""

__version__ = "0.1.0"
