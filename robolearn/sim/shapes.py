"""Small pieces of a MuJoCo model: shapes, masses, cameras."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np

from robolearn.sim.scene import Contact, Geom, Vec3

ENVIRONMENT, ROBOT, FREE = 1, 2, 4
"""Contact groups: robot and environment meet each other, never their own kind; free bodies meet everything."""
_MEETS = {ENVIRONMENT: ROBOT, ROBOT: ENVIRONMENT, FREE: ENVIRONMENT | ROBOT | FREE}
_KINDS = {"box": mujoco.mjtGeom.mjGEOM_BOX, "cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER}


def add_geom(body: Any, geom: Geom, group: int, contact: Contact, *, mass: float = 0.0, grips: bool = False) -> None:
    """A shape of a body.

    Args:
        body: the MjSpec body.
        geom: what it looks like.
        group: contact group.
        contact: contact parameters; MuJoCo takes the larger friction and the mean softness of the two that meet.
        mass: [kg].
        grips: these parameters win over those of whatever it meets, and it resists turning on the spot.
    """
    body.add_geom(
        type=_KINDS[geom.shape],
        size=geom.size,
        pos=geom.pos,
        rgba=geom.rgba,
        mass=mass,
        contype=group if geom.collides else 0,
        conaffinity=_MEETS[group] if geom.collides else 0,
        condim=4 if grips else 3,
        priority=int(grips),
        friction=(contact.friction, 0.005, 0.0001),
        solref=contact.solref,
        solimp=(*contact.solimp, 0.5, 2.0),
    )


def add_solid(body: Any, geoms: Sequence[Geom], group: int, contact: Contact, mass: float) -> None:
    """The shapes of a body that is moved, of one density; MuJoCo works out its inertia [mass in kg]."""
    volumes = [_volume(geom) for geom in geoms]
    for geom, volume in zip(geoms, volumes, strict=True):
        add_geom(body, geom, group, contact, mass=mass * volume / sum(volumes), grips=True)


def add_capsule(body: Any, start: Vec3, end: Vec3, radius: float, rgba: Any) -> None:
    """A capsule that is only seen."""
    body.add_geom(
        type=mujoco.mjtGeom.mjGEOM_CAPSULE,
        fromto=(*start, *end),
        size=(radius, 0, 0),
        rgba=rgba,
        mass=0.0,
        contype=0,
        conaffinity=0,
        group=2,
    )


def add_camera(body: Any, name: str, pos: Any, target: Any, *, fovy: float, up: Any = (0.0, 0.0, 1.0)) -> None:
    """A camera at ``pos`` looking at ``target`` (both in body axes); MuJoCo cameras look along their -z."""
    back = np.asarray(pos, dtype=float) - np.asarray(target, dtype=float)
    back /= np.linalg.norm(back)
    right = np.cross(np.asarray(up, dtype=float), back)
    right /= np.linalg.norm(right)
    quat = np.zeros(4)
    mujoco.mju_mat2Quat(quat, np.column_stack([right, np.cross(back, right), back]).ravel())
    body.add_camera(name=name, pos=pos, quat=quat, fovy=fovy)


def set_inertial(body: Any, data: Any) -> None:
    """Mass [kg], centre of mass [m] and inertia [kg m^2] of a body, as the files in ``hal/arms`` give them."""
    body.explicitinertial = True
    body.mass, body.ipos, body.fullinertia = data["mass"], data["com"], data["inertia"]


def box_inertia(mass: float, half: Vec3) -> Vec3:
    """Principal moments of inertia of a box with half-lengths ``half`` [kg m^2]."""
    x2, y2, z2 = (4 * h * h for h in half)
    return mass / 12 * (y2 + z2), mass / 12 * (x2 + z2), mass / 12 * (x2 + y2)


def _volume(geom: Geom) -> float:
    a, b, c = geom.size
    return 8 * a * b * c if geom.shape == "box" else 2 * math.pi * a * a * b
