"""Pick up the orange cube and put it into a tray; a blue cube of the same size lies about and is to be left alone.

Frames: the base frame of the robot, z up from the table; the tip, which is the middle between the finger pads. The hand
hangs straight down throughout: cubes stand on a table, so a turn about the vertical is all a grasp needs, and tilting
would only add ways to fail. Yaw 0 is the hand as at home, its fingers closing along the base frame's y.

The policy acts in the axes of the base frame: a displacement of the tip, a turn of the hand about the vertical, and an
absolute opening of the fingers. The state is relative to the tip or the tray, so that it says the same wherever things
lie; a cube looks the same after a quarter turn and the hand after half a turn, so their headings are shown as angles
times four and times two.

Nothing that matters is hidden, so there is no blind expert. The experts take the cube by either pair of its faces with
equal chance: two ways, a quarter turn apart, whose mean is neither.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from robolearn.core.errors import ConfigError
from robolearn.core.protocols import Robot
from robolearn.core.spec import Array, ArraySpec, Observation
from robolearn.core.symmetry import SignedPermutation, Symmetry
from robolearn.core.types import Judgement, Skill, TaskSpec
from robolearn.hal.limits import SafetyLimits
from robolearn.sim import held, rotation
from robolearn.sim.insertion import check_ages, remember
from robolearn.sim.placing import SPAN_M, Carrier, Tray, heading_of, wrapped, yaw_of
from robolearn.sim.scene import GRIP, Body, Free, Geom, Scene

CENTRE_M = (0.5, 0.0)
"""Middle of the working area in the base frame."""
RIM_M, WALL_M, FLOOR_M = 0.03, 0.006, 0.005
"""Height of the tray's walls above the table, their thickness, and the thickness of its floor."""
TURN_DOWN = np.array([0.0, 1.0, 0.0, 0.0])
"""Orientation of the hand of yaw 0: half a turn about x."""
MAX_TURN = 0.08
"""Turn commanded by a unit action [rad]."""
MAX_YAW = 2.0
"""The hand is not turned further than this from yaw 0 [rad]."""
FINGER_BELOW_M = 0.012
"""Lowest tip above the table: the fingers reach a little below the tip."""

SOLREF = (0.02, 1.0)
"""A cube gives way more than what is held for long, so that fingers coming down on it at full speed are no blow."""
MAX_DRAWS = 10_000
"""Layouts tried before a range counts as too small."""
REST_MM, REST_DEG, FLOOR_GAP_MM = 1.0, 1.5, 2.0
"""A cube at rest moves and turns less than this in a step, and its lowest corner is this near the tray's floor."""
OPEN, AWAY_M = 0.9, 0.06
"""Least opening fraction, and least distance of the tip from the cube's centre, of a hand that has let go."""


