"""Plug a charger with two prongs into a socket in a wall; where the socket is, is known only by a wrong estimate.

Frames as in ``peg_insert``: the base frame of the robot; the tip frame (origin between the ends of the prongs, z out of
the hand, y from one prong to the other); the hole frame (origin on the face of the wall between the slots, z into the
wall, y from one slot to the other, x up); the estimate, a hole frame displaced within the wall's plane and rolled about
its normal by constants of the episode. A charger that is plugged in has its tip at (0, 0, depth) in the hole frame, and
its body stops at the wall at a depth of the prongs' length.

The policy acts in the tip frame: a displacement of the tip, and an orientation relative to the estimate's. Both prongs
have to find their slots, so position and roll count; a prong carries its load within 3 mm of its middle, so the torque
that tells where the rim is is at most a third of what a square peg of 16 mm gives.

Demonstrations: behind a desk nobody sees the socket, so the informed expert finds it as people do: it presses lightly
where it believes the socket to be and slides along a spiral, one way round or the other, until the prongs drop in. It
uses nothing that a policy does not see, so that searching can be cloned; the blind expert only pushes. An expert who
goes straight to a socket that it alone sees would teach a clone nothing about the error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from robolearn.core.errors import ConfigError
from robolearn.core.protocols import Robot
from robolearn.core.spec import Array, Observation
from robolearn.core.types import Judgement, Skill
from robolearn.hal.limits import SafetyLimits
from robolearn.sim import held, insertion, rotation
from robolearn.sim.held import NOISE, TIP_M, IntoSocket, SocketConfig
from robolearn.sim.insertion import relative
from robolearn.sim.scene import Body, Contact, Geom, Scene

PRONG_HALF_M, PRONG_LENGTH_M = (0.003, 0.002), 0.019
"""Half-widths of a prong along x and y of the tip, and its length (19 mm, as on a Europlug, IEC 60083 C5)."""
PRONG_Y_M = 0.0095
"""Distance of each prong from the middle (19 mm between prongs, as above)."""
SLOT_DEPTH_M = 0.022
WALL_M = 0.06
"""Half-width of the wall."""
OPENING_M = (0.56, 0.0, 0.12)
"""Nominal middle of the socket in the base frame."""
TURN_AHEAD = np.array([0.0, math.sqrt(0.5), 0.0, math.sqrt(0.5)])
"""Orientation of a hole frame in a wall that faces the arm: z along the base frame's x, x up."""
AIM_M = 0.00175
"""Standard deviation, per axis of the wall's plane, of where the weak expert takes the socket to be."""


@dataclass(frozen=True)
class Config(SocketConfig):
    """Difficulty and interface of the task: what every task with a socket is told, and

    Attributes:
        error_roll_deg: as ``error_mm``, about the wall's normal.
        distance_mm: the socket is nearer or farther by a uniform draw from +-this.
        wall_yaw_deg: the wall is turned about the vertical by a uniform draw from +-this.
        roll_deg: the socket is turned in the wall by a uniform draw from +-this.
        start_roll_deg: roll at the start, relative to the estimate, uniform in +-this.
        start_mm: least and largest distance of the tip from the wall at the start.
        success_depth_mm: least depth of both prongs that counts as plugged in.
        socket: where the socket is in a real cell: its middle x, y, z [m] in the base frame, the yaw of the wall about
            the vertical (0: it faces along -x) and the roll of the socket in it [deg]. As in ``peg_insert``, the
            estimate and the start are then drawn around it.
    """

    max_steps: int = 120
    error_roll_deg: float = 2.0
    distance_mm: float = 10.0
    wall_yaw_deg: float = 10.0
    roll_deg: float = 8.0
    start_roll_deg: float = 5.0
    start_mm: tuple[float, float] = (12.0, 35.0)
    success_depth_mm: float = 16.0
    socket: tuple[float, ...] | None = None

    @property
    def opening(self) -> tuple[float, float, float]:
        """Middle of the socket that starts and limits are about, in the base frame [m]."""
        x, y, z = OPENING_M if self.socket is None else self.socket[:3]
        return x, y, z

    def __post_init__(self) -> None:
        if self.socket is not None and (len(self.socket) != 5 or not all(map(math.isfinite, self.socket))):
            raise ValueError(f"socket: expected x, y, z [m], yaw and roll [deg], got {self.socket}")


TIERS: dict[str, Config] = {
    "smoke": Config(error_mm=2.0, error_roll_deg=0.0, steps=6_000),
    "default": Config(),
    "hard": Config(error_mm=4.0, error_roll_deg=2.0, clearance_mm=0.8, steps=20_000, max_steps=200),
}
IMAGES = held.IMAGES


def scene(config: Config) -> Scene:
    """A wall with two slots, and the charger in the hand."""
    x, y, z = config.opening
    return Scene(
        placed=(Body("socket", (*_face(1e-3 * config.clearance_mm), *_back())),),
        tool=Body("charger", _charger()),
        tool_mass=0.05,
        tip=(0.0, 0.0, TIP_M),
        focus=(x - 0.04, y, z),
        contact=Contact(friction=config.friction),
    )


