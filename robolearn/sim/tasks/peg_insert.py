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
from robolearn.core.spec import Array, ArraySpec, Observation
from robolearn.core.symmetry import SignedPermutation, Symmetry
from robolearn.core.types import Judgement, Kind, TaskSpec
from robolearn.hal.limits import SafetyLimits
from robolearn.sim import rotation
from robolearn.sim.scene import Body, Contact, Geom, Scene

CONTROL_HZ = 10.0
PEG_HALF_M, PEG_HALF_LENGTH_M = 0.008, 0.05
TIP_M = 0.07
"""Distance of the tip from the TCP along the hand's z."""
SOCKET_DEPTH_M = 0.04
WALL_M = 0.035
OPENING_M = (0.5, 0.0, 0.05)
"""Nominal middle of the opening in the base frame."""
TURN_DOWN = np.array([0.0, 1.0, 0.0, 0.0])
"""Orientation of a hole frame of yaw 0: half a turn about x."""
MAX_TURN = 0.06
"""Largest turn commanded in a step [rad]; slow enough that the arm follows and the driver has nothing to limit."""
MAX_PENETRATION_MM = 1.0
MAX_TILT_DEG = 8.0
NOISE = 0.05
"""Standard deviation of the scripted experts' action noise."""


@dataclass(frozen=True)
class Config:
    """Difficulty and interface of the task.

    Attributes:
        error_mm: the estimate is wrong by a uniform draw from +-this, per horizontal axis.
        error_yaw_deg: the same about the vertical.
        clearance_mm: gap between peg and socket on each side.
        steps: robot steps a learner is given on this tier.
        max_steps: step limit of an episode (0.1 s each).
        range_mm: hole and start are uniform in +-this, per horizontal axis.
        hole_yaw_deg: the hole's estimated yaw is uniform in +-this.
        start_yaw_deg: the peg's yaw at the start, relative to the estimate, is uniform in +-this.
        start_height_mm: lowest and highest start of the tip above the opening.
        friction: sliding friction of peg and socket.
        success_depth_mm: least depth of the tip that counts as inserted.
        history: ages, in steps, of the frames in the policy's observation; 0 is now.
        translation_mm: displacement of the tip commanded by a unit action, along x, y, z of the tip.
        rotation_deg: orientation relative to the estimate commanded by a unit action, about x, y, z of the tip.
        socket: where the socket stands in a real cell: middle of the opening x, y, z [m] in the base frame, and yaw
            [deg]. The hole stays there, the estimate is wrong by the drawn error, and starts are drawn around the
            estimate. Without it hole and start are drawn, and the robot has to place the socket.
    """

    error_mm: float = 3.0
    error_yaw_deg: float = 2.0
    clearance_mm: float = 1.0
    steps: int = 15_000
    max_steps: int = 100
    range_mm: float = 30.0
    hole_yaw_deg: float = 20.0
    start_yaw_deg: float = 5.0
    start_height_mm: tuple[float, float] = (15.0, 45.0)
    friction: float = 0.3
    success_depth_mm: float = 36.0
    history: tuple[int, ...] = (0, 1, 3)
    translation_mm: tuple[float, float, float] = (8.0, 8.0, 8.0)
    rotation_deg: tuple[float, float, float] = (0.3, 0.3, 6.0)
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

FRAME = 24
"""Numbers in one frame of the policy's state: position 3, rotation 3, twist 6, wrench 6, previous action 6."""
_POSITION_M, _ROTATION_RAD = 0.003, 0.05
_TWIST = np.array([0.03, 0.03, 0.03, 0.3, 0.3, 0.3])
_WRENCH = np.array([4.0, 4.0, 4.0, 0.04, 0.04, 0.04])
IMAGES = ("wrist", "side")


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
        rotation=1.001 * MAX_TURN,
        tilt=0.3,
        force=60.0,
    )


def build(config: Config, *, obs: Literal["state", "pixels"] = "state") -> PegInsert:
    """The task; ``pixels`` adds the wrist and side images and leaves the history out of the state."""
    return PegInsert(config, obs)


