"""What tasks share in which a held tool, known to be somewhere near an estimate, is pushed into an opening.

The tip frame is a distance ``TIP_M`` from the TCP along the hand's z. See ``insertion.py`` for the other frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from robolearn.core.protocols import Robot
from robolearn.core.spec import Array, ArraySpec, Observation
from robolearn.core.types import Judgement, Kind, Skill, TaskSpec
from robolearn.sim import insertion
from robolearn.sim.person import Person

CONTROL_HZ = 10.0
TIP_M = 0.07
"""Distance of the tip from the TCP along the hand's z."""
MAX_PENETRATION_MM = 1.0
MAX_TILT_DEG = 8.0
NOISE = 0.05
"""Standard deviation of the scripted experts' action noise."""
IMAGES = ("wrist", "side")


@dataclass(frozen=True)
class SocketConfig:
    """What tasks can be told that push a tool into a socket, see ``IntoSocket``.

    Attributes:
        error_mm: the estimate is wrong by a uniform draw from +-this, per axis across the opening.
        clearance_mm: gap between tool and socket on each side.
        steps: robot steps a learner is given on this tier.
        max_steps: step limit of an episode (0.1 s each).
        range_mm: socket and start are uniform in +-this, per axis across the opening.
        friction: sliding friction of tool and socket.
        history: ages, in steps, of the frames in the policy's observation; 0 is now.
        translation_mm: displacement of the tip commanded by a unit action, along x, y, z of the tip.
        rotation_deg: orientation relative to the estimate commanded by a unit action, about x, y, z of the tip.
    """

    error_mm: float = 3.0
    clearance_mm: float = 1.0
    steps: int = 15_000
    max_steps: int = 100
    range_mm: float = 30.0
    friction: float = 0.3
    history: tuple[int, ...] = (0, 1, 3)
    translation_mm: tuple[float, float, float] = (8.0, 8.0, 8.0)
    rotation_deg: tuple[float, float, float] = (0.3, 0.3, 6.0)


def observation_specs(numbers: int, meaning: str, images: Sequence[str]) -> dict[str, ArraySpec]:
    """Specs of a state of so many numbers and of images (128, 128, 3)."""
    state = ArraySpec("state", (numbers,), "float32", meaning)
    return {"state": state} | {name: ArraySpec(name, (128, 128, 3), "uint8", "rgb") for name in images}


def judged(success: bool, info: Mapping[str, float]) -> Judgement:
    """A sparse reward of 1 that ends the episode."""
    return Judgement(float(success), Kind.TERMINATED if success else Kind.MID, success, dict(info))


class Motion(Protocol):
    """What normalised actions mean, see ``insertion.Aligned``."""

    def command(self, action: Array, aligned: Array, reference: Array) -> Array: ...
    def normalise(self, robot_action: Array, aligned: Array, reference: Array) -> Array: ...


class HeldTool:
    """What the policy of such a task sees and does in the present episode, and the person who shows it.

    Args:
        history: ages, in steps, of the frames in the state; with ``pixels`` only the present one.
        obs: ``pixels`` adds the images.
        motion: what actions mean.
        estimate: (7,) pose of the estimate before the first episode.
        aim_m: standard deviation, per axis across the opening, of where an imperfect person takes it to be.
    """

    def __init__(
        self, history: Sequence[int], obs: Literal["state", "pixels"], motion: Motion, estimate: Array, aim_m: float
    ) -> None:
        insertion.check_ages(history)
        self._images = IMAGES if obs == "pixels" else ()
        self._ages = history if obs == "state" else (0,)
        self._motion, self._aim_m = motion, aim_m
        self._estimate, self._reference = estimate, estimate[3:]
        self._frames: list[Array] = []
        self._person: Person | None = None

    def observe(self, raw: Observation) -> dict[str, Array]:
        """Policy observation. Once per control step: it remembers frames and the reference ``command`` starts from."""
        previous = self.normalise(raw["action"]) if self._frames else np.zeros(6)
        self._reference = raw["tool_reference"]
        self._frames, state = insertion.remember(self._frames, self._frame(raw, previous), self._ages)
        return {"state": state} | {name: raw[f"camera/{name}"] for name in self._images}

    def command(self, action: Array) -> Array:
        """(7,) robot action of a normalised (6,) action; turns are limited to what the robot takes in one step."""
        return self._motion.command(action, self._estimate[3:], self._reference)

    def normalise(self, robot_action: Array) -> Array:
        """(6,) normalised action of an executed (7,) robot action; exact where ``command`` did not limit."""
        return self._motion.normalise(robot_action, self._estimate[3:], self._reference)

    def _frame(self, raw: Observation, previous: Array) -> Array:
        """One frame of the state; ``previous`` (6,) is the last action."""
        return insertion.frame(raw, self._estimate, previous)

    def _begin(self, robot: Robot, tip: Array, bodies: dict[str, Array]) -> None:
        """Forget the last episode, place the bodies where that is possible, and bring the tip to a pose (7,)."""
        self._frames, self._person = [], None
        tcp = insertion.displaced(tip, np.array([0.0, 0.0, -TIP_M]), 0.0)
        robot.reset(tcp, bodies if getattr(robot, "places_bodies", True) else {})

    def _somebody(self, rng: np.random.Generator) -> Person:
        """The imperfect person of this episode, one step later."""
        self._person = self._person or Person(rng, (self._aim_m, self._aim_m), 6)
        self._person.step(rng)
        return self._person


class IntoSocket(HeldTool):
    """A tool that is pushed into a socket by actions of ``insertion.Aligned``; holds the truth of the present episode.

    Args:
        name: of the task.
        config: of the task.
        obs: ``pixels`` adds the images.
        estimate: (7,) pose of the estimate before the first episode.
        aim_m: see ``HeldTool``.
        quarters: turns about the hole's z after which tool and socket look the same, see ``insertion.turned``.
    """

    def __init__(
        self,
        name: str,
        config: SocketConfig,
        obs: Literal["state", "pixels"],
        *,
        estimate: Array,
        aim_m: float,
        quarters: Sequence[int],
    ) -> None:
        self._aligned = insertion.Aligned(config.translation_mm, config.rotation_deg)
        super().__init__(config.history, obs, self._aligned, estimate, aim_m)
        frames = len(self._ages)
        seen = observation_specs(insertion.FRAME * frames, "scaled pose, twist, wrench, last action", self._images)
        action = ArraySpec("action", (6,), "float32", "tip displacement, orientation relative to the estimate", -1, 1)
        self.spec = TaskSpec(
            name, seen, action, config.max_steps, CONTROL_HZ,
            symmetries=() if self._images else insertion.turned(frames, quarters),
            skills=(Skill.INFORMED, Skill.BLIND, Skill.WEAK),
        )  # fmt: skip
        self._hole = estimate

    def place(self, robot: Robot, estimate: Array, error: Array, error_turn: float, tip: Array) -> None:
        """Start a given episode.

        Args:
            estimate: (7,) pose of the estimated hole.
            error: (3,) displacement of the true hole, in the estimate's axes [m].
            error_turn: turn of the true hole about the estimate's z [rad].
            tip: (7,) pose of the tool's tip.
        """
        self._estimate = estimate
        self._hole = insertion.displaced(estimate, error, error_turn)
        self._begin(robot, tip, {"socket": self._hole})
