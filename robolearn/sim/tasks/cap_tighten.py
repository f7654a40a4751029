"""Tighten a cap with a key: find the slot on its top, engage, and turn it clockwise until it is tight.

Frames: the base frame of the robot; the tip frame (origin at the middle of the key's end, z out of the hand, x along
the blade); the bottle frame (z down, its axis); the cap's frame (origin at the middle of the cap's top, z down, x along
the slot). Angles about a z that points down grow clockwise as seen from above, which tightens the cap: it turns from a
random angle to its stop, and a thread of ``PITCH_M`` makes it advance with the angle. The estimate is the cap's frame
as it was at the start, displaced horizontally and turned by constants of the episode.

The policy acts in the tip frame: a displacement of the tip, a tilt relative to upright (zero: upright), and a turn
about the key's axis that adds up over the steps. The driver keeps the commanded orientation at most 0.1 rad ahead of
the measured one. With the soft wrist (docs/adr/0006) that bounds the torque to 0.4 N m, so the stop is never overrun,
and the speed to some 10 degrees per second, which is why no more than 60 degrees are to go.

Success: the cap is within ``tolerance_deg`` of its stop, and the key is still in the slot. A tight cap without the key
in it is no success: nobody but the key should have turned it, and a failed reset must not earn a reward.

The informed expert searches for the slot by feel, knowing the estimate and no more than a policy observes: what it
shows can be learned. Only the weak one sees the slot.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from robolearn.core.errors import ConfigError
from robolearn.core.protocols import Robot
from robolearn.core.spec import Array, ArraySpec, Observation
from robolearn.core.symmetry import SignedPermutation, Symmetry
from robolearn.core.types import Judgement, Skill, TaskSpec
from robolearn.hal.limits import SafetyLimits
from robolearn.sim import held, insertion, rotation
from robolearn.sim.held import NOISE, TIP_M, HeldTool
from robolearn.sim.insertion import relative
from robolearn.sim.scene import Body, Contact, Geom, Scene, Screw

BLADE_HALF_M, BLADE_LENGTH_M = (0.009, 0.002), 0.012
"""Half-length and half-thickness of the key's blade along x and y of the tip, and how far it stands out."""
SLOT_DEPTH_M = 0.006
CAP_RADIUS_M, CAP_HEIGHT_M = 0.02, 0.016
BOTTLE_RADIUS_M, BOTTLE_HEIGHT_M = 0.028, 0.06
PITCH_M = 0.003
STOP_RAD = math.radians(90.0)
"""Angle of the tight cap."""
TORQUE_NM = 0.03
"""Friction of the thread."""
PLACE_M = (0.5, 0.0, 0.08)
"""Nominal middle of the cap's top, at angle 0, in the base frame."""
TURN_DOWN = np.array([0.0, 1.0, 0.0, 0.0])
"""Orientation of a frame of angle 0 whose z points down: half a turn about x."""
MAX_MISFIT_DEG = 15.0
"""Largest angle between blade and slot of an engaged key; the slot lets it turn by some 6 degrees."""
FRAME = 25
"""Numbers in one frame of the policy's state: position in tip axes 3, tilt 2, angle to the estimated slot and angle to
the tight pose 2, twist 6, wrench 6, previous action 6."""
TURNING = 0.9
"""Turn per step of the scripted experts while the key is in the slot; the soft wrist follows no faster."""
PLAY_DEG = 3.0
"""A key that is wrong by less than this still drops into the slot."""
KEPT_RAD = math.radians(8.0)
"""A key turned by more than this from the estimate has turned the cap."""
AIM = 1.35
"""Standard deviation, per horizontal axis, of where the weak expert takes the slot to be, as a share of the clearance
and for every 100 steps of an episode: people look more closely where the fit is tighter, and less so where there is
time to try again."""
IMAGES = held.IMAGES


