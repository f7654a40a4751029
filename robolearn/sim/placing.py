"""A scripted hand that takes a cube off the table and puts it into a tray, and the headings it needs.

Positions are in the base frame [m], z up; quaternions (w, x, y, z). The hand points straight down; its yaw is the
direction of its x axis, and its fingers close along its y axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from robolearn.core.spec import Array, Observation
from robolearn.core.types import Skill
from robolearn.sim import rotation
from robolearn.sim.person import Person

SPAN_M = 0.08
"""Distance between the pads of the open hand."""
NOISE = 0.05
"""Standard deviation of the informed expert's action noise."""
AIM = 0.45
"""How far an imperfect person is off, one standard deviation along x and along y, as a share of the room there is:
between an open finger and the cube, and between the cube and the tray's wall."""
PAUSE = 4
"""Most steps for which a person looks again before the fingers close, and before they open."""
WRONG_CUBE = 0.1
"""Share of the episodes in which an imperfect person takes the wrong cube."""
_OVER_M = 0.012
"""A hand this near, sideways, is over the place where it lets go."""


def yaw_of(turn: Array) -> float:
    """Yaw [rad] of a hand of orientation ``turn`` (4,) that points down."""
    axis = rotation.matrix(turn)[:, 0]
    return math.atan2(axis[1], axis[0])


def heading_of(cube: Array) -> float:
    """Yaw [rad] of a cube of pose (7,), known up to quarter turns: the direction of its most level axis."""
    axes = rotation.matrix(cube[3:])
    axis = axes[:, int(np.abs(axes[2]).argmin())]
    return math.atan2(axis[1], axis[0])


def nearest_face(cube: Array, yaw: float) -> float:
    """Yaw [rad] nearest to ``yaw`` at which the fingers meet two faces of the cube squarely."""
    quarter, heading = 0.5 * math.pi, heading_of(cube)
    return heading + quarter * round((yaw - heading) / quarter)


def wrapped(angle: float) -> float:
    """The same angle within half a turn of 0 [rad]."""
    return math.remainder(angle, 2.0 * math.pi)


@dataclass(frozen=True)
class Tray:
    """Where things go.

    Attributes:
        place: (3,) middle of the tray, on the table.
        inner: half the inner width.
        rim: height of the walls above the table.
        half: half the edge of a cube.
    """

    place: Array
    inner: float
    rim: float
    half: float

    def holds(self, cube: Array) -> bool:
        """The cube's centre is between the walls and not above them by more than it is high."""
        offset = np.abs(cube[:3] - self.place)
        return bool(offset[:2].max() < self.inner and offset[2] < self.rim + self.half)


