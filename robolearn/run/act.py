"""The left half of the system: how one transition comes to be."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from robolearn.core.clock import Clock, MonotonicClock
from robolearn.core.protocols import Device
from robolearn.core.spec import Array, Observation
from robolearn.core.types import Kind, Source, Transition
from robolearn.run.station import Station

Act = Callable[[Observation, Observation], Array]
"""(policy observation, robot observation) -> normalised action (A,)."""


@dataclass
class Episode:
    """What is worth knowing of an episode after it ended."""

    id: str
    steps: int = 0
    success: bool = False
    reward: float = 0.0
    interventions: int = 0
    safety: int = 0
    peak_force_n: float = 0.0
    interrupted: bool = False
    periods_s: list[float] = field(default_factory=list)


def _ignore(_: Transition) -> None:
    pass


def _go_on() -> bool:
    return True


def run_episode(
    station: Station,
    act: Act,
    rng: np.random.Generator,
    *,
    append: Callable[[Transition], None] = _ignore,
    before_step: Callable[[], bool] = _go_on,
    version: Callable[[], int] = lambda: -1,
    device: Device | None = None,
    source: Source = Source.POLICY,
    clock: Clock | None = None,
) -> Episode:
    """Run one episode: observe, act, takeover, safety, judge, store.

    Args:
        station: robot and task.
        act: proposes actions.
        rng: draws the episode.
        append: stores each row; when it returns, the row survives a crash of this process.
        before_step: called before each step, the place to wait or to take new weights; False ends the episode as
            truncated.
        version: version of the weights that act now.
        device: a human's device; an action it gives replaces the policy's.
        source: who ``act`` is.
        clock: time stamps.
    """
    robot, task, clock = station.robot, station.task, clock or MonotonicClock()
    max_steps = task.spec.max_steps
    task.reset(robot, rng)
    raw = robot.observe()
    observation = task.observe(raw)
    zeros = task.spec.action.zeros()
    episode = Episode(uuid.uuid4().hex)
    stamp = clock.now_ns()
    append(Transition(episode.id, 0, observation, zeros, zeros, None, source, 0.0, 1.0, Kind.FIRST, version(), stamp))
    kind = Kind.FIRST
    while not kind.is_last:
        going_on = before_step()
        proposed = act(observation, raw)
        human = device.poll() if device is not None else None
        chosen, who = (proposed, source) if human is None else (human, Source.HUMAN)
        sent = robot.apply(task.command(chosen))
        executed = task.normalise(sent)
        after = robot.observe()
        judgement = task.judge(raw, sent, after)
        observation, raw, kind = task.observe(after), after, judgement.kind
        episode.steps += 1
        if kind is Kind.MID and (episode.steps >= max_steps or not going_on or robot.stopped):
            kind = Kind.TRUNCATED
        if robot.last_altered:
            episode.safety += 1
            if robot.last_rejected:
                who = Source.SAFETY
        now = clock.now_ns()
        episode.periods_s.append((now - stamp) * 1e-9)
        stamp = now
        episode.reward += judgement.reward
        episode.success = judgement.success
        episode.interventions += human is not None
        episode.peak_force_n = max(episode.peak_force_n, judgement.info.get("peak_force_n", 0.0))
        episode.interrupted = not going_on
        append(
            Transition(
                episode=episode.id,
                index=episode.steps,
                observation=observation,
                proposed=np.where(np.isfinite(proposed), proposed, 0.0).astype(np.float32),
                executed=executed,
                human=human,
                source=who,
                reward=judgement.reward,
                discount=1.0 if kind.bootstraps else 0.0,
                kind=kind,
                policy_version=version(),
                stamp_ns=stamp,
            )
        )
    return episode