@dataclass(frozen=True)
class Config:
    """Difficulty and interface of the task.

    Attributes:
        error_mm: the estimate is wrong by a uniform draw from +-this, per horizontal axis.
        error_yaw_deg: the same about the vertical.
        clearance_mm: gap between blade and slot on each side.
        steps: robot steps a learner is given on this tier.
        max_steps: step limit of an episode (0.1 s each).
        range_mm: cap and start are uniform in +-this, per horizontal axis.
        tight_deg: least and largest angle of the tight slot in the base frame, clockwise from its x axis.
        to_go_deg: least and largest angle by which the cap has to be turned.
        start_yaw_deg: angle of the blade at the start, relative to the estimated slot, uniform in +-this.
        start_height_mm: least and largest start of the tip above the cap.
        tolerance_deg: how far from its stop the cap counts as tight.
        friction: sliding friction of key and cap.
        history: ages, in steps, of the frames in the policy's observation; 0 is now.
        translation_mm: displacement of the tip commanded by a unit action, along x, y, z of the tip.
        tilt_deg: tilt commanded by a unit action, about x and y of the tip.
        turn_deg: turn about the key's axis commanded by a unit action, in one step.
    """

    error_mm: float = 2.0
    error_yaw_deg: float = 3.0
    clearance_mm: float = 0.8
    steps: int = 12_000
    max_steps: int = 140
    range_mm: float = 30.0
    tight_deg: tuple[float, float] = (0.0, 45.0)
    to_go_deg: tuple[float, float] = (30.0, 60.0)
    start_yaw_deg: float = 5.0
    start_height_mm: tuple[float, float] = (12.0, 35.0)
    tolerance_deg: float = 3.0
    friction: float = 0.3
    history: tuple[int, ...] = (0, 1, 3)
    translation_mm: tuple[float, float, float] = (8.0, 8.0, 8.0)
    tilt_deg: float = 0.3
    turn_deg: float = 1.0

    def __post_init__(self) -> None:
        low, high = self.to_go_deg
        if not 0.0 < low <= high <= math.degrees(STOP_RAD):
            raise ValueError(f"to_go_deg: expected 0 < least <= largest <= 90, got {self.to_go_deg}")


TIERS: dict[str, Config] = {
    "smoke": Config(
        error_mm=1.8, error_yaw_deg=0.0, clearance_mm=1.0, steps=5_000, max_steps=120, to_go_deg=(30.0, 45.0)
    ),
    "default": Config(),
    "hard": Config(error_mm=3.0, error_yaw_deg=5.0, clearance_mm=0.6, steps=15_000, max_steps=300),
}


def scene(config: Config) -> Scene:
    """A bottle with a cap on its thread, and the key in the hand."""
    (half_x, half_y), half_z = BLADE_HALF_M, BLADE_LENGTH_M / 2
    dark, steel = (0.2, 0.22, 0.25, 1.0), (0.72, 0.74, 0.78, 1.0)
    key = (
        Geom("box", (0.012, 0.008, 0.03), (0.0, 0.0, TIP_M - BLADE_LENGTH_M - 0.03), dark),
        Geom("box", (half_x, half_y, half_z), (0.0, 0.0, TIP_M - half_z), steel),
    )
    half = BOTTLE_HEIGHT_M / 2
    glass = Geom(
        "cylinder", (BOTTLE_RADIUS_M, half, 0.0), (0.0, 0.0, CAP_HEIGHT_M + 0.004 + half), (0.2, 0.5, 0.4, 1.0)
    )
    return Scene(
        placed=(Body("bottle", (glass,)),),
        tool=Body("key", key),
        tool_mass=0.05,
        tip=(0.0, 0.0, TIP_M),
        focus=PLACE_M,
        contact=Contact(friction=config.friction),
        screws=(
            Screw(
                "cap", _cap(1e-3 * config.clearance_mm), base="bottle", pitch=PITCH_M, low=0.0, high=STOP_RAD,
                friction=TORQUE_NM, mass=0.05,
            ),
        ),
        grip=Contact(friction=config.friction, solref=(0.02, 1.0), solimp=(0.95, 0.99, 0.001)),
    )  # fmt: skip


def _cap(gap: float) -> tuple[Geom, ...]:
    """Four boxes around the slot, its floor, and a rim that is only seen; cap frame, z down."""
    (x, y), deep, wall = (half + gap for half in BLADE_HALF_M), SLOT_DEPTH_M / 2, CAP_RADIUS_M
    red, light, low = (0.75, 0.2, 0.16, 1.0), (0.85, 0.32, 0.25, 1.0), (CAP_HEIGHT_M - SLOT_DEPTH_M) / 2
    side, end = (0.85 * wall - y) / 2, (wall - x) / 2
    return (
        Geom("box", (x, side, deep), (0.0, y + side, deep), red),
        Geom("box", (x, side, deep), (0.0, -y - side, deep), red),
        Geom("box", (end, 0.6 * wall, deep), (x + end, 0.0, deep), light),
        Geom("box", (end, 0.6 * wall, deep), (-x - end, 0.0, deep), light),
        Geom("cylinder", (wall, low, 0.0), (0.0, 0.0, SLOT_DEPTH_M + low), (0.25, 0.08, 0.07, 1.0)),
    )


