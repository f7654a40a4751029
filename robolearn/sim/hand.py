"""A parallel-jaw hand: closed on a tool that it holds for ever, or empty with two sliding fingers tied together.

The fingers follow a commanded opening at limited speed, with a spring whose force is bounded: closed on something,
they squeeze it with half of ``STIFFNESS`` times what is missing to the commanded opening, at most ``FORCE_N`` / 2 each.
"""

from __future__ import annotations

import math
from typing import Any

import mujoco
import numpy as np

from robolearn.core.spec import Array
from robolearn.sim.scene import Body, Contact, Geom, Scene
from robolearn.sim.shapes import ROBOT, add_camera, add_geom, box_inertia, set_inertial

FINGER_OPENING_M = 0.008
"""Distance of each finger pad from the middle while a tool is held."""
STROKE_M = 0.04
"""Travel of each finger."""
GRIPPER = FINGER_OPENING_M / STROKE_M
"""Opening fraction of the hand closed on its tool."""
STIFFNESS, DAMPING, FORCE_N = 2000.0, 60.0, 60.0
"""Of the drive that moves both fingers, per opening of one finger [N/m, N s/m, N]."""
SPEED = 0.1
"""Of each finger [m/s]."""
DRIVE_MASS = 0.1
"""What each finger moves of the drive, as felt at the finger [kg]."""
_WHITE, _DARK = (0.93, 0.94, 0.95, 1.0), (0.16, 0.17, 0.19, 1.0)
_SIDES = (("left", 1.0), ("right", -1.0))


def add_hand(spec: mujoco.MjSpec, flange: Any, numbers: Any, scene: Scene) -> None:
    """The hand on the link ``flange``, with sites ``tcp`` and ``tip``, the tool or the fingers' joints, and sensors.

    Args:
        spec: of the world.
        flange: last link.
        numbers: published numbers of the arm, with ``flange``, ``hand`` and ``finger``.
        scene: what the hand holds.
    """
    data, half_yaw = numbers["hand"], numbers["hand"]["yaw"] / 2
    hand = flange.add_body(
        name="hand",
        pos=(0.0, 0.0, numbers["flange"]["z"]),
        quat=(math.cos(half_yaw), 0.0, 0.0, math.sin(half_yaw)),
    )
    set_inertial(hand, data)
    hidden = 4 if scene.tool is None else 0  # MuJoCo draws sites of group 0; a tool hides these
    hand.add_site(name="tcp", pos=(0.0, 0.0, data["tcp_z"]), group=hidden)
    add_geom(hand, Geom("box", (0.03, 0.1, 0.032), (0.0, 0.0, 0.034), _WHITE), ROBOT, Contact())
    for name, side in _SIDES:
        _add_finger(hand, name, side, numbers["finger"], moves=scene.tool is None)
    add_camera(hand, "wrist", np.array([0.085, 0.0, 0.03]), np.array([0.0, 0.0, 0.19]), fovy=60.0, up=(1.0, 0.0, 0.0))
    if scene.tool is None:
        x, y, z = scene.tip
        hand.add_site(name="tip", pos=(x, y, z + data["tcp_z"]), group=hidden)
        _add_drive(spec)
    else:
        _add_tool(hand, scene, scene.tool, data["tcp_z"])
    for name, kind in (("force", mujoco.mjtSensor.mjSENS_FORCE), ("torque", mujoco.mjtSensor.mjSENS_TORQUE)):
        spec.add_sensor(name=name, type=kind, objtype=mujoco.mjtObj.mjOBJ_SITE, objname="tip")


