"""Arms with the hand of ``hand.py``, built with MjSpec from published numbers and primitive shapes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from robolearn.core.errors import ConfigError, suggest
from robolearn.core.spec import Array
from robolearn.hal import chain
from robolearn.sim.bodies import add_moving, add_surroundings
from robolearn.sim.hand import FINGER_OPENING_M, add_hand
from robolearn.sim.scene import Scene, Vec3
from robolearn.sim.shapes import add_capsule, set_inertial

__all__ = [
    "ARMATURE",
    "ARMS",
    "FINGER_OPENING_M",
    "TIMESTEP_S",
    "Limits",
    "Looks",
    "build",
    "forward",
    "home",
    "limits",
]

TIMESTEP_S = 0.002
ARMATURE = 0.1
DAMPING = 1.0
_WHITE = (0.93, 0.94, 0.95, 1.0)
_GREY = (0.35, 0.37, 0.4, 1.0)
Capsule = tuple[Vec3, Vec3, float]


@dataclass(frozen=True)
class Looks:
    """What the published numbers of an arm leave out.

    Attributes:
        base: capsules of the fixed link: from, to [m], radius [m].
        links: capsules of each moving link, in its joint frame.
        forward: (n,) posture with the hand pointing along +x, low over the table, its camera above [rad].
        stand: where the arm stands in the workcell, whose frame is the base frame of all poses [m]: chosen so that
            what is 0.1 m around (0.5, 0, 0.05) is well within reach, from above and from the front.
    """

    base: tuple[Capsule, ...]
    links: tuple[tuple[Capsule, ...], ...]
    forward: tuple[float, ...]
    stand: Vec3 = (0.0, 0.0, 0.0)


ARMS: dict[str, Looks] = {
    "fr3": Looks(
        base=(((-0.06, 0.0, 0.06), (0.0, 0.0, 0.06), 0.06), ((0.0, 0.0, 0.06), (0.0, 0.0, 0.13), 0.06)),
        links=(
            (((0.0, 0.0, -0.19), (0.0, 0.0, -0.02), 0.058),),
            (((0.0, 0.0, -0.055), (0.0, 0.0, 0.055), 0.058), ((0.0, -0.02, 0.0), (0.0, -0.17, 0.0), 0.055)),
            (((0.0, 0.0, -0.12), (0.0, 0.0, -0.06), 0.056), ((0.03, 0.0, -0.04), (0.0825, 0.0, 0.0), 0.052)),
            (((0.0, 0.0, -0.05), (0.0, 0.0, 0.05), 0.054), ((0.0, 0.02, 0.0), (-0.0825, 0.1, 0.0), 0.05)),
            (((0.0, 0.0, -0.26), (0.0, 0.0, -0.12), 0.055), ((0.0, 0.055, -0.12), (0.0, 0.06, -0.02), 0.034)),
            (((0.0, 0.0, -0.06), (0.0, 0.0, 0.03), 0.05), ((0.02, 0.0, 0.0), (0.088, 0.0, 0.0), 0.045)),
            (((0.0, 0.0, -0.05), (0.0, 0.0, 0.08), 0.044),),
        ),
        forward=(-1.499, -1.487, 2.316, -2.57, -2.272, 2.043, -1.297),
    ),
    "ur5e": Looks(
        base=(((0.0, 0.0, 0.03), (0.0, 0.0, 0.09), 0.07),),
        links=(
            (((0.0, 0.0, -0.05), (0.0, 0.0, 0.02), 0.062),),
            (((0.0, 0.0, 0.0), (0.0, 0.0, 0.138), 0.058), ((0.0, 0.0, 0.138), (-0.425, 0.0, 0.138), 0.052)),
            (((0.0, 0.0, 0.007), (0.0, 0.0, 0.13), 0.05), ((0.0, 0.0, 0.007), (-0.3922, 0.0, 0.007), 0.043)),
            (((0.0, 0.0, -0.12), (0.0, 0.0, 0.035), 0.041), ((0.0, 0.0, 0.0), (0.0, -0.05, 0.0), 0.041)),
            (((0.0, 0.0, -0.04), (0.0, 0.0, 0.035), 0.041), ((0.0, 0.0, 0.0), (0.0, 0.05, 0.0), 0.041)),
            (((0.0, 0.0, -0.04), (0.0, 0.0, -0.015), 0.038),),
        ),
        forward=(2.7992, -1.116, 2.189, -1.073, 1.2284, 1.5708),
        stand=(-0.15, 0.0, 0.0),
    ),
}
"""The arms there are; their numbers are in ``hal/arms``."""


@dataclass(frozen=True)
class Limits:
    """Joint limits of the arm: position [rad] and torque [N m], (n,) each."""

    lower: Array
    upper: Array
    torque: Array


def numbers(name: str = "fr3") -> Any:
    """The published numbers of an arm (``hal/arms/<name>.yaml``)."""
    return chain.numbers(name)


def limits(name: str = "fr3") -> Limits:
    """Joint limits."""
    joints = numbers(name)["joints"]
    return Limits(*(np.array([joint[key] for joint in joints]) for key in ("lower", "upper", "torque")))


def home(name: str = "fr3") -> Array:
    """(n,) joint angles of the home posture, with the hand pointing down [rad]."""
    return np.array(numbers(name)["home"])


def forward(name: str = "fr3") -> Array:
    """(n,) joint angles of a posture with the hand pointing along +x [rad]."""
    return np.array(ARMS[name].forward)


def build(scene: Scene, name: str = "fr3") -> mujoco.MjModel:
    """Compile arm, hand and scene into one model. The arm's joints and motors come first, then those of the fingers.

    The model has sites ``tcp`` and ``tip``, cameras ``wrist``, ``side`` and ``front``, and sensors ``force`` and
    ``torque``: what the environment does to the tool (or, without one, to hand and fingers), at the tip, in tip axes;
    the weight of what they carry is in it, see ``sensing.ToolWeight``.

    Raises:
        ConfigError: there is no such arm.
    """
    if name not in ARMS:
        raise ConfigError(f"unknown arm '{name}'{suggest(name, ARMS)}")
    spec = mujoco.MjSpec()
    spec.modelname = name
    _options(spec)
    add_surroundings(spec, scene)
    add_hand(spec, _chain(spec, name), numbers(name), scene)
    add_moving(spec, scene)
    return spec.compile()


def mass_matrix(model: mujoco.MjModel, data: mujoco.MjData) -> Array:
    """Dense (nv, nv) joint-space inertia of the current configuration [kg m^2].

    On MuJoCo 3.8 ``mj_fullM`` takes ``data.qM``; given ``data.M`` it returns a wrong matrix without complaint.
    """
    dense = np.zeros((model.nv, model.nv))
    mujoco.mj_fullM(model, dense, data.qM)
    return dense


def _options(spec: mujoco.MjSpec) -> None:
    spec.compiler.degree = False
    option = spec.option
    option.timestep = TIMESTEP_S
    option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    option.impratio = 10.0
    option.integrator = mujoco.mjtIntegrator.mjINT_EULER
    option.solver = mujoco.mjtSolver.mjSOL_NEWTON
    option.iterations, option.ls_iterations = 20, 20
    option.disableflags = int(
        mujoco.mjtDisableBit.mjDSBL_EULERDAMP  # 1 N m s/rad on at least 0.1 kg m^2 is stable without
        | mujoco.mjtDisableBit.mjDSBL_ISLAND  # one island, or few
        | mujoco.mjtDisableBit.mjDSBL_MIDPHASE  # bodies of few shapes
    )
    spec.visual.quality.shadowsize = 0
    spec.visual.headlight.ambient = (0.32, 0.32, 0.32)
    spec.visual.global_.offwidth, spec.visual.global_.offheight = 1280, 960
    spec.visual.map.znear, spec.visual.map.zfar = 0.01, 20.0
    spec.stat.extent, spec.stat.center = 1.0, (0.4, 0.0, 0.3)


def _chain(spec: mujoco.MjSpec, name: str) -> Any:
    """Fixed link and moving links with their joints; returns the last link."""
    data, looks = numbers(name), ARMS[name]
    link = spec.worldbody.add_body(name="link0", pos=looks.stand)
    set_inertial(link, data["links"][0])
    for start, end, radius in looks.base:
        add_capsule(link, start, end, radius, _WHITE)
    for index, (joint, inertial) in enumerate(zip(data["joints"], data["links"][1:], strict=True), 1):
        half_roll = joint["rpy"][0] / 2
        quat = (math.cos(half_roll), math.sin(half_roll), 0.0, 0.0)
        link = link.add_body(name=f"link{index}", pos=joint["xyz"], quat=quat)
        set_inertial(link, inertial)
        link.add_joint(
            name=f"joint{index}",
            type=mujoco.mjtJoint.mjJNT_HINGE,
            axis=(0, 0, 1),
            limited=mujoco.mjtLimited.mjLIMITED_TRUE,
            range=(joint["lower"], joint["upper"]),
            armature=ARMATURE,
            damping=DAMPING,
        )
        torque = joint["torque"]
        motor = spec.add_actuator(name=f"motor{index}", target=f"joint{index}", ctrlrange=(-torque, torque))
        motor.trntype = mujoco.mjtTrn.mjTRN_JOINT
        motor.ctrllimited = mujoco.mjtLimited.mjLIMITED_TRUE
        for start, end, radius in looks.links[index - 1]:
            add_capsule(link, start, end, radius, _WHITE if index % 2 else _GREY)
    return link
