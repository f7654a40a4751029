"""A Franka Research 3 with its hand, built with MjSpec from published numbers and primitive shapes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from robolearn.core.spec import Array
from robolearn.hal import chain
from robolearn.sim.scene import Contact, Geom, Scene, Vec3

ENVIRONMENT, ROBOT = 1, 2
"""Contact groups: shapes of the robot meet shapes of the environment, never each other."""

TIMESTEP_S = 0.002
ARMATURE = 0.1
DAMPING = 1.0
_WHITE = (0.93, 0.94, 0.95, 1.0)
_GREY = (0.35, 0.37, 0.4, 1.0)
_DARK = (0.16, 0.17, 0.19, 1.0)

# Visual capsules of each moving link, in its joint frame: from, to [m], radius [m].
_CAPSULES: tuple[tuple[tuple[Vec3, Vec3, float], ...], ...] = (
    (((0.0, 0.0, -0.19), (0.0, 0.0, -0.02), 0.058),),
    (((0.0, 0.0, -0.055), (0.0, 0.0, 0.055), 0.058), ((0.0, -0.02, 0.0), (0.0, -0.17, 0.0), 0.055)),
    (((0.0, 0.0, -0.12), (0.0, 0.0, -0.06), 0.056), ((0.03, 0.0, -0.04), (0.0825, 0.0, 0.0), 0.052)),
    (((0.0, 0.0, -0.05), (0.0, 0.0, 0.05), 0.054), ((0.0, 0.02, 0.0), (-0.0825, 0.1, 0.0), 0.05)),
    (((0.0, 0.0, -0.26), (0.0, 0.0, -0.12), 0.055), ((0.0, 0.055, -0.12), (0.0, 0.06, -0.02), 0.034)),
    (((0.0, 0.0, -0.06), (0.0, 0.0, 0.03), 0.05), ((0.02, 0.0, 0.0), (0.088, 0.0, 0.0), 0.045)),
    (((0.0, 0.0, -0.05), (0.0, 0.0, 0.08), 0.044),),
)


@dataclass(frozen=True)
class Limits:
    """Joint limits of the arm: position [rad] and torque [N m], (7,) each."""

    lower: Array
    upper: Array
    torque: Array


def numbers() -> Any:
    """The published numbers of the arm (``hal/arms/fr3.yaml``)."""
    return chain.numbers("fr3")


def limits() -> Limits:
    """Joint limits."""
    joints = numbers()["joints"]
    return Limits(*(np.array([joint[key] for joint in joints]) for key in ("lower", "upper", "torque")))


def home() -> Array:
    """(7,) joint angles of the home posture [rad]."""
    return np.array(numbers()["home"])


def build(scene: Scene) -> mujoco.MjModel:
    """Compile arm, held tool and scene into one model.

    The model has sites ``tcp`` and ``tip``, cameras ``wrist``, ``side`` and ``front``, and sensors ``force`` and
    ``torque``: what the environment does to the tool, at the tip, in tip axes, less the tool's own weight.
    """
    spec = mujoco.MjSpec()
    _options(spec)
    _surroundings(spec, scene)
    hand = _hand(_chain(spec))
    _tool(hand, scene)
    _sensors(spec)
    return spec.compile()


def mass_matrix(model: mujoco.MjModel, data: mujoco.MjData) -> Array:
    """Dense (nv, nv) joint-space inertia of the current configuration [kg m^2].

    On MuJoCo 3.8 ``mj_fullM`` takes ``data.qM``; given ``data.M`` it returns a wrong matrix without complaint.
    """
    dense = np.zeros((model.nv, model.nv))
    mujoco.mj_fullM(model, dense, data.qM)
    return dense


def _options(spec: mujoco.MjSpec) -> None:
    spec.modelname = "fr3"
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
        | mujoco.mjtDisableBit.mjDSBL_ISLAND  # one island
        | mujoco.mjtDisableBit.mjDSBL_MIDPHASE  # bodies of at most five shapes
    )
    spec.visual.quality.shadowsize = 0
    spec.visual.headlight.ambient = (0.32, 0.32, 0.32)
    spec.visual.global_.offwidth, spec.visual.global_.offheight = 1280, 960
    spec.visual.map.znear, spec.visual.map.zfar = 0.01, 20.0
    spec.stat.extent, spec.stat.center = 1.0, (0.4, 0.0, 0.3)


def _surroundings(spec: mujoco.MjSpec, scene: Scene) -> None:
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
    _add_geom(world, table, ENVIRONMENT, scene.contact)
    for body in scene.placed:
        placed = world.add_body(name=body.name, mocap=True)
        for geom in body.geoms:
            _add_geom(placed, geom, ENVIRONMENT, scene.contact)
    focus = np.array(scene.focus)
    _camera(world, "side", focus + np.array([0.02, 0.24, 0.11]), focus, fovy=31.0)
    _camera(world, "front", focus + np.array([0.62, 0.42, 0.34]), focus + np.array([-0.1, 0.0, 0.13]), fovy=36.0)


def _chain(spec: mujoco.MjSpec) -> Any:
    """Links 0 to 7 with their joints; returns link 7."""
    link = spec.worldbody.add_body(name="link0")
    _inertial(link, numbers()["links"][0])
    _capsule(link, (-0.06, 0.0, 0.06), (0.0, 0.0, 0.06), 0.06, _WHITE)
    _capsule(link, (0.0, 0.0, 0.06), (0.0, 0.0, 0.13), 0.06, _WHITE)
    for index, (joint, inertial) in enumerate(zip(numbers()["joints"], numbers()["links"][1:], strict=True), 1):
        half_roll = joint["rpy"][0] / 2
        quat = (math.cos(half_roll), math.sin(half_roll), 0.0, 0.0)
        link = link.add_body(name=f"link{index}", pos=joint["xyz"], quat=quat)
        _inertial(link, inertial)
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
        for start, end, radius in _CAPSULES[index - 1]:
            _capsule(link, start, end, radius, _WHITE if index % 2 else _GREY)
    return link


def _hand(link7: Any) -> Any:
    """Hand with both fingers closed on the tool; returns the hand body."""
    data, finger = numbers()["hand"], numbers()["finger"]
    half_yaw = data["yaw"] / 2
    hand = link7.add_body(
        name="hand",
        pos=(0.0, 0.0, numbers()["flange"]["z"]),
        quat=(math.cos(half_yaw), 0.0, 0.0, math.sin(half_yaw)),
    )
    _inertial(hand, data)
    hand.add_site(name="tcp", pos=(0.0, 0.0, data["tcp_z"]))
    shell = Geom("box", (0.03, 0.1, 0.032), (0.0, 0.0, 0.034), _WHITE)
    _add_geom(hand, shell, ROBOT, Contact())
    for name, half_turn in (("left", 0.0), ("right", math.pi / 2)):
        side = 1.0 if name == "left" else -1.0
        body = hand.add_body(
            name=f"{name}_finger",
            pos=(0.0, side * FINGER_OPENING_M, finger["origin_z"]),
            quat=(math.cos(half_turn), 0.0, 0.0, math.sin(half_turn)),
        )
        _inertial(body, finger)
        _add_geom(body, Geom("box", (0.01, 0.008, 0.024), (0.0, 0.008, 0.025), _DARK), ROBOT, Contact())
    _camera(hand, "wrist", np.array([0.085, 0.0, 0.03]), np.array([0.0, 0.0, 0.19]), fovy=60.0, up=(1.0, 0.0, 0.0))
    return hand


FINGER_OPENING_M = 0.008
"""Distance of each finger pad from the middle while a tool is held."""


def _tool(hand: Any, scene: Scene) -> None:
    tcp_z = numbers()["hand"]["tcp_z"]
    tool = hand.add_body(name=scene.tool.name, pos=(0.0, 0.0, tcp_z))
    tool.explicitinertial = True
    tool.mass = scene.tool_mass
    tool.ipos = scene.tool.geoms[0].pos
    tool.inertia = _box_inertia(scene.tool_mass, scene.tool.geoms[0].size)
    for geom in scene.tool.geoms:
        _add_geom(tool, geom, ROBOT, scene.contact)
    tool.add_site(name="tip", pos=scene.tip)


def _sensors(spec: mujoco.MjSpec) -> None:
    for name, kind in (("force", mujoco.mjtSensor.mjSENS_FORCE), ("torque", mujoco.mjtSensor.mjSENS_TORQUE)):
        spec.add_sensor(name=name, type=kind, objtype=mujoco.mjtObj.mjOBJ_SITE, objname="tip")


def _box_inertia(mass: float, half: tuple[float, float, float]) -> tuple[float, float, float]:
    x2, y2, z2 = (4 * h * h for h in half)
    return mass / 12 * (y2 + z2), mass / 12 * (x2 + z2), mass / 12 * (x2 + y2)


def _inertial(body: Any, data: Any) -> None:
    body.explicitinertial = True
    body.mass, body.ipos, body.fullinertia = data["mass"], data["com"], data["inertia"]


def _capsule(body: Any, start: Any, end: Any, radius: float, rgba: Any) -> None:
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


def _add_geom(body: Any, geom: Geom, group: int, contact: Contact) -> None:
    kinds = {"box": mujoco.mjtGeom.mjGEOM_BOX, "cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER}
    body.add_geom(
        type=kinds[geom.shape],
        size=geom.size,
        pos=geom.pos,
        rgba=geom.rgba,
        mass=0.0,
        contype=group if geom.collides else 0,
        conaffinity=(ENVIRONMENT + ROBOT - group) if geom.collides else 0,
        condim=3,
        friction=(contact.friction, 0.005, 0.0001),
        solref=contact.solref,
        solimp=(*contact.solimp, 0.5, 2.0),
    )


def _camera(body: Any, name: str, pos: Any, target: Any, *, fovy: float, up: Any = (0.0, 0.0, 1.0)) -> None:
    """A camera at ``pos`` looking at ``target`` (both in body axes); MuJoCo cameras look along their -z."""
    back = np.asarray(pos, dtype=float) - np.asarray(target, dtype=float)
    back /= np.linalg.norm(back)
    right = np.cross(np.asarray(up, dtype=float), back)
    right /= np.linalg.norm(right)
    quat = np.zeros(4)
    mujoco.mju_mat2Quat(quat, np.column_stack([right, np.cross(back, right), back]).ravel())
    body.add_camera(name=name, pos=pos, quat=quat, fovy=fovy)