class Carrier:
    """How one person does one episode: which way the hand turns, how fast, how high, how exactly.

    Over the cube, turn, down a funnel, close; up, across, down, open; up. What comes next follows from what is seen, so
    that it goes on from wherever somebody else brought the robot. Either pair of faces is taken with equal chance by a
    hand that is not over the cube yet, the nearer one by a hand that is.

    Args:
        raw: observation of the robot at the beginning.
        rng: source of this person's ways.
    """

    def __init__(self, tray: Tray, raw: Observation, rng: np.random.Generator, skill: Skill) -> None:
        self._tray = tray
        tip, cube = raw["tool_pose"], raw["body/object"]
        near = math.dist(tip[:2], cube[:2]) < 0.03
        faces = sorted((nearest_face(cube, a) for a in (0.0, 0.5 * math.pi, -0.5 * math.pi)), key=abs)[:2]
        either = faces[int(rng.integers(2))]
        self._yaw = nearest_face(cube, yaw_of(tip[3:])) if near else either
        self._grasp = np.clip(rng.normal(0.0, 0.002, 3), -0.004, 0.004)
        self._drop = rng.uniform(-0.2, 0.2, 2) * tray.inner
        self._hover = float(rng.uniform(0.05, 0.07))
        self._speed = float(rng.uniform(0.75, 1.0))
        self._pauses = {where: int(rng.integers(PAUSE + 1)) for where in ("grasp", "release")}
        over_cube, over_tray = AIM * (0.5 * SPAN_M - tray.half), AIM * (tray.inner - tray.half)
        spread = (over_cube, over_cube, over_tray, over_tray)
        self._person = Person(rng, spread, 4) if skill is Skill.WEAK else None
        wrong = self._person is not None and rng.uniform() < WRONG_CUBE
        self._cube = "body/distractor" if wrong else "body/object"

    def act(self, raw: Observation, unit: Array, unit_turn: float, rng: np.random.Generator) -> Array:
        """(5,) normalised displacement of the tip in base axes, turn, and opening.

        Args:
            unit: (3,) displacement of a unit action [m].
            unit_turn: turn of a unit action [rad].
        """
        noise, speed = rng.normal(0.0, NOISE, 4), self._speed
        if self._person is not None:
            self._person.step(rng)
            noise, speed = self._person.tremor, speed * self._person.pace
        goal, turn, close = self._goal(raw)
        step = (goal - raw["tool_pose"][:3]) / unit
        step *= speed / max(speed, float(np.abs(step).max()))
        move = np.array([*step, min(1.0, max(-1.0, turn / unit_turn))]) + noise
        return np.asarray(np.clip([*move, -1.0 if close else 1.0], -1.0, 1.0), dtype=np.float32)

    def _goal(self, raw: Observation) -> tuple[Array, float, bool]:
        """Where the tip should be (3,), how far the hand should turn, and whether it should be closed."""
        tip, cube, opening = raw["tool_pose"][:3], raw[self._cube], SPAN_M * float(raw["gripper"][0])
        edge = 2.0 * self._tray.half
        around = math.dist(cube[:2], tip[:2]) < 0.02 and abs(cube[2] - tip[2]) < 0.02
        if around and opening < edge + 0.006:
            return self._carry(tip)
        if self._tray.holds(cube):
            up = 0.03 if opening > min(edge + 0.02, 0.95 * SPAN_M) else 0.0
            return tip + np.array([0.0, 0.0, up]), 0.0, False
        return self._approach(cube, raw["tool_pose"], opening)

    def _approach(self, cube: Array, hand: Array, opening: float) -> tuple[Array, float, bool]:
        """Down a funnel that ends at the grasp; close there, and go on closing even if the cube gives way a little."""
        grasp = cube[:3] + self._grasp
        if self._person is not None:
            grasp[:2] += self._person.aim[:2]
        turn = wrapped(nearest_face(cube, self._yaw) - yaw_of(hand[3:]))
        slack = min(0.008, 0.4 * (0.5 * SPAN_M - self._tray.half))  # of what there is between fingers and cube
        above = 2.0 * max(0.0, math.dist(grasp[:2], hand[:2]) - slack) + 0.15 * max(0.0, abs(turn) - 0.1)
        distance = math.dist(grasp, hand[:3])
        goal = grasp + np.array([0.0, 0.0, min(self._hover, above)])
        closing = distance < 0.018 and opening < 0.95 * SPAN_M
        return goal, turn, closing or (distance < 0.008 and not self._hesitates("grasp"))

    def _hesitates(self, where: str) -> bool:
        """True for the first few steps in which the fingers could close, or open."""
        self._pauses[where] -= 1
        return self._pauses[where] >= 0

    def _carry(self, tip: Array) -> tuple[Array, float, bool]:
        """Up, across when the cube is clear of the walls or still beside them, down, open."""
        tray, half = self._tray, self._tray.half
        release = tray.rim + 0.012 + float(self._grasp[2])
        there = tray.place[:2] + self._drop
        if self._person is not None:
            there = there + self._person.aim[2:]
        across = there - tip[:2]
        if math.hypot(*across.tolist()) < _OVER_M:
            ready = tip[2] <= release + 0.008
            return np.array([*there, release]), 0.0, not ready or self._hesitates("release")
        height = max(tray.rim, 2.0 * half) + half + 0.5 * self._hover
        outside = float(np.abs(tip[:2] - tray.place[:2]).max()) > tray.inner + 1.5 * half
        part = 1.0 if tip[2] > height - 0.02 else min(1.0, max(0.0, (tip[2] - half - 0.012) / 0.04)) * outside
        return np.array([*(tip[:2] + part * across), height]), 0.0, True