@dataclass(frozen=True)
class Config:
    """Difficulty and interface of the task.

    The cube sets the difficulty: one of 40 mm leaves 20 mm beside each finger and turns into a hand that closes askew,
    so that the mean of the two ways to grasp it still works; one of 60 mm (tier ``hard``) leaves 10 mm and fits between
    the fingers only when the hand is turned to within 25 degrees of its faces.

    Attributes:
        cube_mm: edge of both cubes.
        tray_mm: inner width of the square tray.
        range_mm: cubes and tray are uniform in +- this about the middle of the working area, along x and y.
        yaw_deg: yaw of both cubes is uniform in +- this.
        gap_mm: least free distance between the cubes' circumscribed circles.
        start_mm: the tip starts uniform in +- this about the middle of the working area, along x and y.
        start_height_mm: lowest and highest start of the tip above the table.
        start_yaw_deg: yaw of the hand at the start is uniform in +- this.
        steps: robot steps a learner is given on this tier.
        max_steps: step limit of an episode (0.1 s each).
        friction: sliding friction of the cubes on whatever they touch.
        history: ages, in steps, of the frames in the policy's observation; 0 is now.
        translation_mm: displacement of the tip commanded by a unit action, along x, y and z.
    """

    cube_mm: float = 40.0
    tray_mm: float = 120.0
    range_mm: tuple[float, float] = (80.0, 140.0)
    yaw_deg: float = 45.0
    gap_mm: float = 35.0
    start_mm: tuple[float, float] = (40.0, 40.0)
    start_height_mm: tuple[float, float] = (120.0, 160.0)
    start_yaw_deg: float = 10.0
    steps: int = 20_000
    max_steps: int = 120
    friction: float = 0.8
    history: tuple[int, ...] = (0,)
    translation_mm: tuple[float, float, float] = (20.0, 20.0, 20.0)

    def __post_init__(self) -> None:
        check_ages(self.history)
        if not 10.0 <= self.cube_mm <= 1e3 * SPAN_M - 20.0:
            raise ConfigError(
                f"cube_mm: expected 10 to {1e3 * SPAN_M - 20.0:g} for a hand that opens 80, got {self.cube_mm}"
            )
        if self.tray_mm < 1.5 * self.cube_mm:
            raise ConfigError(f"tray_mm: expected at least 1.5 cubes ({1.5 * self.cube_mm:g}), got {self.tray_mm}")

    @property
    def half(self) -> float:
        """Half the edge of a cube [m]."""
        return 0.5e-3 * self.cube_mm

    @property
    def inner(self) -> float:
        """Half the inner width of the tray [m]."""
        return 0.5e-3 * self.tray_mm


TIERS: dict[str, Config] = {
    "smoke": Config(yaw_deg=15.0, start_mm=(20.0, 20.0), steps=6_000),
    "default": Config(),
    "hard": Config(cube_mm=60.0, tray_mm=110.0, range_mm=(90.0, 150.0), gap_mm=28.0, steps=40_000),
}

FRAME = 28
"""Numbers in one frame of the policy's state: positions of the cube from the tip 3, of the tray from the tip 3, of the
cube from the tray 3, of the other cube from the tip 3, velocity 3, last displacement 3, heading of the hand 2, of the
cube 2, of the cube in the hand 2, yaw rate, last turn, opening, last opening."""
PROPRIOCEPTION = 15
"""Numbers in one frame beside images: tip 3, velocity 3, last displacement 3, heading of the hand 2, yaw rate, last
turn, opening, last opening."""
_POSITION_M, _VELOCITY, _YAW_RATE = 0.03, 0.1, 0.5
IMAGES = held.IMAGES


def scene(config: Config) -> Scene:
    """A tray of five boxes, two cubes, and an empty hand."""
    half, inner, wall = config.half, config.inner, WALL_M / 2
    grey, light, height = (0.3, 0.32, 0.35, 1.0), (0.42, 0.44, 0.47, 1.0), RIM_M / 2
    outer = inner + WALL_M
    tray = (
        Geom("box", (outer, outer, FLOOR_M / 2), (0.0, 0.0, FLOOR_M / 2), grey),
        Geom("box", (wall, outer, height), (inner + wall, 0.0, height), light),
        Geom("box", (wall, outer, height), (-inner - wall, 0.0, height), light),
        Geom("box", (inner, wall, height), (0.0, inner + wall, height), light),
        Geom("box", (inner, wall, height), (0.0, -inner - wall, height), light),
    )
    orange, blue = (0.93, 0.5, 0.12, 1.0), (0.15, 0.35, 0.75, 1.0)
    cube = (half, half, half)
    return Scene(
        placed=(Body("tray", tray),),
        tool=None,
        tool_mass=0.0,
        tip=(0.0, 0.0, 0.0),
        focus=(*CENTRE_M, 0.03),
        brisk=True,
        view=2.2,
        grip=replace(GRIP, friction=config.friction, solref=SOLREF),
        free=(Free("object", (Geom("box", cube, rgba=orange),)), Free("distractor", (Geom("box", cube, rgba=blue),))),
    )


