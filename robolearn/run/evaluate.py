"""Policy-only evaluation on episodes nobody has trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from robolearn.core.types import Skill, TaskSpec
from robolearn.run.act import Act, run_episode
from robolearn.run.config import TrainConfig
from robolearn.run.seeds import Stream, stream
from robolearn.run.station import Station, build_policy, close_policy, greedily
from robolearn.run.stats import wilson

POLICY = "final"
"""The learned policy, among those who can be evaluated."""


def expert_name(skill: Skill) -> str:
    """A scripted expert of the task, among those who can be evaluated."""
    return f"{skill} expert"


def experts_of(spec: TaskSpec) -> list[str]:
    """All scripted experts of a task, best last."""
    return [expert_name(skill) for skill in reversed(spec.skills)]


@dataclass(frozen=True)
class EpisodeResult:
    """One evaluated episode."""

    policy: str
    index: int
    success: bool
    steps: int
    peak_force_n: float
    reward: float = 0.0


@dataclass(frozen=True)
class EvalResult:
    """Success of one policy with its 95 % Wilson interval.

    Attributes:
        median_peak_force_n: median over episodes of the largest contact force [N].
        median_cycle_s: median duration of successful episodes [s]; NaN when there is none.
        mean_return: mean over episodes of the sum of rewards; the share of successes where success alone earns 1.
    """

    policy: str
    episodes: int
    successes: int
    success: float
    wilson_low: float
    wilson_high: float
    median_peak_force_n: float
    median_cycle_s: float
    seed: int
    mean_return: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """A JSON object; a missing cycle time is null."""
        data = asdict(self)
        if not np.isfinite(self.median_cycle_s):
            data["median_cycle_s"] = None
        return data


def summarise(policy: str, results: Sequence[EpisodeResult], *, control_hz: float, seed: int) -> EvalResult:
    """Numbers of a set of episodes."""
    successes = [result for result in results if result.success]
    low, high = wilson(len(successes), len(results))
    cycles = [result.steps / control_hz for result in successes]
    return EvalResult(
        policy=policy,
        episodes=len(results),
        successes=len(successes),
        success=len(successes) / max(len(results), 1),
        wilson_low=low,
        wilson_high=high,
        median_peak_force_n=round(float(np.median([r.peak_force_n for r in results])), 2) if results else 0.0,
        median_cycle_s=round(float(np.median(cycles)), 2) if cycles else float("nan"),
        seed=seed,
        mean_return=round(float(np.mean([r.reward for r in results])), 4) if results else 0.0,
    )


def evaluate(
    station: Station,
    who: str,
    act: Act,
    rngs: Iterable[tuple[int, np.random.Generator]],
    *,
    reset: Callable[[], None] = lambda: None,
    going_on: Callable[[], bool] = lambda: True,
    each: Callable[[EpisodeResult], None] = lambda _: None,
) -> list[EpisodeResult]:
    """Run one episode for each (index, generator), up to one in which the robot latches a stop (a failure).

    Args:
        going_on: asked before each episode and each step; False ends the evaluation.
        each: told of each episode when it is over.
    """
    results = []
    for index, rng in rngs:
        reset()
        if not going_on():
            break
        episode = run_episode(station, act, rng, before_step=going_on)
        if episode.interrupted:
            break
        results.append(EpisodeResult(who, index, episode.success, episode.steps, episode.peak_force_n, episode.reward))
        each(results[-1])
        if station.robot.stopped:
            break
    return results


class Acting(NamedTuple):
    """How somebody acts, what to call before each episode, and what after the last."""

    act: Act
    reset: Callable[[], None] = lambda: None
    close: Callable[[], None] = lambda: None


def make_act(
    who: str,
    config: TrainConfig,
    station: Station,
    seed: int,
    weights: Any = None,
    execution: Mapping[str, Any] | None = None,
) -> Acting:
    """How ``who`` acts on this station.

    Args:
        weights: weights of the learned policy, for ``POLICY``.
        execution: how its plans are executed instead of as trained.

    Raises:
        ConfigError: it has no plans, or cannot execute them like this.
    """
    if who == POLICY:
        policy = build_policy(config, station.task, seed=seed, realtime=station.realtime, execution=execution)
        policy.load(weights)
        return Acting(greedily(policy), policy.reset, lambda: close_policy(policy))
    noise = stream(seed, Stream.EVAL, 2**31)
    skill = Skill(who.removesuffix(" expert"))
    return Acting(lambda observation, raw: station.task.expert(raw, noise, skill=skill))