class PegInsert:
    """One peg insertion after another; holds the truth, the estimate and the policy's history of the present one."""

    def __init__(self, config: Config, obs: Literal["state", "pixels"]) -> None:
        if not config.history or config.history[0] != 0 or list(config.history) != sorted(set(config.history)):
            raise ConfigError(f"history: expected rising ages starting with 0, got {config.history}")
        self.config = config
        self._images = IMAGES if obs == "pixels" else ()
        self._ages = config.history if obs == "state" else (0,)
        specs = [ArraySpec("state", (FRAME * len(self._ages),), "float32", "scaled pose, twist, wrench, last action")]
        specs += [ArraySpec(name, (128, 128, 3), "uint8", "rgb") for name in self._images]
        action = ArraySpec("action", (6,), "float32", "tip displacement, orientation relative to the estimate", -1, 1)
        self.spec = TaskSpec(
            "peg_insert", {s.name: s for s in specs}, action, config.max_steps, CONTROL_HZ,
            symmetries=() if self._images else _symmetries(len(self._ages)),
        )  # fmt: skip
        self._translation = 1e-3 * np.array(config.translation_mm)
        self._rotation = np.deg2rad(config.rotation_deg)
        self._hole = self._estimate = np.array([*OPENING_M, *TURN_DOWN])
        self._reference = TURN_DOWN
        self._frames: list[Array] = []

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

    def place(self, robot: Robot, estimate: Array, error: Array, error_yaw: float, tip: Array) -> None:
        """Start a given episode.

        Args:
            estimate: (7,) pose of the estimated hole.
            error: (3,) displacement of the true hole, in the estimate's axes [m].
            error_yaw: turn of the true hole about the estimate's z [rad].
            tip: (7,) pose of the peg's tip.
        """
        self._estimate = estimate
        turn = rotation.matrix(estimate[3:])
        hole_turn = rotation.multiply(estimate[3:], rotation.about_z(error_yaw))
        self._hole = np.concatenate([estimate[:3] + turn @ error, hole_turn])
        self._frames = []
        tcp = tip.copy()
        tcp[:3] -= TIP_M * rotation.matrix(tip[3:])[:, 2]
        robot.reset(tcp, {"socket": self._hole} if getattr(robot, "places_bodies", True) else {})

    def observe(self, raw: Observation) -> dict[str, Array]:
        """Policy observation. Once per control step: it remembers frames and the reference ``command`` starts from."""
        frame = self._frame(raw)
        self._reference = raw["tool_reference"]
        longest = self._ages[-1] + 1
        self._frames = [frame, *self._frames[: longest - 1]]
        while len(self._frames) < longest:
            self._frames.append(frame)
        state = np.concatenate([self._frames[age] for age in self._ages]).astype(np.float32)
        return {"state": state} | {name: raw[f"camera/{name}"] for name in self._images}

    def command(self, action: Array) -> Array:
        """(7,) robot action of a normalised (6,) action; turns are limited to what the robot takes in one step."""
        action = np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0)
        wanted = rotation.multiply(self._estimate[3:], rotation.from_rotvec(action[3:] * self._rotation))
        turn = rotation.to_rotvec(rotation.multiply(rotation.conjugate(self._reference), wanted))
        turn *= min(1.0, MAX_TURN / max(math.sqrt(float(turn @ turn)), 1e-9))
        return np.concatenate([action[:3] * self._translation, turn, [0.0]])

    def normalise(self, robot_action: Array) -> Array:
        """(6,) normalised action of an executed (7,) robot action; exact where ``command`` did not limit."""
        executed = np.asarray(robot_action, dtype=np.float64)
        reached = rotation.multiply(self._reference, rotation.from_rotvec(executed[3:6]))
        offset = rotation.to_rotvec(rotation.multiply(rotation.conjugate(self._estimate[3:]), reached))
        both = np.concatenate([executed[:3] / self._translation, offset / self._rotation])
        return np.asarray(np.clip(both, -1.0, 1.0), dtype=np.float32)

    def judge(self, before: Observation, action: Array, after: Observation) -> Judgement:
        """Success when the tip itself is in the hole: deep enough but not through its floor, centred, upright."""
        position, turn = _relative(after["tool_pose"], self._hole)
        depth, radial = 1e3 * position[2], 1e3 * max(abs(position[0]), abs(position[1]))
        tilt = math.degrees(math.acos(min(1.0, max(-1.0, rotation.matrix(turn)[2, 2]))))
        config = self.config
        deep = config.success_depth_mm <= depth <= 1e3 * SOCKET_DEPTH_M + MAX_PENETRATION_MM
        success = bool(deep and radial <= config.clearance_mm + 1.0 and tilt <= MAX_TILT_DEG)
        peak = float(after["peak_force"][0])
        info = {"depth_mm": float(depth), "radial_mm": float(radial), "tilt_deg": tilt, "peak_force_n": peak}
        return Judgement(float(success), Kind.TERMINATED if success else Kind.MID, success, info)

    def expert(self, raw: Observation, rng: np.random.Generator, *, informed: bool) -> Array:
        """Scripted action: over the hole (informed: the true one, else the estimate), straighten, go down gently."""
        goal = self._hole if informed else self._estimate
        position, turn = _relative(raw["tool_pose"], goal)
        x, y, z = position.tolist()
        aligned = math.hypot(x, y) < 0.0006 and float(np.abs(rotation.to_rotvec(turn)).max()) < 0.02
        if z > 0.002 or (aligned and z > -0.008):
            down = 0.0045
        else:
            down = -0.006 - z + (0.004 if aligned else 0.0)
        step = rotation.matrix(rotation.conjugate(turn)) @ [-1.6 * x, -1.6 * y, down]
        offset = rotation.to_rotvec(rotation.multiply(rotation.conjugate(self._estimate[3:]), goal[3:]))
        move = step / self._translation
        move /= max(1.0, float(np.abs(move).max()))
        action = np.concatenate([move, offset / self._rotation]) + rng.normal(0.0, NOISE, 6)
        return np.asarray(np.clip(action, -1.0, 1.0), dtype=np.float32)

    def _frame(self, raw: Observation) -> Array:
        position, turn = _relative(raw["tool_pose"], self._estimate)
        previous = self.normalise(raw["action"]) if self._frames else np.zeros(6)
        return np.concatenate(
            [
                np.arcsinh(position / _POSITION_M),
                rotation.to_rotvec(turn) / _ROTATION_RAD,
                raw["tool_twist"] / _TWIST,
                raw["wrench"] / _WRENCH,
                previous,
            ]
        )


def _symmetries(frames: int) -> tuple[Symmetry, ...]:
    """Quarter turns about z: peg, socket and errors of the estimate are square, and the controller hides the arm.

    Every frame holds vectors in axes that turn along. Mirror images would be as true; why they
    are left out, and how little that has been tested, is in docs/adr/0009.
    """
    quarter, found = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]]), []
    for turns in (1, 2, 3):
        vector = SignedPermutation.of_matrix(np.linalg.matrix_power(quarter, turns))
        state = SignedPermutation.joined(*[vector] * (FRAME // 3 * frames))
        found.append(Symmetry({"state": state}, SignedPermutation.joined(vector, vector)))
    return tuple(found)


def _pose(position: Array, yaw: float) -> Array:
    """(7,) pose of a frame whose z points down."""
    return np.concatenate([position, rotation.multiply(rotation.about_z(yaw), TURN_DOWN)])


def _relative(pose: Array, frame: Array) -> tuple[Array, Array]:
    """Position (3,) and quaternion (4,) of ``pose`` in ``frame`` (both (7,) in the base frame)."""
    position = rotation.matrix(frame[3:]).T @ (pose[:3] - frame[:3])
    return position, rotation.multiply(rotation.conjugate(frame[3:]), pose[3:])