def limits(config: Config) -> SafetyLimits:
    """What the safety layer allows: a box around all that can lie on the table, ending where the fingers would touch
    it, and a contact force above that of fingers coming down on a cube at full speed."""
    (x, y), reach = CENTRE_M, 0.05
    half_x, half_y = 1e-3 * config.range_mm[0] + reach, 1e-3 * config.range_mm[1] + reach
    return SafetyLimits(
        low=(x - half_x, y - half_y, FINGER_BELOW_M),
        high=(x + half_x, y + half_y, 1e-3 * config.start_height_mm[1] + 0.08),
        translation=1.001e-3 * math.hypot(*config.translation_mm),
        rotation=1.001 * MAX_TURN,
        tilt=0.3,
        force=120.0,
    )


def build(config: Config, *, obs: Literal["state", "pixels"] = "state") -> PickPlace:
    """The task; ``pixels`` shows the wrist and side images and only what the arm knows of itself beside them."""
    return PickPlace(config, obs)


@dataclass(frozen=True)
class Layout:
    """Where things are at the start: positions (2,) [m] and yaws [rad]."""

    tray: Array
    cube: Array
    other: Array
    yaws: tuple[float, float]


class PickPlace:
    """One cube after another; holds the tray's place, the expert's ways and the policy's history of this one."""

    def __init__(self, config: Config, obs: Literal["state", "pixels"]) -> None:
        self.config = config
        self._images = IMAGES if obs == "pixels" else ()
        self._ages = config.history
        size = (PROPRIOCEPTION if self._images else FRAME) * len(self._ages)
        shown = "scaled positions, headings, velocities, opening, last action"
        seen = held.observation_specs(size, shown, self._images)
        action = ArraySpec("action", (5,), "float32", "tip displacement (base axes), turn, opening", -1, 1)
        self.spec = TaskSpec(
            "pick_place", seen, action, config.max_steps, held.CONTROL_HZ,
            symmetries=() if self._images else _symmetries(len(self._ages)),
            skills=(Skill.INFORMED, Skill.WEAK),
        )  # fmt: skip
        self._translation = 1e-3 * np.array(config.translation_mm)
        self._tray = np.array([*CENTRE_M, 0.0])
        self._turn, self._reference = TURN_DOWN, TURN_DOWN
        self._frames: list[Array] = []
        self._carrier: Carrier | None = None

    def reset(self, robot: Robot, rng: np.random.Generator) -> None:
        """Draw tray, cubes and start, and bring the robot there.

        Raises:
            ConfigError: the robot cannot place the cubes or does not see where they are.
        """
        seen = robot.spec.observation
        if not getattr(robot, "places_bodies", True) or not {"body/object", "body/distractor"} <= seen.keys():
            raise ConfigError(
                f"{robot.spec.name} cannot place the cubes and see their poses (body/object, body/distractor); "
                "pick_place is a task for simulated arms"
            )
        config = self.config
        layout = _draw_layout(config, rng)
        (x, y), (low, high) = CENTRE_M, config.start_height_mm
        spread = 1e-3 * np.array(config.start_mm) * rng.uniform(-1, 1, 2)
        tip = np.array([x + spread[0], y + spread[1], 1e-3 * rng.uniform(low, high)])
        self.place(robot, layout, tip, math.radians(config.start_yaw_deg) * rng.uniform(-1, 1))

    def place(self, robot: Robot, layout: Layout, tip: Array, yaw: float) -> None:
        """Start a given episode: things laid out, the open hand at ``tip`` (3,) turned by ``yaw``."""
        self._tray = np.array([*layout.tray, 0.0])
        self._frames, self._carrier = [], None
        half = self.config.half
        robot.reset(
            np.concatenate([tip, rotation.multiply(rotation.about_z(yaw), TURN_DOWN)]),
            {
                "tray": np.array([*self._tray, 1.0, 0.0, 0.0, 0.0]),
                "object": np.array([*layout.cube, half, *rotation.about_z(layout.yaws[0])]),
                "distractor": np.array([*layout.other, half, *rotation.about_z(layout.yaws[1])]),
            },
        )

    def observe(self, raw: Observation) -> dict[str, Array]:
        """Policy observation. Once per control step: it remembers frames and the pose ``command`` starts from."""
        frame = self._proprioception(raw) if self._images else self._frame(raw)
        self._turn, self._reference = raw["tool_pose"][3:], raw["tool_reference"]
        self._frames, state = remember(self._frames, frame, self._ages)
        return {"state": state} | {name: raw[f"camera/{name}"] for name in self._images}

    def command(self, action: Array) -> Array:
        """(7,) robot action of a normalised (5,) action; the hand is kept upright and within ``MAX_YAW``."""
        action = np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0)
        step = rotation.matrix(self._turn).T @ (action[:3] * self._translation)
        yaw = min(MAX_YAW, max(-MAX_YAW, yaw_of(self._reference) + float(action[3]) * MAX_TURN))
        wanted = rotation.multiply(rotation.about_z(yaw), TURN_DOWN)
        turn = rotation.to_rotvec(rotation.multiply(rotation.conjugate(self._reference), wanted))
        turn *= min(1.0, MAX_TURN / max(math.sqrt(float(turn @ turn)), 1e-9))
        longest = float(self._translation.max())  # along each axis of the hand, as the robot counts it
        step *= min(1.0, longest / max(float(np.abs(step).max()), 1e-12))
        return np.concatenate([np.clip(step, -longest, longest), turn, [0.5 * (1.0 + float(action[4]))]])

    def normalise(self, robot_action: Array) -> Array:
        """(5,) normalised action of an executed (7,) robot action; exact where ``command`` did not limit."""
        executed = np.asarray(robot_action, dtype=np.float64)
        step = rotation.matrix(self._turn) @ executed[:3] / self._translation
        reached = rotation.multiply(self._reference, rotation.from_rotvec(executed[3:6]))
        turn = wrapped(yaw_of(reached) - yaw_of(self._reference)) / MAX_TURN
        return np.asarray(np.clip([*step, turn, 2.0 * executed[6] - 1.0], -1.0, 1.0), dtype=np.float32)

    def judge(self, before: Observation, action: Array, after: Observation) -> Judgement:
        """Success when the orange cube lies still on the tray's floor within its walls and the open hand is away."""
        was, now = before["body/object"], after["body/object"]
        turn = rotation.matrix(now[3:])
        extent = self.config.half * np.abs(turn).sum(axis=1)  # half-lengths of the upright box around the cube
        offset = now[:3] - self._tray
        gap = 1e3 * (offset[2] - extent[2] - FLOOR_M)
        inside = bool((np.abs(offset[:2]) + extent[:2] <= self.config.inner + 1e-3).all() and abs(gap) <= FLOOR_GAP_MM)
        moved = 1e3 * float(np.linalg.norm(now[:3] - was[:3]))
        turned = math.degrees(_angle(rotation.multiply(rotation.conjugate(was[3:]), now[3:])))
        away = float(np.linalg.norm(after["tool_pose"][:3] - now[:3])) >= AWAY_M
        free = away and float(after["gripper"][0]) >= OPEN
        success = inside and free and moved <= REST_MM and turned <= REST_DEG
        info = {
            "distance_mm": 1e3 * float(np.linalg.norm(offset[:2])),
            "gap_mm": float(gap),
            "moved_mm": moved,
            "peak_force_n": float(after["peak_force"][0]),
        }
        return held.judged(success, info)

    def expert(self, raw: Observation, rng: np.random.Generator, *, skill: Skill) -> Array:
        """Scripted action, see ``sim/placing.py``; how this episode is done is drawn at its first step."""
        if self._carrier is None:
            config = self.config
            self._carrier = Carrier(Tray(self._tray, config.inner, RIM_M, config.half), raw, rng, skill)
        return self._carrier.act(raw, self._translation, MAX_TURN, rng)

    def _frame(self, raw: Observation) -> Array:
        tip, cube, other = raw["tool_pose"][:3], raw["body/object"], raw["body/distractor"]
        vectors = np.concatenate([cube[:3] - tip, self._tray - tip, cube[:3] - self._tray, other[:3] - tip])
        velocity, rate, previous = self._motion(raw)
        heading, cube_heading = yaw_of(raw["tool_pose"][3:]), heading_of(cube)
        opening = 2.0 * float(raw["gripper"][0]) - 1.0
        return np.concatenate(
            [
                np.arcsinh(vectors / _POSITION_M),
                velocity,
                previous[:3],
                _turned(2.0 * heading),
                _turned(4.0 * cube_heading),
                _turned(4.0 * (cube_heading - heading)),
                [rate, previous[3], opening, previous[4]],
            ]
        )

    def _proprioception(self, raw: Observation) -> Array:
        tip, heading = raw["tool_pose"][:3], yaw_of(raw["tool_pose"][3:])
        velocity, rate, previous = self._motion(raw)
        place = (tip - [*CENTRE_M, RIM_M]) / _VELOCITY
        opening = 2.0 * float(raw["gripper"][0]) - 1.0
        last = [rate, previous[3], opening, previous[4]]
        return np.concatenate([place, velocity, previous[:3], _turned(2.0 * heading), last])

    def _motion(self, raw: Observation) -> tuple[Array, float, Array]:
        """Scaled velocity (3,) and yaw rate of the tip in base axes, and the last action (5,)."""
        twist, turn = raw["tool_twist"], rotation.matrix(raw["tool_pose"][3:])
        previous = self.normalise(raw["action"]) if self._frames else np.array([0.0, 0.0, 0.0, 0.0, 1.0])
        return turn @ twist[:3] / _VELOCITY, float((turn @ twist[3:])[2]) / _YAW_RATE, previous


