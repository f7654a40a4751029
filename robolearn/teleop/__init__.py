"""Teleoperation devices and takeover."""
