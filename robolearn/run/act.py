"""The left half of the system: how one transition comes to be."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from robolearn.core.clock import Clock, MonotonicClock
from robolearn.core.protocols import Human, Reward
from robolearn.core.spec import Array, Observation
from robolearn.core.types import Judgement, Kind, Moment, Source, Transition
from robolearn.run.station import Station

Act = Callable[[Observation, Observation], Array]
"""(policy observation, robot observation) -> normalised action (A,)."""

Annotate = Callable[[Observation], Mapping[str, Array]]
"""Policy observation -> further keys that are stored with it, see ``Annotator``."""


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


def _keep() -> None:
    pass


def _nothing(_: Observation) -> Mapping[str, Array]:
    return {}


def run_episode(
    station: Station,
    act: Act,
    rng: np.random.Generator,
    *,
    append: Callable[[Transition], None] = _ignore,
    before_step: Callable[[], bool] = _go_on,
    version: Callable[[], int] = lambda: -1,
    annotate: Annotate = _nothing,
    human: Human | None = None,
    abandon: Callable[[], None] = _keep,
    reward: Reward | None = None,
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
        annotate: adds to each observation what a learner will want to know of it.
        human: somebody who watches; an action of theirs replaces the policy's.
        abandon: called after each step that a human drove: what the policy had planned is void.
        reward: what a step is worth, instead of the task's own reward.
        source: who ``act`` is.
        clock: time stamps.
    """
    robot, task, clock = station.robot, station.task, clock or MonotonicClock()
    max_steps = task.spec.max_steps

    def seen(raw: Observation) -> Observation:
        observation = task.observe(raw)
        return {**observation, **annotate(observation)}

    task.reset(robot, rng)
    for watcher in (human, reward):
        if watcher is not None:
            watcher.reset()
    raw = robot.observe()
    observation = seen(raw)
    zeros = task.spec.action.zeros()
    episode = Episode(uuid.uuid4().hex)
    stamp = clock.now_ns()
    rows = _Rows(append, reward)
    rows.add(Transition(episode.id, 0, observation, zeros, zeros, None, source, 0.0, 1.0, Kind.FIRST, version(), stamp))
    kind = Kind.FIRST
    try:
        while not kind.is_last:
            going_on = before_step()
            proposed = act(observation, raw)
            correction = None
            if human is not None:
                correction = human.correct(Moment(episode.steps, raw, observation, proposed))
            chosen, who = (proposed, source) if correction is None else (correction, Source.HUMAN)
            rows.release(taken_over=correction is not None)
            if correction is not None:
                abandon()
            sent = robot.apply(task.command(chosen))
            executed = task.normalise(sent)
            after = robot.observe()
            judgement = task.judge(raw, sent, after)
            observation, raw = seen(after), after
            episode.steps += 1
            if reward is not None:
                judgement = reward.of(judgement, observation, taken_over=False)
            kind = judgement.kind
            if kind is Kind.MID and (episode.steps >= max_steps or not going_on or robot.stopped):
                kind = Kind.TRUNCATED
            if robot.last_altered:
                episode.safety += 1
                if robot.last_rejected:
                    who = Source.SAFETY
            now = clock.now_ns()
            episode.periods_s.append((now - stamp) * 1e-9)
            stamp = now
            episode.success = judgement.success
            episode.interventions += correction is not None
            episode.peak_force_n = max(episode.peak_force_n, judgement.info.get("peak_force_n", 0.0))
            episode.interrupted = not going_on
            rows.add(
                Transition(
                    episode=episode.id,
                    index=episode.steps,
                    observation=observation,
                    proposed=np.where(np.isfinite(proposed), proposed, 0.0).astype(np.float32),
                    executed=executed,
                    human=correction,
                    source=who,
                    reward=judgement.reward,
                    discount=1.0 if kind.bootstraps else 0.0,
                    kind=kind,
                    policy_version=version(),
                    stamp_ns=stamp,
                ),
                judgement,
            )
    finally:
        rows.release(taken_over=False)
    episode.reward = rows.reward
    return episode


class _Rows:
    """Rows on their way to the store: at once, or one step late for a reward that depends on who takes over next."""

    def __init__(self, append: Callable[[Transition], None], reward: Reward | None) -> None:
        self._append = append
        self._ahead = reward if reward is not None and reward.looks_ahead else None
        self._waiting: tuple[Transition, Judgement | None] | None = None
        self.reward = 0.0

    def add(self, row: Transition, judgement: Judgement | None = None) -> None:
        """Store a row, or keep it until the next step is decided."""
        if self._ahead is None:
            self._store(row)
        else:
            self._waiting = (row, judgement)

    def release(self, *, taken_over: bool) -> None:
        """Store the row that waits; ``taken_over`` says that a human takes the next step."""
        if self._waiting is None:
            return
        (row, judgement), self._waiting = self._waiting, None
        if self._ahead is not None and judgement is not None and taken_over and row.source is Source.POLICY:
            again = self._ahead.of(judgement, row.observation, taken_over=True)
            row = replace(row, reward=again.reward)
        self._store(row)

    def _store(self, row: Transition) -> None:
        self.reward += row.reward
        self._append(row)
