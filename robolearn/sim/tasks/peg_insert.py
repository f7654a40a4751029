"""Insert a square peg into a socket whose position is known only by a wrong estimate.

Frames: the base frame of the robot; the tip frame (origin at the middle of the peg's end face, z out of the hand);
the hole frame (origin at the middle of the opening, z into the hole); the estimate, a hole frame displaced by a
constant of the episode. An aligned, fully inserted peg has its tip at (0, 0, depth) in the hole frame.

The policy acts in the end-effector frame: a displacement of the tip in tip axes, and an orientation given relative to
the estimate's (zero: aligned with the estimate), so that neither rotation noise nor a human's released key wanders.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
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

PEG_HALF_M, PEG_HALF_LENGTH_M = 0.008, 0.05
SOCKET_DEPTH_M = 0.04
WALL_M = 0.035
OPENING_M = (0.5, 0.0, 0.05)
"""Nominal middle of the opening in the base frame."""
TURN_DOWN = np.array([0.0, 1.0, 0.0, 0.0])
"""Orientation of a hole frame of yaw 0: half a turn about x."""
AIM = 1.4
"""Standard deviation, per horizontal axis, of where the weak expert takes the hole to be, as a share of the clearance:
people look more closely where the fit is tighter."""

QUARTERS = (1, 2, 3)
"""Quarter turns about z after which everything looks the same: peg, socket and errors of the estimate are square, and
the controller hides the arm. Mirror images would be as true; why they are left out, and how little that has been
tested, is in docs/adr/0009."""


@dataclass(frozen=True)
class Config(SocketConfig):
    """Difficulty and interface of the task: what every task with a socket is told, and

    Attributes:
        error_yaw_deg: as ``error_mm``, about the vertical.
        hole_yaw_deg: the hole's estimated yaw is uniform in +-this.
        start_yaw_deg: the peg's yaw at the start, relative to the estimate, is uniform in +-this.
        start_height_mm: lowest and highest start of the tip above the opening.
        success_depth_mm: least depth of the tip that counts as inserted.
        socket: where the socket stands in a real cell: middle of the opening x, y, z [m] in the base frame, and yaw
            [deg]. The hole stays there, the estimate is wrong by the drawn error, and starts are drawn around the
            estimate. Without it hole and start are drawn, and the robot has to place the socket.
    """

    error_yaw_deg: float = 2.0
    hole_yaw_deg: float = 20.0
    start_yaw_deg: float = 5.0
    start_height_mm: tuple[float, float] = (15.0, 45.0)
    success_depth_mm: float = 36.0
    socket: tuple[float, ...] | None = None

    @property
    def opening(self) -> tuple[float, float, float]:
        """Middle of the opening that starts and limits are about, in the base frame [m]."""
        x, y, z = OPENING_M if self.socket is None else self.socket[:3]
        return x, y, z

    def __post_init__(self) -> None:
        if self.socket is not None and (len(self.socket) != 4 or not all(map(math.isfinite, self.socket))):
            raise ValueError(f"socket: expected x, y, z [m] and yaw [deg], got {self.socket}")


TIERS: dict[str, Config] = {
    "smoke": Config(error_mm=2.0, error_yaw_deg=0.0, clearance_mm=1.0, steps=4_000),
    "default": Config(),
    "hard": Config(error_mm=4.0, error_yaw_deg=4.0, clearance_mm=0.5, steps=30_000),
}
IMAGES = held.IMAGES


def scene(config: Config) -> Scene:
    """Socket of four boxes on a floor, and the peg in the hand."""
    half, wall, deep = PEG_HALF_M + 1e-3 * config.clearance_mm, WALL_M, SOCKET_DEPTH_M / 2
    blue, light = (0.16, 0.32, 0.55, 1.0), (0.2, 0.38, 0.62, 1.0)
    walls = tuple(
        Geom("box", size, (x, y, deep), rgba)  # hole frame: z points into the socket
        for size, x, y, rgba in (
            ((wall / 2, half + wall, deep), half + wall / 2, 0.0, blue),
            ((wall / 2, half + wall, deep), -half - wall / 2, 0.0, blue),
            ((half, wall / 2, deep), 0.0, half + wall / 2, light),
            ((half, wall / 2, deep), 0.0, -half - wall / 2, light),
        )
    )
    floor = Geom("box", (half + wall, half + wall, 0.005), (0.0, 0.0, SOCKET_DEPTH_M + 0.005), (0.1, 0.1, 0.12, 1.0))
    peg = Geom("box", (PEG_HALF_M, PEG_HALF_M, PEG_HALF_LENGTH_M), (0.0, 0.0, TIP_M - PEG_HALF_LENGTH_M))
    return Scene(
        placed=(Body("socket", (*walls, floor)),),
        tool=Body("peg", (replace(peg, rgba=(0.9, 0.55, 0.15, 1.0)),)),
        tool_mass=0.05,
        tip=(0.0, 0.0, TIP_M),
        focus=config.opening,
        contact=Contact(friction=config.friction),
    )


def limits(config: Config) -> SafetyLimits:
    """What the safety layer allows: a box around socket and starts that ends above the table, and a contact force far
    above what the task needs (8 N of static pressing, some 15 N on impact at full speed)."""
    x, y, z = config.opening
    reach = 1e-3 * config.range_mm + 0.05
    highest = z + TIP_M + 1e-3 * config.start_height_mm[1] + 0.05
    return SafetyLimits(
        low=(x - reach, y - reach, z + TIP_M - SOCKET_DEPTH_M - 0.002),
        high=(x + reach, y + reach, highest),
        translation=1.001e-3 * math.hypot(*config.translation_mm),
        rotation=1.001 * insertion.MAX_TURN,
        tilt=0.3,
        force=60.0,
    )


def build(config: Config, *, obs: Literal["state", "pixels"] = "state") -> PegInsert:
    """The task; ``pixels`` adds the wrist and side images and leaves the history out of the state."""
    return PegInsert(config, obs)


class PegInsert(IntoSocket):
    """One peg insertion after another."""

    def __init__(self, config: Config, obs: Literal["state", "pixels"]) -> None:
        self.config = config
        super().__init__(
            "peg_insert", config, obs,
            estimate=np.array([*OPENING_M, *TURN_DOWN]), aim_m=AIM * 1e-3 * config.clearance_mm, quarters=QUARTERS,
        )  # fmt: skip

    def reset(self, robot: Robot, rng: np.random.Generator) -> None:
        """Draw estimate, its error, and the start, all independent, and bring the robot there.

        The start is drawn around the nominal opening and the error is added to the estimate, so that nothing the
        policy sees at the start depends on the error. With a fixed socket the error moves the estimate instead, and
        the start with it, for the same reason.

        Raises:
            ConfigError: the robot cannot place the socket, and where it stands is not configured.
        """
        if not getattr(robot, "places_bodies", True) and self.config.socket is None:
            raise ConfigError(
                f"{robot.spec.name} cannot place the socket; say where it stands: --env.socket X Y Z YAW (middle of "
                "the opening in the base frame [m], yaw [deg])"
            )
        config = self.config
        spread, (low, high) = 1e-3 * config.range_mm, config.start_height_mm
        centre = np.array(config.opening)
        opening = centre + np.array([*rng.uniform(-spread, spread, 2), 0.0])
        yaw = math.radians(config.hole_yaw_deg) * rng.uniform(-1, 1)
        error = np.array([*(1e-3 * config.error_mm * rng.uniform(-1, 1, 2)), 0.0])
        error_yaw = math.radians(config.error_yaw_deg) * rng.uniform(-1, 1)
        start = centre + np.array([*rng.uniform(-spread, spread, 2), 1e-3 * rng.uniform(low, high)])
        turned = math.radians(config.start_yaw_deg) * rng.uniform(-1, 1)
        if config.socket is not None:
            yaw = (
                math.radians(config.socket[3]) + error_yaw
            )  # the error turns about the estimate's z, which points down
            moved = rotation.matrix(_pose(centre, yaw)[3:]) @ error
            opening, start = centre - moved, start - moved
        self.place(robot, _pose(opening, yaw), error, error_yaw, _pose(start, yaw + turned))

    def judge(self, before: Observation, action: Array, after: Observation) -> Judgement:
        """Success when the tip itself is in the hole: deep enough but not through its floor, centred, upright."""
        position, turn = relative(after["tool_pose"], self._hole)
        depth, radial = 1e3 * position[2], 1e3 * max(abs(position[0]), abs(position[1]))
        tilt = insertion.tilt_deg(turn)
        config = self.config
        deep = config.success_depth_mm <= depth <= 1e3 * SOCKET_DEPTH_M + held.MAX_PENETRATION_MM
        success = bool(deep and radial <= config.clearance_mm + 1.0 and tilt <= held.MAX_TILT_DEG)
        peak = float(after["peak_force"][0])
        info = {"depth_mm": float(depth), "radial_mm": float(radial), "tilt_deg": tilt, "peak_force_n": peak}
        return held.judged(success, info)

    def expert(self, raw: Observation, rng: np.random.Generator, *, skill: Skill) -> Array:
        """Scripted action: over the hole (informed: the true one, blind: the estimate), straighten, go down gently.

        The weak one is a person who misjudges the hole by a millimetre or so, and slides to where they see it next.
        """
        goal = self._estimate if skill is Skill.BLIND else self._hole
        position, turn = relative(raw["tool_pose"], goal)
        if skill is not Skill.WEAK:
            step, noise = insertion.approach(position, turn), rng.normal(0.0, NOISE, 6)
        else:
            person = self._somebody(rng)
            step, noise = insertion.as_a_person(position, turn, person), person.tremor
        return self._aligned.scripted(step, self._estimate[3:], goal[3:], noise)


def _pose(position: Array, yaw: float) -> Array:
    """(7,) pose of a frame whose z points down."""
    return np.concatenate([position, rotation.multiply(rotation.about_z(yaw), TURN_DOWN)])