def limits(config: Config) -> SafetyLimits:
    """What the safety layer allows: a box around the cap and the starts that ends at the bottom of the slot, and a
    contact force far above what the task needs."""
    x, y, z = PLACE_M
    reach = 1e-3 * config.range_mm + 0.05
    return SafetyLimits(
        low=(x - reach, y - reach, z + TIP_M - SLOT_DEPTH_M - PITCH_M - 0.003),
        high=(x + reach, y + reach, z + TIP_M + 1e-3 * config.start_height_mm[1] + 0.05),
        translation=1.001e-3 * math.hypot(*config.translation_mm),
        rotation=1.001 * insertion.MAX_TURN,
        tilt=0.3,
        force=60.0,
    )


def build(config: Config, *, obs: Literal["state", "pixels"] = "state") -> CapTighten:
    """The task; ``pixels`` adds the wrist and side images and leaves the history out of the state."""
    return CapTighten(config, obs)


class Turning:
    """Six numbers in [-1, 1] for a displacement of the tip, a tilt relative to upright and a turn that adds up.

    Args:
        translation_mm, tilt_deg, turn_deg: see ``Config``.
    """

    def __init__(self, translation_mm: tuple[float, float, float], tilt_deg: float, turn_deg: float) -> None:
        self.translation = 1e-3 * np.array(translation_mm)
        self.tilt, self.turn = math.radians(tilt_deg), math.radians(turn_deg)

    def command(self, action: Array, aligned: Array, reference: Array) -> Array:
        """(7,) robot action, as in ``insertion.Aligned``; it is upright that counts, not ``aligned``."""
        action = np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0)
        yaw = _yaw(reference) + self.turn * float(action[5])
        tilt = np.array([*(self.tilt * action[3:5]), 0.0])
        wanted = rotation.multiply(_down(yaw), rotation.from_rotvec(tilt))
        turn = rotation.to_rotvec(rotation.multiply(rotation.conjugate(reference), wanted))
        turn *= min(1.0, insertion.MAX_TURN / max(math.sqrt(float(turn @ turn)), 1e-9))
        return np.concatenate([action[:3] * self.translation, turn, [0.0]])

    def normalise(self, robot_action: Array, aligned: Array, reference: Array) -> Array:
        """(6,) normalised action of an executed (7,) robot action; exact where ``command`` did not limit."""
        executed = np.asarray(robot_action, dtype=np.float64)
        reached = rotation.multiply(reference, rotation.from_rotvec(executed[3:6]))
        yaw = _yaw(reached)
        tilt = rotation.to_rotvec(rotation.multiply(rotation.conjugate(_down(yaw)), reached))[:2] / self.tilt
        turned = math.remainder(yaw - _yaw(reference), 2 * math.pi) / self.turn
        both = np.concatenate([executed[:3] / self.translation, tilt, [turned]])
        return np.asarray(np.clip(both, -1.0, 1.0), dtype=np.float32)


