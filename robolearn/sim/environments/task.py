"""The task that an environment sets: its observation, its reward, its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from robolearn.core.errors import ConfigError
from robolearn.core.protocols import Robot
from robolearn.core.spec import Array, ArraySpec, Observation
from robolearn.core.types import Judgement, Kind, Skill, TaskSpec
from robolearn.sim.environments.backend import describe, play
from robolearn.sim.environments.config import World
from robolearn.sim.environments.importing import load_callable, told

WEAK_NOISE, WEAK_SLIP = 0.3, 0.1
"""The weak expert is the given one with this normal noise on its normalised action, and this often a random action."""
_STILL = 1e-6
"""Elements that vary less than this are left as they are."""


class EnvironmentTask:
    """Judges by what the environment says; holds only what adds up over an episode.

    Attributes:
        ends_for_good: an environment that has ended cannot be stepped further, whatever a reward thinks of it.

    Raises:
        ConfigError: the environment cannot be used.
    """

    ends_for_good = True

    def __init__(self, world: World, obs: str = "state") -> None:
        self.world, self.found = world, describe(world)
        config, channels = world.config, self.found.layout.channels
        if obs == "pixels" and not any(channel.image for channel in channels):
            raise ConfigError(f"{world.name} shows no images; leave out --obs pixels")
        self._low, self._high = np.array(self.found.low), np.array(self.found.high)
        self._middle, self._half = (self._low + self._high) / 2, (self._high - self._low) / 2
        self.spec = TaskSpec(
            world.name,
            {channel.key: channel.spec for channel in channels},
            ArraySpec("action", self._low.shape, "float32", "environment's action, scaled to its bounds", -1, 1),
            self.found.max_steps,
            self.found.control_hz,
            skills=(Skill.INFORMED, Skill.WEAK) if config.expert else (),
        )
        self._expert = load_callable("--expert", config.expert) if config.expert else None
        self._steps, self._return, self._solved = 0, 0.0, False

    def reset(self, robot: Robot, rng: np.random.Generator) -> None:
        """A new episode, of a seed drawn from ``rng``."""
        self._steps, self._return, self._solved = 0, 0.0, False
        restart = getattr(self._expert, "reset", None)
        if callable(restart):
            restart()
        robot.reset(np.zeros(0), {"seed": np.array([float(rng.integers(2**31))])})

    def observe(self, raw: Observation) -> dict[str, Array]:
        """What the environment shows, in its units; vectors flat and float32, images (H, W, 3)."""
        return {channel.key: channel.for_policy(raw[channel.key]) for channel in self.found.layout.channels}

    def command(self, action: Array) -> Array:
        """(A,) action in the environment's units: -1 and 1 are its bounds."""
        return np.asarray(self._middle + np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0) * self._half)

    def normalise(self, robot_action: Array) -> Array:
        """Inverse of ``command``; 0 where the bounds leave no choice."""
        offset = np.asarray(robot_action, dtype=np.float64) - self._middle
        scaled = np.divide(offset, self._half, out=np.zeros_like(offset), where=self._half > 0)
        return np.asarray(np.clip(scaled, -1.0, 1.0), dtype=np.float32)

    def judge(self, before: Observation, action: Array, after: Observation) -> Judgement:
        """The environment's own reward and end; success as ``success_key`` says."""
        reward, terminated, truncated = (float(after[f"env/{n}"][0]) for n in ("reward", "terminated", "truncated"))
        self._steps += 1
        self._return += reward
        kind = Kind.TERMINATED if terminated else Kind.TRUNCATED if truncated else Kind.MID
        last = kind.is_last or self._steps >= self.spec.max_steps
        now = self._success(reward, bool(terminated), float(after["env/success"][0]), last=last)
        self._solved = now or (self._solved and self.world.config.success_at == "any")
        return Judgement(reward, kind, self._solved, {"return": self._return})

    def expert(self, raw: Observation, rng: np.random.Generator, *, skill: Skill) -> Array:
        """Normalised action of the user's expert; the weak one is that with noise and slips.

        Raises:
            ConfigError: there is none, it failed, or what it answered is no action.
        """
        if self._expert is None or skill not in self.spec.skills:
            have = ", ".join(self.spec.skills) or "none; --expert MODULE:CALLABLE gives one"
            raise ConfigError(f"{self.world.name} has no {skill} expert (have: {have})")
        action = self.normalise(_answer(self._expert, self.world, self.found.layout.join(raw), self.found.shape))
        if skill is Skill.WEAK:
            noise, slip = rng.normal(0.0, WEAK_NOISE, action.shape), rng.uniform(-1.0, 1.0, action.shape)
            action = slip if rng.random() < WEAK_SLIP else action + noise
        return np.asarray(np.clip(action, -1.0, 1.0), dtype=np.float32)

    def statistics(self) -> dict[str, tuple[Array, Array]]:
        """Mean and deviation to standardise vectors by where no demonstrations say better.

        Bounded elements by their bounds, the others by random play (``play``).
        """
        played = play(self.world)
        found = {}
        for channel in self.found.layout.channels:
            if channel.image:
                continue
            size = (channel.spec.size,)
            low, high = (np.broadcast_to(np.asarray(b, np.float64), size) for b in (channel.low, channel.high))
            bounded = np.isfinite(low) & np.isfinite(high)
            low, high = np.where(bounded, low, 0.0), np.where(bounded, high, 0.0)
            mean, std = played[channel.key]
            mean = np.where(bounded, (low + high) / 2, mean)
            std = np.where(bounded, (high - low) / 2, std)
            std = np.where(std > _STILL, std, 1.0)
            found[channel.key] = (mean.astype(np.float32), std.astype(np.float32))
        return found

    def _success(self, reward: float, terminated: bool, told_so: float, *, last: bool) -> bool:
        if told_so >= 0:
            return told_so > 0
        rule = self.found.fallback if self.found.rule.kind == "auto" else self.found.rule
        if rule.kind == "terminated":
            return terminated and (not rule.key or reward > 0)
        if rule.kind == "reward":
            return reward > rule.threshold
        return rule.kind == "return" and last and self._return > rule.threshold


def _answer(expert: Callable[..., Any], world: World, observation: Any, shape: tuple[int, ...]) -> Array:
    """(A,) flat action of an expert in the environment's units."""
    where = f"--expert {world.config.expert}"
    try:
        action = np.asarray(expert(observation), dtype=np.float64)
    except Exception as error:
        raise ConfigError(f"{where} failed: {told(error)}") from error
    if action.shape != shape:
        raise ConfigError(f"{where}: expected an action of shape {shape}, got {action.shape}")
    if not np.isfinite(action).all():
        raise ConfigError(f"{where}: expected finite numbers, got {' '.join(str(action).split())}")
    return action.reshape(-1)


def check(world: World) -> None:
    """Refuse what cannot work before a run begins; raises like ``EnvironmentTask``."""
    EnvironmentTask(world)


def remarks(world: World) -> list[str]:
    """What a user should know before a run."""
    return list(describe(world).remarks)