def _face(gap: float) -> tuple[Geom, ...]:
    """Five boxes that leave two slots, which look dark; hole frame, z into the wall."""
    (half_x, half_y), deep = (half + gap for half in PRONG_HALF_M), SLOT_DEPTH_M / 2
    inner, outer = PRONG_Y_M - half_y, PRONG_Y_M + half_y
    white, light = (0.86, 0.87, 0.88, 1.0), (0.78, 0.8, 0.83, 1.0)
    beyond, beside = (WALL_M - half_x) / 2, (WALL_M - outer) / 2
    return (
        Geom("box", (beyond, WALL_M, deep), (half_x + beyond, 0.0, deep), white),
        Geom("box", (beyond, WALL_M, deep), (-half_x - beyond, 0.0, deep), white),
        Geom("box", (half_x, inner, deep), (0.0, 0.0, deep), light),
        Geom("box", (half_x, beside, deep), (0.0, outer + beside, deep), light),
        Geom("box", (half_x, beside, deep), (0.0, -outer - beside, deep), light),
        *(
            Geom("box", (half_x, half_y, 0.0005), (0.0, y, 0.0015), (0.05, 0.05, 0.06, 1.0), collides=False)
            for y in (PRONG_Y_M, -PRONG_Y_M)
        ),
    )


def _back() -> tuple[Geom, ...]:
    return (Geom("box", (WALL_M, WALL_M, 0.005), (0.0, 0.0, SLOT_DEPTH_M + 0.005), (0.1, 0.1, 0.12, 1.0)),)


def _charger() -> tuple[Geom, ...]:
    """A handle between the fingers, a wider body in front of it, and two prongs; TCP frame."""
    face = TIP_M - PRONG_LENGTH_M
    orange, dark, metal = (0.9, 0.55, 0.15, 1.0), (0.2, 0.22, 0.25, 1.0), (0.75, 0.7, 0.5, 1.0)
    (half_x, half_y), half_z = PRONG_HALF_M, PRONG_LENGTH_M / 2
    return (
        Geom("box", (0.012, 0.0165, 0.0175), (0.0, 0.0, face - 0.0175), orange),
        Geom("box", (0.01, 0.008, 0.02), (0.0, 0.0, face - 0.035 - 0.02), dark),
        Geom("box", (half_x, half_y, half_z), (0.0, PRONG_Y_M, face + half_z), metal),
        Geom("box", (half_x, half_y, half_z), (0.0, -PRONG_Y_M, face + half_z), metal),
    )


def limits(config: Config) -> SafetyLimits:
    """What the safety layer allows: a box around socket and starts that ends a little behind the face of the wall, and
    a contact force far above what the task needs. The tool points ahead, so there is no limit of tilt."""
    yaw, swing = (0.0, config.wall_yaw_deg) if config.socket is None else (config.socket[3], 0.0)
    near = TIP_M + 1e-3 * (config.distance_mm + config.start_mm[1]) + 0.03
    far = 1e-3 * config.distance_mm + PRONG_LENGTH_M + 0.01 - TIP_M
    aside = 1e-3 * config.range_mm + 0.03
    corners = [
        insertion.displaced(_wall(config.opening, math.radians(turned)), np.array([x, y, z]), 0.0)[:3]
        for turned in (yaw - swing, yaw, yaw + swing)
        for x in (-aside, aside)
        for y in (-aside, aside)
        for z in (-near, far)
    ]
    low, high = np.min(corners, axis=0).tolist(), np.max(corners, axis=0).tolist()
    return SafetyLimits(
        low=(low[0], low[1], low[2]),
        high=(high[0], high[1], high[2]),
        translation=1.001e-3 * math.hypot(*config.translation_mm),
        rotation=1.001 * insertion.MAX_TURN,
        force=60.0,
    )


def build(config: Config, *, obs: Literal["state", "pixels"] = "state") -> Charger:
    """The task; ``pixels`` adds the wrist and side images and leaves the history out of the state."""
    return Charger(config, obs)