class CapTighten(HeldTool):
    """One cap after another; holds the truth, the estimate and the policy's history of the present one."""

    def __init__(self, config: Config, obs: Literal["state", "pixels"]) -> None:
        self.config = config
        self._turning = Turning(config.translation_mm, config.tilt_deg, config.turn_deg)
        aim = AIM * 1e-3 * config.clearance_mm * config.max_steps / 100
        super().__init__(config.history, obs, self._turning, np.array([*PLACE_M, *TURN_DOWN]), aim)
        frames = len(self._ages)
        seen = held.observation_specs(FRAME * frames, "scaled pose, angles, twist, wrench, last action", self._images)
        action = ArraySpec("action", (6,), "float32", "tip displacement, tilt, turn about the key's axis", -1, 1)
        self.spec = TaskSpec(
            "cap_tighten", seen, action, config.max_steps, held.CONTROL_HZ,
            symmetries=() if self._images else _symmetries(frames),
            skills=(Skill.INFORMED, Skill.BLIND, Skill.WEAK),
        )  # fmt: skip
        self._bottle = self._estimate
        self._to_go = 0.0
        self._askew, self._far = 0.0, False  # angle to the estimate [rad] at which the informed expert searches

    def reset(self, robot: Robot, rng: np.random.Generator) -> None:
        """Draw cap, angle to go, the estimate's error and the start, all independent, and bring the robot there.

        The start is drawn around the nominal place and the error is added to the estimate, so that nothing the policy
        sees at the start depends on the error.

        Raises:
            ConfigError: the robot is not simulated; no other shows the angle of the cap.
        """
        if not getattr(robot, "places_bodies", True):
            raise ConfigError(f"cap_tighten needs a simulated robot: {robot.spec.name} does not show the cap's angle")
        config = self.config
        spread, (low, high) = 1e-3 * config.range_mm, config.start_height_mm
        place = np.array([*rng.uniform(-spread, spread, 2), 0.0])
        tight, to_go = math.radians(rng.uniform(*config.tight_deg)), math.radians(rng.uniform(*config.to_go_deg))
        error = np.array([*(1e-3 * config.error_mm * rng.uniform(-1, 1, 2)), 0.0])
        error_yaw = math.radians(config.error_yaw_deg) * rng.uniform(-1, 1)
        start = np.array([*rng.uniform(-spread, spread, 2), 1e-3 * rng.uniform(low, high)])
        turned = math.radians(config.start_yaw_deg) * rng.uniform(-1, 1)
        slot = tight - to_go
        estimate = np.concatenate([place + PLACE_M, _down(slot)])
        estimate[2] -= _advance(STOP_RAD - to_go)
        tip = np.concatenate([start + PLACE_M, _down(slot + turned)])
        self.place(robot, estimate, error, error_yaw, to_go, tip)

    def place(self, robot: Robot, estimate: Array, error: Array, error_yaw: float, to_go: float, tip: Array) -> None:
        """Start a given episode.

        Args:
            estimate: (7,) pose of the estimated frame of the cap.
            error: (3,) displacement of the true one, in the estimate's axes [m].
            error_yaw: turn of the true one about the estimate's z [rad].
            to_go: angle by which the cap has to be turned [rad].
            tip: (7,) pose of the key's tip.
        """
        angle = STOP_RAD - to_go
        self._estimate, self._to_go = estimate, to_go
        self._askew, self._far = math.radians(max(0.0, self.config.error_yaw_deg - PLAY_DEG)), False
        cap = insertion.displaced(estimate, error, error_yaw)
        self._bottle = insertion.displaced(cap, np.array([0.0, 0.0, -_advance(angle)]), -angle)
        self._begin(robot, tip, {"bottle": self._bottle, "cap": np.array([angle])})

    def judge(self, before: Observation, action: Array, after: Observation) -> Judgement:
        """Success when the cap is tight and the key is still in its slot."""
        angle = float(after["joint/cap"][0])
        position, turn = relative(after["tool_pose"], self._cap(angle))
        depth, away = 1e3 * position[2], float(1e3 * np.abs(position[:2]).max())
        misfit, tilt = math.degrees(abs(_misfit(turn))), insertion.tilt_deg(turn)
        left, config = math.degrees(STOP_RAD - angle), self.config
        deep = 0.5e3 * SLOT_DEPTH_M <= depth <= 1e3 * SLOT_DEPTH_M + held.MAX_PENETRATION_MM
        fits = away <= config.clearance_mm + 1.0 and tilt <= held.MAX_TILT_DEG and misfit <= MAX_MISFIT_DEG
        success = bool(deep and fits and abs(left) <= config.tolerance_deg)
        peak = float(after["peak_force"][0])
        info = {"depth_mm": float(depth), "radial_mm": away, "left_deg": left, "peak_force_n": peak}
        return held.judged(success, info)

    def expert(self, raw: Observation, rng: np.random.Generator, *, skill: Skill) -> Array:
        """Scripted action: over the slot, align, go down, and turn while pressing lightly; a key that came out is put
        in again. Blind: where the estimate says the slot was; informed: the same, and what is wrong about it is found
        by feel; weak: where this person sees the slot now."""
        goal = self._cap(float(raw["joint/cap"][0])) if skill is Skill.WEAK else self._estimate
        position, turn = relative(raw["tool_pose"], goal)
        misfit, engaged = _misfit(turn), position[2] > 0.6 * SLOT_DEPTH_M
        aligned, pace, noise = rotation.from_rotvec(np.array([0.0, 0.0, misfit])), 1.0, rng.normal(0.0, NOISE, 6)
        if skill is Skill.WEAK:
            person = self._somebody(rng)
            step, pace, noise = insertion.as_a_person(position, aligned, person), person.pace, person.tremor
        elif skill is Skill.BLIND:
            step = insertion.approach(position, aligned)
        else:
            step = self._search(position, aligned, raw)
            kept = abs(misfit) > KEPT_RAD  # what is turned farther has been in the slot, which is there now
            misfit = 0.0 if kept else misfit - self._askew
        if engaged:
            aside = -0.5 * position[:2] if skill is Skill.WEAK else np.zeros(2)
            step = rotation.matrix(rotation.conjugate(turn)) @ [*aside, 0.0015]
        move = step / self._turning.translation
        move /= max(1.0, float(np.abs(move).max()))
        yaw = TURNING if engaged else pace * float(np.clip(-0.7 * misfit / self._turning.turn, -1.0, 1.0))
        return np.asarray(np.clip(np.concatenate([move, [0.0, 0.0, yaw]]) + noise, -1.0, 1.0), dtype=np.float32)

    def _search(self, position: Array, turn: Array, raw: Observation) -> Array:
        """A spiral that covers the error of the estimate; where the slot's angle is uncertain too, one with the key
        turned a little to one side, the next to the other."""
        config, speed = self.config, float(np.linalg.norm(raw["tool_twist"][:3]))
        growth, reach = 1.2e-3 * config.clearance_mm, 1e-3 * (math.sqrt(2.0) * config.error_mm + 0.5)
        far = math.hypot(*position[:2]) > reach
        if far and not self._far and position[2] > -0.0015:
            self._askew = -self._askew
        self._far = far
        return insertion.search(position, turn, speed, growth_m=growth, reach_m=reach)

    def _cap(self, angle: float) -> Array:
        """(7,) frame of the cap at an angle of its thread [rad]."""
        return insertion.displaced(self._bottle, np.array([0.0, 0.0, _advance(angle)]), angle)

    def _frame(self, raw: Observation, previous: Array) -> Array:
        pose = raw["tool_pose"]
        yaw = _yaw(pose[3:])
        upright = _down(yaw)
        tilt = rotation.to_rotvec(rotation.multiply(rotation.conjugate(upright), pose[3:]))[:2]
        position = rotation.matrix(upright).T @ (pose[:3] - self._estimate[:3])
        turned = math.remainder(yaw - _yaw(self._estimate[3:]), 2.0 * math.pi)
        angles = np.array([turned, self._to_go - turned])
        return np.concatenate(
            [
                np.arcsinh(position / insertion.POSITION_M),
                tilt / insertion.ROTATION_RAD,
                np.arcsinh(angles / insertion.ROTATION_RAD),
                *insertion.felt(raw),
                previous,
            ]
        )