def _draw_layout(config: Config, rng: np.random.Generator) -> Layout:
    """Tray and cubes such that the open hand can go down around either cube without touching anything else.

    Raises:
        ConfigError: there is no room for that.
    """
    centre, reach = np.array(CENTRE_M), 1e-3 * np.array(config.range_mm)
    radius, tray = math.sqrt(2.0) * config.half, config.inner + WALL_M
    hand = 0.5 * SPAN_M + 0.02  # outer side of an open finger
    for _ in range(MAX_DRAWS):
        places = centre + reach * rng.uniform(-1, 1, (3, 2))
        apart = np.abs(places[1:] - places[0]).max(axis=1)
        if (apart > tray + max(hand, radius)).all() and math.dist(*places[1:]) > 2 * radius + 1e-3 * config.gap_mm:
            yaws = np.radians(config.yaw_deg) * rng.uniform(-1, 1, 2)
            return Layout(places[0], places[1], places[2], (float(yaws[0]), float(yaws[1])))
    raise ConfigError(f"range_mm: {config.range_mm} leaves no room for a tray of {config.tray_mm:g} mm and two cubes")


def _symmetries(frames: int) -> tuple[Symmetry, ...]:
    """Quarter turns about the vertical and mirror images: all relative positions and both headings turn along.

    The tray is square and aligned with the axes, the cubes and the hand have the same symmetries, and the controller
    hides the arm, as long as the hand is not at ``MAX_YAW`` or the safety layer's walls.
    """
    found = []
    for turns in range(4):
        for mirror in (1, -1):
            if (turns, mirror) == (0, 1):
                continue
            plane = np.linalg.matrix_power(np.array([[0, -1], [1, 0]]), turns) @ np.diag([1, mirror])
            vector = SignedPermutation.joined(SignedPermutation.of_matrix(plane), SignedPermutation.identity(1))
            once = SignedPermutation((0, 1), (-1 if turns % 2 else 1, -mirror if turns % 2 else mirror))
            twice = SignedPermutation((0, 1), (1, mirror))
            spin, same = SignedPermutation((0,), (mirror,)), SignedPermutation.identity(1)
            frame = (*[vector] * 6, once, twice, twice, spin, spin, same, same)
            state = SignedPermutation.joined(*frame * frames)
            found.append(Symmetry({"state": state}, SignedPermutation.joined(vector, spin, same)))
    return tuple(found)


def _turned(angle: float) -> Array:
    return np.array([math.cos(angle), math.sin(angle)])


def _angle(turn: Array) -> float:
    """Angle of a rotation [rad]."""
    return 2.0 * math.atan2(float(np.linalg.norm(turn[1:])), abs(float(turn[0])))