def _add_finger(hand: Any, name: str, side: float, data: Any, *, moves: bool) -> None:
    half_turn = 0.0 if side > 0 else math.pi / 2
    body = hand.add_body(
        name=f"{name}_finger",
        pos=(0.0, 0.0 if moves else side * FINGER_OPENING_M, data["origin_z"]),
        quat=(math.cos(half_turn), 0.0, 0.0, math.sin(half_turn)),
    )
    set_inertial(body, data)
    add_geom(body, Geom("box", (0.01, 0.008, 0.024), (0.0, 0.008, 0.025), _DARK), ROBOT, Contact())
    if moves:
        joint = body.add_joint(name=f"{name}_finger", type=mujoco.mjtJoint.mjJNT_SLIDE, axis=(0, 1, 0))
        joint.range, joint.limited = (0.0, data["stroke"]), mujoco.mjtLimited.mjLIMITED_TRUE
        joint.armature = DRIVE_MASS
        joint.solref_limit, joint.solimp_limit = (0.004, 1.0), (0.95, 0.99, 0.001, 0.5, 2.0)


def _add_drive(spec: mujoco.MjSpec) -> None:
    """Both fingers are at the same opening, and one drive moves them."""
    tie = spec.add_equality(type=mujoco.mjtEq.mjEQ_JOINT, objtype=mujoco.mjtObj.mjOBJ_JOINT)
    tie.name1, tie.name2 = "left_finger", "right_finger"
    tie.data[:5] = (0.0, 1.0, 0.0, 0.0, 0.0)
    tie.solref, tie.solimp = (0.004, 1.0), (0.95, 0.99, 0.001, 0.5, 2.0)
    mean = spec.add_tendon(name="fingers")
    for name, _ in _SIDES:
        mean.wrap_joint(f"{name}_finger", 0.5)
    drive = spec.add_actuator(name="fingers", target="fingers", trntype=mujoco.mjtTrn.mjTRN_TENDON)
    drive.gaintype, drive.biastype = mujoco.mjtGain.mjGAIN_FIXED, mujoco.mjtBias.mjBIAS_AFFINE
    drive.gainprm[0], drive.biasprm[:3] = STIFFNESS, (0.0, -STIFFNESS, -DAMPING)
    drive.forcerange, drive.forcelimited = (-FORCE_N, FORCE_N), mujoco.mjtLimited.mjLIMITED_TRUE


def _add_tool(hand: Any, scene: Scene, tool: Body, tcp_z: float) -> None:
    body = hand.add_body(name=tool.name, pos=(0.0, 0.0, tcp_z))
    body.explicitinertial = True
    body.mass = scene.tool_mass
    body.ipos = tool.geoms[0].pos
    body.inertia = box_inertia(scene.tool_mass, tool.geoms[0].size)
    for geom in tool.geoms:
        add_geom(body, geom, ROBOT, scene.contact)
    body.add_site(name="tip", pos=scene.tip)


class Fingers:
    """The moving fingers of an empty hand in a compiled world.

    Args:
        model, data: the world.
        tick_s: time between two calls of ``tick`` [s].
    """

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, tick_s: float) -> None:
        joints = [model.joint(f"{name}_finger") for name, _ in _SIDES]
        self._data = data
        self._qpos: Array = np.array([int(joint.qposadr[0]) for joint in joints])
        self._motor = int(model.actuator("fingers").id)
        self._stride = SPEED * tick_s
        self._reference = self._goal = STROKE_M

    @property
    def opening(self) -> float:
        """Measured opening fraction."""
        return min(1.0, max(0.0, float(self._data.qpos[self._qpos].mean()) / STROKE_M))

    def settle(self) -> None:
        """Stand open, at rest."""
        self._data.qpos[self._qpos] = self._reference = self._goal = STROKE_M
        self._data.ctrl[self._motor] = STROKE_M

    def aim(self, opening: float) -> None:
        """Move towards an opening fraction."""
        self._goal = opening * STROKE_M

    def tick(self) -> None:
        """Let the reference follow the goal for a tick."""
        step = self._goal - self._reference
        self._reference += min(self._stride, max(-self._stride, step))
        self._data.ctrl[self._motor] = self._reference
