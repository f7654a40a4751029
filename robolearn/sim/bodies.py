"""What stands and moves around a simulated arm: table, placed and free bodies, screws, light and fixed cameras."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import mujoco
import numpy as np

from robolearn.core.errors import ConfigError, suggest
from robolearn.core.spec import Array, ArraySpec
from robolearn.sim.scene import Geom, Scene, Screw
from robolearn.sim.shapes import ENVIRONMENT, FREE, add_camera, add_geom, add_solid

_APART_M = 0.1
_TURN, _LIFT = "turn", "lift"
# A thread is stiff: friction yields to a smaller torque by 1e-4 rad/s, a stop to 1 N m by 2 mrad. MuJoCo scales the
# softness of a thread by the inertia of what turns, which is far too soft for what it lifts: hence nearly rigid.
_SOLREF, _SOLIMP, _RIGID = (0.004, 1.0), (0.95, 0.99, 0.001, 0.5, 2.0), (0.9999, 0.9999, 0.001, 0.5, 2.0)
_ROTOR = 1e-4
"""Inertia added to what turns on a thread [kg m^2]: keeps small caps stable between stiff finger pads."""


def add_surroundings(spec: mujoco.MjSpec, scene: Scene) -> None:
    """Light, table, cameras, and the placed bodies that carry no screw."""
    world = spec.worldbody
    spec.add_texture(
        name="sky",
        type=mujoco.mjtTexture.mjTEXTURE_SKYBOX,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_GRADIENT,
        rgb1=(0.86, 0.89, 0.93),
        rgb2=(0.55, 0.61, 0.68),
        width=32,
        height=192,
    )
    world.add_light(pos=(0.8, -0.6, 1.5), dir=(-0.4, 0.5, -1.2), castshadow=False, diffuse=(0.6, 0.6, 0.6))
    world.add_light(pos=(0.2, 0.8, 1.5), dir=(0.2, -0.6, -1.2), castshadow=False, diffuse=(0.35, 0.35, 0.35))
    table = Geom("box", (0.45, 0.5, 0.02), (0.45, 0.0, -0.02), (0.52, 0.47, 0.42, 1.0))
    add_geom(world, table, ENVIRONMENT, scene.contact)
    _add_placed(spec, scene, carriers=False)
    focus = np.array(scene.focus)
    add_camera(world, "side", focus + scene.view * np.array([0.02, 0.24, 0.11]), focus, fovy=31.0)
    add_camera(world, "front", focus + np.array([0.62, 0.42, 0.34]), focus + np.array([-0.1, 0.0, 0.13]), fovy=36.0)


def add_moving(spec: mujoco.MjSpec, scene: Scene) -> None:
    """Screws with what carries them, and free bodies; call it after the arm, whose joints come first."""
    _add_placed(spec, scene, carriers=True)
    for screw in scene.screws:
        _add_screw(spec, screw, scene)
    for free in scene.free:
        body = spec.worldbody.add_body(name=free.name)
        body.add_freejoint(name=free.name)
        add_solid(body, free.geoms, FREE, scene.grip, free.mass)


def _add_placed(spec: mujoco.MjSpec, scene: Scene, *, carriers: bool) -> None:
    bases = {screw.base for screw in scene.screws}
    for body in scene.placed:
        if (body.name in bases) == carriers:
            placed = spec.worldbody.add_body(name=body.name, mocap=True)
            for geom in body.geoms:
                add_geom(placed, geom, ENVIRONMENT, scene.contact)


def _add_screw(spec: mujoco.MjSpec, screw: Screw, scene: Scene) -> None:
    body = spec.body(screw.base).add_body(name=screw.name)
    axis, turn, lift = (0, 0, 1), f"{screw.name}_{_TURN}", f"{screw.name}_{_LIFT}"
    body.add_joint(name=lift, type=mujoco.mjtJoint.mjJNT_SLIDE, axis=axis)
    joint = body.add_joint(name=turn, type=mujoco.mjtJoint.mjJNT_HINGE, axis=axis, range=(screw.low, screw.high))
    joint.limited = mujoco.mjtLimited.mjLIMITED_TRUE
    joint.frictionloss, joint.armature = screw.friction, _ROTOR
    joint.solref_limit, joint.solimp_limit = _SOLREF, _SOLIMP
    joint.solref_friction, joint.solimp_friction = _SOLREF, _RIGID
    thread = spec.add_equality(type=mujoco.mjtEq.mjEQ_JOINT, objtype=mujoco.mjtObj.mjOBJ_JOINT)
    thread.name1, thread.name2 = lift, turn
    thread.data[:5] = (0.0, screw.pitch / (2 * math.pi), 0.0, 0.0, 0.0)
    thread.solref, thread.solimp = _SOLREF, _RIGID
    add_solid(body, screw.geoms, ENVIRONMENT, scene.grip, screw.mass)


class Bodies:
    """The bodies of a scene in a compiled world: puts them where a reset wants them, and says where they are.

    Free bodies and screws that a reset does not name return to where the last one put them; before the first, free
    bodies stand in a row at the focus and screws at their lower stop.

    Attributes:
        specs: what they add to the robot's observation.
    """

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, scene: Scene) -> None:
        self._model, self._data = model, data
        self._mocap = {body.name: int(model.body(body.name).mocapid[0]) for body in scene.placed}
        self._free = {body.name: int(model.joint(body.name).qposadr[0]) for body in scene.free}
        self._screws = {screw.name: (screw, *self._joints(screw.name)) for screw in scene.screws}
        x, y, z = scene.focus
        self._start = {
            body.name: np.array([x, y + _APART_M * i, z, 1.0, 0.0, 0.0, 0.0]) for i, body in enumerate(scene.free)
        } | {screw.name: np.array([screw.low]) for screw in scene.screws}
        self.specs = [
            ArraySpec(f"body/{name}", (7,), "float64", "m, quaternion wxyz; base frame") for name in self._free
        ] + [ArraySpec(f"joint/{name}", (2,), "float64", "rad, rad/s; angle on the thread") for name in self._screws]

    def place(self, wanted: Mapping[str, Array]) -> None:
        """Set where bodies start: name -> (7,) pose [m, quaternion (w, x, y, z)] or, of a screw, (1,) angle [rad].

        Raises:
            ConfigError: unknown body, wrong shape, no unit quaternion, or an angle beyond a screw's stops.
        """
        for name, value in wanted.items():
            if name in self._mocap:
                index, pose = self._mocap[name], _finite(name, value, 7)
                self._data.mocap_pos[index], self._data.mocap_quat[index] = pose[:3], pose[3:]
            elif name in self._free:
                self._start[name] = _unit(name, _finite(name, value, 7))
            elif name in self._screws:
                self._start[name] = self._angle(self._screws[name][0], _finite(name, value, 1))
            else:
                raise ConfigError(f"unknown body '{name}'{suggest(name, [*self._mocap, *self._free, *self._screws])}")

    def settle(self) -> None:
        """Write the starts of free bodies and screws into the positions of ``data``."""
        qpos = self._data.qpos
        for name, address in self._free.items():
            qpos[address : address + 7] = self._start[name]
        for name, (screw, turn, lift, _) in self._screws.items():
            angle = float(self._start[name][0])
            qpos[turn], qpos[lift] = angle, angle * screw.pitch / (2 * math.pi)

    def observe(self) -> dict[str, Array]:
        """``body/NAME`` (7,) and ``joint/NAME`` (2,)."""
        qpos, qvel = self._data.qpos, self._data.qvel
        seen: dict[str, Array] = {f"body/{name}": qpos[at : at + 7].copy() for name, at in self._free.items()}
        for name, (_, turn, _, rate) in self._screws.items():
            seen[f"joint/{name}"] = np.array([qpos[turn], qvel[rate]])
        return seen

    def _joints(self, name: str) -> tuple[int, int, int]:
        turn, lift = self._model.joint(f"{name}_{_TURN}"), self._model.joint(f"{name}_{_LIFT}")
        return int(turn.qposadr[0]), int(lift.qposadr[0]), int(turn.dofadr[0])

    @staticmethod
    def _angle(screw: Screw, angle: Array) -> Array:
        if not screw.low <= angle[0] <= screw.high:
            raise ConfigError(
                f"screw '{screw.name}': expected an angle in {screw.low:g}..{screw.high:g} rad, got {angle[0]:g}"
            )
        return angle


def _unit(name: str, pose: Array) -> Array:
    length = float(np.linalg.norm(pose[3:]))
    if abs(length - 1.0) > 1e-3:
        raise ConfigError(f"reset of '{name}': expected a unit quaternion (w, x, y, z), got one of length {length:.4g}")
    pose[3:] /= length
    return pose


def _finite(name: str, value: Any, size: int) -> Array:
    array = np.array(value, dtype=np.float64)
    if array.shape != (size,) or not np.isfinite(array).all():
        raise ConfigError(f"reset of '{name}': expected {size} finite numbers, got {array.tolist()}")
    return array