class Charger(IntoSocket):
    """One plugging-in after another."""

    def __init__(self, config: Config, obs: Literal["state", "pixels"]) -> None:
        self.config = config
        estimate = np.array([*OPENING_M, *TURN_AHEAD])
        super().__init__("charger", config, obs, estimate=estimate, aim_m=AIM_M, quarters=(2,))
        self._way = 0.0  # round which the informed expert searches, 0 before it begins

    def reset(self, robot: Robot, rng: np.random.Generator) -> None:
        """Draw estimate, its error, and the start, all independent, and bring the robot there.

        Nothing the policy sees at the start depends on the error: the start is drawn around the nominal socket and the
        error is added to the estimate. With a fixed socket the error moves the estimate instead, and the start with it.

        Raises:
            ConfigError: the robot cannot place the socket, and where it is is not configured.
        """
        config = self.config
        if not getattr(robot, "places_bodies", True) and config.socket is None:
            raise ConfigError(
                f"{robot.spec.name} cannot place the socket; say where it is: --env.socket X Y Z YAW ROLL (its middle "
                "in the base frame [m], yaw of the wall and roll of the socket in it [deg])"
            )
        spread, far, (low, high) = 1e-3 * config.range_mm, 1e-3 * config.distance_mm, config.start_mm
        yaw, roll = np.radians([config.wall_yaw_deg, config.roll_deg]) * rng.uniform(-1, 1, 2)
        centre = np.array([*rng.uniform(-spread, spread, 2), far * rng.uniform(-1, 1)])
        error = np.array([*(1e-3 * config.error_mm * rng.uniform(-1, 1, 2)), 0.0])
        error_roll = math.radians(config.error_roll_deg) * rng.uniform(-1, 1)
        start = np.array([*rng.uniform(-spread, spread, 2), centre[2] - 1e-3 * rng.uniform(low, high)])
        rolled = math.radians(config.start_roll_deg) * rng.uniform(-1, 1)
        if config.socket is None:
            nominal = _wall(OPENING_M, yaw)
            estimate = insertion.displaced(nominal, centre, roll)
            tip = insertion.displaced(nominal, start, roll + rolled)
        else:
            yaw, roll = np.radians(config.socket[3:])
            hole = insertion.displaced(_wall(config.opening, yaw), np.zeros(3), roll - error_roll)
            estimate = insertion.displaced(hole, -error, 0.0)
            tip = insertion.displaced(estimate, start - [0.0, 0.0, centre[2]], rolled)
        self.place(robot, estimate, error, error_roll, tip)

    def place(self, robot: Robot, estimate: Array, error: Array, error_turn: float, tip: Array) -> None:
        """Start a given episode, in which nobody has searched yet."""
        self._way = 0.0
        super().place(robot, estimate, error, error_turn, tip)

    def judge(self, before: Observation, action: Array, after: Observation) -> Judgement:
        """Success when the end of each prong is in a slot of its own: deep enough, not through, centred, straight.

        A charger turned by 180 degrees is plugged in as well.
        """
        position, turn = relative(after["tool_pose"], self._hole)
        matrix, tilt = rotation.matrix(turn), insertion.tilt_deg(turn)
        side = 1.0 if matrix[1, 1] >= 0 else -1.0
        ends = [position + matrix[:, 1] * offset for offset in (PRONG_Y_M, -PRONG_Y_M)]
        slots = [np.array([0.0, side * offset, 0.0]) for offset in (PRONG_Y_M, -PRONG_Y_M)]
        away = np.array([1e3 * (end - slot) for end, slot in zip(ends, slots, strict=True)])
        shallow, deepest, radial = away[:, 2].min(), away[:, 2].max(), float(np.abs(away[:, :2]).max())
        config = self.config
        deep = shallow >= config.success_depth_mm and deepest <= 1e3 * PRONG_LENGTH_M + held.MAX_PENETRATION_MM
        success = bool(deep and radial <= config.clearance_mm + 0.5 and tilt <= held.MAX_TILT_DEG)
        peak = float(after["peak_force"][0])
        info = {"depth_mm": float(shallow), "radial_mm": radial, "tilt_deg": tilt, "peak_force_n": peak}
        return held.judged(success, info)

    def expert(self, raw: Observation, rng: np.random.Generator, *, skill: Skill) -> Array:
        """Scripted action: to the estimate, straighten, and push (blind) or search by feel until the prongs drop in
        (informed); weak: to where this person sees the socket."""
        goal = self._hole if skill is Skill.WEAK else self._estimate
        position, turn = relative(raw["tool_pose"], goal)
        if skill is not Skill.WEAK:
            speed = float(np.linalg.norm(raw["tool_twist"][:3]))
            blind = skill is Skill.BLIND
            step = insertion.approach(position, turn) if blind else self._search(position, turn, speed, rng)
            noise = rng.normal(0.0, NOISE, 6)
        else:
            person = self._somebody(rng)
            step, noise = insertion.as_a_person(position, turn, person), person.tremor
        return self._aligned.scripted(step, self._estimate[3:], goal[3:], noise)

    def _search(self, position: Array, turn: Array, speed: float, rng: np.random.Generator) -> Array:
        """A spiral that covers the error of the estimate, one way round or the other as this person happens to go."""
        self._way = self._way or float(rng.choice([-1.0, 1.0]))
        config = self.config
        growth, reach = 1.2e-3 * config.clearance_mm, 1e-3 * (math.sqrt(2.0) * config.error_mm + 1.0)
        return insertion.search(position, turn, speed, growth_m=growth, reach_m=reach, way=self._way)


def _wall(middle: tuple[float, float, float], yaw: float) -> Array:
    """(7,) pose of a frame on a wall whose normal is horizontal; at yaw 0 [rad] the wall faces along -x."""
    return np.concatenate([middle, rotation.multiply(rotation.about_z(yaw), TURN_AHEAD)])
