"""What an environment looks like from here: described once, opened where episodes happen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from robolearn.core.errors import ConfigError, RobolearnError, SpecError
from robolearn.core.spec import Array
from robolearn.sim.environments.channels import Layout
from robolearn.sim.environments.config import SuccessRule, World, parse_success
from robolearn.sim.environments.importing import told

FALLBACK_STEPS = 1000
"""Step limit of an episode where neither environment nor user sets one."""
PLAY_STEPS = (1000, 100)
"""Environment steps of random play, without and with images to draw."""


@dataclass(frozen=True)
class Outcome:
    """What a reset or step gave; ``info`` is empty where there is none."""

    observation: Any
    reward: float
    terminated: bool
    truncated: bool
    info: Mapping[str, Any]


class Backend(Protocol):
    """An open environment.

    Attributes:
        layout: of its observations.
        low, high: (A,) finite bounds of the flattened action.
        step_hz: environment steps a second.
        step_limit: its own limit, in environment steps; 0 for none.
        renders: ``render`` gives pictures.
        fallback: success where nothing says otherwise.
    """

    layout: Layout
    low: Array
    high: Array
    step_hz: float
    step_limit: int
    renders: bool
    fallback: SuccessRule

    def reset(self, seed: int) -> Outcome:
        """A new episode, the same one for the same seed."""

    def step(self, action: Array) -> Outcome:
        """One environment step with a flat (A,) action in the environment's units."""

    def shaped(self, action: Array) -> Array:
        """A flat (A,) action as the environment takes it."""

    def render(self, width: int, height: int) -> Array:
        """(H, W, 3) uint8 picture, of this size where the environment lets one choose."""

    def close(self) -> None:
        """Free what it holds; idempotent."""


@dataclass(frozen=True)
class Description:
    """What is known of an environment without having it open.

    Attributes:
        layout: of its observations.
        low, high: (A,) bounds of the flattened action.
        shape: of the action as the environment takes it.
        control_hz: actions a second.
        max_steps: step limit of an episode, in actions.
        rule: what counts as success.
        fallback: what does where ``rule`` is ``auto`` and info says nothing.
        remarks: what a user should know before a run.
    """

    layout: Layout
    low: tuple[float, ...]
    high: tuple[float, ...]
    shape: tuple[int, ...]
    control_hz: float
    max_steps: int
    rule: SuccessRule
    fallback: SuccessRule
    remarks: tuple[str, ...]


def open_backend(world: World) -> Backend:
    """Make the environment.

    Raises:
        ConfigError: unknown id, wrong arguments, or spaces that policies cannot use.
        MissingDependencyError: a package it needs is absent.
    """
    if not world.config.id:
        raise ConfigError(f"say which environment, for example {_EXAMPLES[world.source]}")
    if world.source == "gym":
        from robolearn.sim.environments.gym_backend import GymBackend

        return GymBackend(world)
    from robolearn.sim.environments.dm_backend import DmBackend

    return DmBackend(world)


_EXAMPLES = {"gym": "gym:Pendulum-v1", "dm": "dm:reacher/easy or dm:manipulation/reach_site_features"}


@lru_cache(maxsize=16)
def describe(world: World) -> Description:
    """Open the environment, try a reset and a step, and close it.

    Raises:
        ConfigError: it cannot be made or does not do what its spaces say.
        MissingDependencyError: a package it needs is absent.
    """
    backend = open_backend(world)
    try:
        seen = _try(world, backend)
        limit = backend.step_limit // world.config.action_repeat
        own = max(limit, 1) if backend.step_limit else 0
        max_steps = world.config.max_steps or own or FALLBACK_STEPS
        remarks: list[str] = []
        if not world.config.max_steps and not own:
            remarks.append(f"{world.name} has no step limit; episodes end after {FALLBACK_STEPS} steps (--max-steps)")
        rule = parse_success(world.config.success_key)
        remarks.append(_on_success(world, rule, backend.fallback, seen))
        return Description(
            backend.layout,
            tuple(backend.low.tolist()),
            tuple(backend.high.tolist()),
            np.shape(backend.shaped(backend.low)),
            backend.step_hz / world.config.action_repeat,
            max_steps,
            rule,
            backend.fallback,
            tuple(remarks),
        )
    finally:
        backend.close()


def _try(world: World, backend: Backend) -> set[str]:
    """Keys of the first infos of an environment that does as it should."""
    try:
        first = backend.reset(0)
        backend.layout.split(first.observation)
        second = backend.step(0.5 * (backend.low + backend.high))
        backend.layout.split(second.observation)
    except SpecError as error:
        raise ConfigError(f"{world.name}: its first observations are not as its spaces say: {error}") from error
    except RobolearnError:
        raise
    except Exception as error:
        raise ConfigError(f"{world.name}: reset and one step failed: {told(error)}") from error
    return {str(key) for key in (*first.info, *second.info)}


def _on_success(world: World, rule: SuccessRule, fallback: SuccessRule, seen: set[str]) -> str:
    """What counts as success, for people."""
    when = "at any step" if world.config.success_at == "any" else "at the last step"
    own = next((key for key in rule.keys if key in seen), "")
    if own:
        return f"success: info['{own}'] {when}"
    if rule.kind == "info":
        have = ", ".join(sorted(seen)) or "nothing"
        return f"success: info['{rule.key}'] {when}, which the first step does not show (its info has: {have})"
    if rule.kind == "auto":
        return (
            f"{world.name} reports no success that is known here; counted instead: {_words(fallback)} {when} "
            "(--success-key KEY of info, terminated, 'reward>X' or 'return>X' says what you mean)"
        )
    return f"success: {_words(rule)}" + ("" if rule.kind == "return" else f" {when}")


def _words(rule: SuccessRule) -> str:
    if rule.kind == "terminated":
        return "terminated" + (" with a positive reward" if rule.key else "")
    return f"{rule.kind} above {rule.threshold:g}"


@lru_cache(maxsize=4)
def play(world: World) -> dict[str, tuple[Array, Array]]:
    """Mean and standard deviation of each vector of the policy's observation under uniformly random actions, seed 0.

    An environment that fails meanwhile is none of a learner's business: what was seen until then counts.
    """
    vectors = [channel for channel in describe(world).layout.channels if not channel.image]
    rows: dict[str, list[Array]] = {channel.key: [] for channel in vectors}
    with suppress(Exception):
        for raw in _played(world):
            for channel in vectors:
                rows[channel.key].append(channel.for_policy(raw[channel.key]).astype(np.float64))
    found = {}
    for channel in vectors:
        seen = np.stack(rows[channel.key] or [np.zeros(channel.spec.shape)])
        found[channel.key] = (np.asarray(seen.mean(axis=0)), np.asarray(seen.std(axis=0)))
    return found


def _played(world: World) -> Iterator[dict[str, Array]]:
    """Observations of random play, as the robot would show them."""
    pictures = any(channel.image for channel in describe(world).layout.channels)
    backend, rng, outcome = open_backend(world), np.random.default_rng(0), None
    try:
        for _ in range(PLAY_STEPS[pictures]):
            if outcome is None or outcome.terminated or outcome.truncated:
                outcome = backend.reset(int(rng.integers(2**31)))
            else:
                outcome = backend.step(rng.uniform(backend.low, backend.high))
            yield backend.layout.split(outcome.observation)
    finally:
        backend.close()
