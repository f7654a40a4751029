"""Unit quaternions (w, x, y, z) and rotation vectors, for single rotations and little overhead."""

from __future__ import annotations

import math

import numpy as np

from robolearn.core.spec import Array


def multiply(a: Array, b: Array) -> Array:
    """Hamilton product a*b of (4,) quaternions: rotate by b, then by a."""
    aw, ax, ay, az = a.tolist()
    bw, bx, by, bz = b.tolist()
    return np.array(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ]
    )


def conjugate(q: Array) -> Array:
    """Inverse of a unit quaternion (4,)."""
    return np.array([q[0], -q[1], -q[2], -q[3]])


def matrix(q: Array) -> Array:
    """(3, 3) rotation matrix of a unit quaternion (4,)."""
    w, x, y, z = q.tolist()
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def from_rotvec(v: Array) -> Array:
    """Quaternion (4,) of a rotation vector (3,) [rad]."""
    x, y, z = v.tolist()
    angle = math.sqrt(x * x + y * y + z * z)
    scale = 0.5 - angle * angle / 48 if angle < 1e-4 else math.sin(angle / 2) / angle
    return np.array([math.cos(angle / 2), x * scale, y * scale, z * scale])


def to_rotvec(q: Array) -> Array:
    """Rotation vector (3,) [rad], shorter way round, of a unit quaternion (4,)."""
    w, x, y, z = q.tolist()
    sin_half = math.sqrt(x * x + y * y + z * z)
    if w < 0:
        w, x, y, z = -w, -x, -y, -z
    scale = 2.0 / w if sin_half < 1e-8 else 2.0 * math.atan2(sin_half, w) / sin_half
    return np.array([x * scale, y * scale, z * scale])


def about_z(angle: float) -> Array:
    """Quaternion (4,) of a turn about z [rad]."""
    return np.array([math.cos(angle / 2), 0.0, 0.0, math.sin(angle / 2)])


def cross(a: Array, b: Array) -> Array:
    """Cross product of (3,) vectors, without the overhead of ``np.cross``."""
    ax, ay, az = a.tolist()
    bx, by, bz = b.tolist()
    return np.array([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx])
