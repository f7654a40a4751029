"""Rotations as the simulation uses them: part of ``robolearn.hal.geometry``."""

from __future__ import annotations

from robolearn.hal.geometry import about_z, conjugate, cross, from_rotvec, matrix, multiply, to_rotvec

__all__ = ["about_z", "conjugate", "cross", "from_rotvec", "matrix", "multiply", "to_rotvec"]
