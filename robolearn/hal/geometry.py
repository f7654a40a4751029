"""The little rotation algebra that the safety layer needs: unit quaternions (w, x, y, z) and rotation vectors [rad]."""

from __future__ import annotations

import math

import numpy as np

from robolearn.core.spec import Array


def to_matrix(q: Array) -> Array:
    """(3, 3) rotation matrix of a quaternion (4,), which need not be exactly of unit length (Euler-Rodrigues)."""
    w, x, y, z = (q / math.sqrt(float(q @ q))).tolist()
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def turn(q: Array, rotvec: Array) -> Array:
    """(4,) unit quaternion: ``q`` followed by a rotation vector (3,) [rad] given in its own axes (q * exp(rotvec))."""
    w, x, y, z = q.tolist()
    a, b, c = rotvec.tolist()
    angle = math.sqrt(a * a + b * b + c * c)
    scale = 0.5 if angle < 1e-12 else math.sin(angle / 2) / angle
    d, a, b, c = math.cos(angle / 2), scale * a, scale * b, scale * c
    product = np.array(
        [
            w * d - x * a - y * b - z * c,
            w * a + x * d + y * c - z * b,
            w * b - x * c + y * d + z * a,
            w * c + x * b - y * a + z * d,
        ]
    )
    return np.asarray(product / math.sqrt(float(product @ product)))


def tilt(q: Array) -> float:
    """Angle [rad] between the tool's z axis and straight down (0, 0, -1) in the base frame."""
    w, x, y, z = q.tolist()
    cosine = -(1 - 2 * (x * x + y * y) / (w * w + x * x + y * y + z * z))
    return math.acos(min(1.0, max(-1.0, cosine)))