def _symmetries(frames: int) -> tuple[Symmetry, ...]:
    """Half a turn about the key's axis: blade and slot look the same, and what is seen is given in tip axes."""
    half = SignedPermutation((0, 1, 2), (-1, -1, 1))
    frame = SignedPermutation.joined(
        half, SignedPermutation((0, 1), (-1, -1)), SignedPermutation.identity(2), *[half] * 6
    )
    return (Symmetry({"state": SignedPermutation.joined(*[frame] * frames)}, SignedPermutation.joined(half, half)),)


def _advance(angle: float) -> float:
    """How far the thread carries the cap down [m] at an angle [rad]."""
    return PITCH_M * angle / (2 * math.pi)


def _down(angle: float) -> Array:
    """(4,) orientation of a frame whose z points down, turned clockwise by ``angle`` [rad] as seen from above."""
    return rotation.multiply(TURN_DOWN, rotation.about_z(angle))


def _yaw(turn: Array) -> float:
    """Angle [rad] within half a turn of the orientation ``_down`` that is nearest to ``turn`` (4,)."""
    inside = rotation.multiply(rotation.conjugate(TURN_DOWN), turn)
    return math.remainder(2.0 * math.atan2(float(inside[3]), float(inside[0])), 2.0 * math.pi)


def _misfit(turn: Array) -> float:
    """Angle about z [rad] from the slot to the blade, whose two ends are alike, within half a turn: -pi/2 to pi/2."""
    return math.remainder(2.0 * math.atan2(float(turn[3]), float(turn[0])), math.pi)
