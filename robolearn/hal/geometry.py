"""Rotations and poses, one at a time and with little overhead.

Quaternions are of unit length, (w, x, y, z); rotation vectors in rad; poses (7,) are position [m] and quaternion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

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


def quaternion(rows: Sequence[float]) -> tuple[float, float, float, float]:
    """Unit quaternion, w >= 0, of a rotation matrix given as 9 numbers by rows (Shepperd 1978)."""
    a, b, c, d, e, f, g, h, i = rows
    trace = a + e + i
    if trace >= max(a, e, i):
        q = (1.0 + trace, h - f, c - g, d - b)
    elif a >= max(e, i):
        q = (h - f, 1.0 + a - e - i, b + d, c + g)
    elif e >= i:
        q = (c - g, b + d, 1.0 + e - a - i, f + h)
    else:
        q = (d - b, c + g, f + h, 1.0 + i - a - e)
    scale = math.copysign(1.0 / math.sqrt(sum(v * v for v in q)), q[0])
    return q[0] * scale, q[1] * scale, q[2] * scale, q[3] * scale


def pose_error(pose: Array, goal: Array) -> Array:
    """(6,) what brings ``pose`` to ``goal``: displacement [m] and rotation vector [rad], both in base axes."""
    turned = to_rotvec(multiply(goal[3:], conjugate(pose[3:])))
    return np.concatenate([goal[:3] - pose[:3], turned])
