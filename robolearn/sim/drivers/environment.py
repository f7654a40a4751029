"""An environment of another project in the place of a robot; it cannot hurt anybody."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from robolearn.core.clock import Clock, MonotonicClock
from robolearn.core.errors import (
    ConfigError,
    MissingDependencyError,
    RobolearnError,
    RobotStoppedError,
    SpecError,
    StaleEpochError,
)
from robolearn.core.spec import Array, ArraySpec
from robolearn.core.types import Command, RobotSpec
from robolearn.sim.environments.backend import Outcome, describe, open_backend
from robolearn.sim.environments.channels import FLAGS
from robolearn.sim.environments.config import World
from robolearn.sim.environments.importing import told

SIMULATED = True
"""Nothing and nobody can be hurt."""


@dataclass(frozen=True)
class Config:
    """An environment has nothing to configure beside its task."""


def build(
    config: Config,
    *,
    scene: World,
    cameras: tuple[str, ...] = (),
    realtime: bool = False,
    clock: Clock | None = None,
) -> EnvironmentRobot:
    """Open the environment that the task names; it brings its own cameras.

    Raises:
        ConfigError: the task is none of an environment, or the environment cannot be made.
    """
    if not isinstance(scene, World):
        raise ConfigError("the robot 'environment' is for the tasks gym:ENV_ID and dm:DOMAIN/TASK; name an arm instead")
    return EnvironmentRobot(scene, realtime=realtime, clock=clock or MonotonicClock())


class EnvironmentRobot:
    """Steps the environment, and says clearly what is wrong when it does not do what its spaces promise.

    Attributes:
        harmless: nothing and nobody can be hurt, so that bounds on the action are guard enough.
    """

    harmless = True

    def __init__(self, world: World, *, realtime: bool, clock: Clock) -> None:
        self.world, self._found = world, describe(world)
        self._env = open_backend(world)
        found, flags = self._found, [ArraySpec(key, (1,), "float64", "of the last action") for key in FLAGS]
        specs = [channel.raw for channel in found.layout.channels]
        action = ArraySpec("action", (len(found.low),), "float64", "environment's units", found.low, found.high)
        self.spec = RobotSpec("environment", {s.name: s for s in [*specs, *flags]}, action, found.control_hz)
        self._realtime, self._clock = realtime, clock
        self._period_ns, self._deadline_ns = int(1e9 / found.control_hz), clock.now_ns()
        self._epoch, self._stopped, self._over = -1, "", True
        self._raw: dict[str, Array] = {}

    @property
    def render(self) -> Callable[..., Array] | None:
        """(height, width, 3) uint8 picture from (width, height), where the environment draws any."""
        return self._render if self._env.renders else None

    def observe(self) -> dict[str, Array]:
        """What the environment showed last, unchanged, and the flags of the last action."""
        if not self._raw:
            self.reset(np.zeros(0), {})
        return dict(self._raw)

    def apply(self, command: Command) -> Array:
        """Repeat the action as configured, up to the end of the episode; return it.

        Raises:
            SpecError: the action is not finite or out of bounds.
            StaleEpochError: the command's epoch is older than one already seen.
            RobotStoppedError: a stop is latched, the episode is over, or the environment failed.
        """
        self.take(command.epoch)
        self._refuse_if_stopped()
        action = np.array(self.spec.action.validate(command.action), dtype=np.float64)
        if self._over:
            raise RobotStoppedError(f"{self.world.name}: the episode is over; it has to be reset first")
        reward, success = 0.0, -1.0
        with self._watched("step"):
            for _ in range(self.world.config.action_repeat):
                outcome = self._env.step(action)
                reward += outcome.reward
                success = max(success, self._success(outcome))
                if outcome.terminated or outcome.truncated:
                    break
            self._keep(outcome, reward, success)
        self._pace()
        return action

    def take(self, epoch: int) -> None:
        """Be driven under the lease of this epoch; raises StaleEpochError for an older one."""
        if epoch < self._epoch:
            raise StaleEpochError(f"epoch {epoch} is too old: epoch {self._epoch} holds the robot now")
        self._epoch = epoch

    def reset(self, tcp_pose: Array, scene: Mapping[str, Array]) -> None:
        """Begin an episode.

        Args:
            tcp_pose: of no meaning here.
            scene: ``seed`` -> (1,) whole number below 2**31; 0 without it.

        Raises:
            RobotStoppedError: a stop is latched, or the environment failed.
        """
        self._refuse_if_stopped()
        seed = int(scene["seed"][0]) if "seed" in scene else 0
        with self._watched("reset"):
            outcome = self._env.reset(seed)
            self._keep(outcome, 0.0, -1.0)
        self._over = False
        self._deadline_ns = self._clock.now_ns()

    def stop(self, reason: str) -> None:
        """Stop and latch; idempotent, the first reason stays."""
        self._stopped = self._stopped or reason or "stopped"

    def clear(self) -> None:
        """Clear a latched stop; the episode is lost."""
        self._stopped, self._over = "", True

    def close(self) -> None:
        """Close the environment; idempotent."""
        self._env.close()

    def _success(self, outcome: Outcome) -> float:
        """1, 0, or -1 where the environment says nothing."""
        for key in self._found.rule.keys:
            if key in outcome.info:
                return float(np.asarray(outcome.info[key]).any())
        return -1.0

    def _keep(self, outcome: Outcome, reward: float, success: float) -> None:
        """Remember what a policy may see and a task judges by."""
        raw = self._found.layout.split(outcome.observation)
        if not np.isfinite(reward):
            raise SpecError(f"the reward is not finite: {reward}")
        flags = (reward, float(outcome.terminated), float(outcome.truncated), success)
        self._raw = raw | {key: np.array([value]) for key, value in zip(FLAGS, flags, strict=True)}
        self._over = outcome.terminated or outcome.truncated

    @contextmanager
    def _watched(self, what: str) -> Iterator[None]:
        """Turn whatever goes wrong in the environment into one line that names it."""
        try:
            yield
        except SpecError as error:
            raise RobotStoppedError(f"{self.world.name}: in {what}, {error}") from error
        except RobolearnError:
            raise
        except Exception as error:
            raise RobotStoppedError(f"{self.world.name}: {what} failed: {told(error)}") from error

    def _render(self, width: int = 640, height: int = 480, camera: str = "") -> Array:
        """A picture of this size: the environment's own, scaled to fit, on black."""
        self.observe()  # something has to have begun
        try:
            picture: Any = self._env.render(width, height)
        except Exception as error:
            raise MissingDependencyError(f"{self.world.name} cannot draw: {told(error)}") from error
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            shape = f"{picture.dtype} {picture.shape}"
            raise MissingDependencyError(f"{self.world.name} cannot draw: expected uint8 (H, W, 3), got {shape}")
        return picture if picture.shape[:2] == (height, width) else _fitted(picture, width, height)

    def _refuse_if_stopped(self) -> None:
        if self._stopped:
            raise RobotStoppedError(f"the robot is stopped ({self._stopped}); a person has to clear it")

    def _pace(self) -> None:
        """In real time: return at the absolute deadline of this control period."""
        if not self._realtime:
            return
        now = self._clock.now_ns()
        self._deadline_ns += self._period_ns
        if now > self._deadline_ns + self._period_ns:  # do not race to make up for a long pause
            self._deadline_ns = now
        self._clock.sleep_until_ns(self._deadline_ns)


def _fitted(picture: Array, width: int, height: int) -> Array:
    from PIL import Image

    scale = min(width / picture.shape[1], height / picture.shape[0])
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    canvas = Image.new("RGB", (width, height))
    canvas.paste(Image.fromarray(picture).resize(size), ((width - size[0]) // 2, (height - size[1]) // 2))
    return np.asarray(canvas)
