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

    Where the task ends an episode and the reward does not (it sees no success yet), the episode goes on if it can; a
    task that ``ends_for_good`` cannot, and is truncated there: nobody knows how it would have gone on.

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
    loop = _Loop(station, _Rows(append, reward), version, annotate, reward, source, clock or MonotonicClock())
    loop.begin(rng, human)
    try:
        while not loop.kind.is_last:
            going_on = before_step()
            proposed = act(loop.observation, loop.raw)
            correction = None
            if human is not None:
                correction = human.correct(Moment(loop.episode.steps, loop.raw, loop.observation, proposed))
            loop.rows.release(taken_over=correction is not None)
            if correction is not None:
                abandon()
            loop.step(proposed, correction, going_on=going_on)
    finally:
        loop.rows.release(taken_over=False)
    loop.episode.reward = loop.rows.reward
    return loop.episode


def by_human(row: Transition) -> bool:
    """Whether a person drove the step that led to a row, also where safety refused what they did."""
    return row.source is Source.HUMAN or (row.source is Source.SAFETY and row.human is not None)


def own(row: Transition) -> bool:
    """Whether the policy drove the step that led to a row, also where safety refused its action."""
    return row.source is not Source.SCRIPT and not by_human(row)


class _Loop:
    """An episode while it runs: what is seen now, and what is known so far. See ``run_episode`` for the arguments."""

    raw: Observation
    observation: Observation

    def __init__(
        self,
        station: Station,
        rows: _Rows,
        version: Callable[[], int],
        annotate: Annotate,
        reward: Reward | None,
        source: Source,
        clock: Clock,
    ) -> None:
        self._robot, self._task, self.rows = station.robot, station.task, rows
        self._version, self._annotate, self._reward = version, annotate, reward
        self._source, self._clock = source, clock
        self.episode, self.kind, self._stamp = Episode(uuid.uuid4().hex), Kind.FIRST, 0

    def begin(self, rng: np.random.Generator, human: Human | None) -> None:
        """Draw the episode and store its first row."""
        self._task.reset(self._robot, rng)
        for watcher in (human, self._reward):
            if watcher is not None:
                watcher.reset()
        self._see(self._robot.observe())
        self._stamp = self._clock.now_ns()
        none = self._task.spec.action.zeros()
        self.rows.add(self._row(none, none, None, self._source, 0.0))

    def step(self, proposed: Array, correction: Array | None, *, going_on: bool) -> None:
        """Execute what the person does, or else what the policy proposed; judge and store the step."""
        before = self.raw
        sent = self._robot.apply(self._task.command(proposed if correction is None else correction))
        executed = self._task.normalise(sent)
        after = self._robot.observe()
        told = self._task.judge(before, sent, after)
        self._see(after)
        self.episode.steps += 1
        judgement = told if self._reward is None else self._reward.of(told, self.observation, taken_over=False)
        self.kind = self._kind(told, judgement, going_on)
        self._count(judgement, correction is not None, going_on)
        who = self._source if correction is None else Source.HUMAN
        who = Source.SAFETY if self._robot.last_altered and self._robot.last_rejected else who
        self.rows.add(self._row(proposed, executed, correction, who, judgement.reward), told)

    def _see(self, raw: Observation) -> None:
        observation = self._task.observe(raw)
        self.raw, self.observation = raw, {**observation, **self._annotate(observation)}

    def _kind(self, told: Judgement, judgement: Judgement, going_on: bool) -> Kind:
        """What the reward (or else the task) says, unless the episode cannot or shall not go on."""
        over = told.kind.is_last and bool(getattr(self._task, "ends_for_good", False))
        out_of_time = self.episode.steps >= self._task.spec.max_steps
        if judgement.kind is Kind.MID and (over or out_of_time or not going_on or self._robot.stopped):
            return Kind.TRUNCATED
        return judgement.kind

    def _count(self, judgement: Judgement, corrected: bool, going_on: bool) -> None:
        """What is worth knowing of the step."""
        episode, now = self.episode, self._clock.now_ns()
        episode.periods_s.append((now - self._stamp) * 1e-9)
        self._stamp = now
        episode.safety += bool(self._robot.last_altered)
        episode.success = judgement.success
        episode.interventions += corrected
        episode.peak_force_n = max(episode.peak_force_n, judgement.info.get("peak_force_n", 0.0))
        episode.interrupted = not going_on

    def _row(
        self, proposed: Array, executed: Array, correction: Array | None, source: Source, reward: float
    ) -> Transition:
        return Transition(
            episode=self.episode.id,
            index=self.episode.steps,
            observation=self.observation,
            proposed=_finite(proposed),
            executed=executed,
            human=None if correction is None else _finite(correction),
            source=source,
            reward=reward,
            discount=1.0 if self.kind.bootstraps else 0.0,
            kind=self.kind,
            policy_version=self._version(),
            stamp_ns=self._stamp,
        )


def _finite(action: Array) -> Array:
    """(A,) float32 action as it is stored: what is no number was not executed either."""
    return np.where(np.isfinite(action), action, 0.0).astype(np.float32)


class _Rows:
    """Rows on their way to the store: at once, or one step late for a reward that depends on who takes over next."""

    def __init__(self, append: Callable[[Transition], None], reward: Reward | None) -> None:
        self._append = append
        self._ahead = reward if reward is not None and reward.looks_ahead else None
        self._waiting: tuple[Transition, Judgement | None] | None = None
        self.reward = 0.0

    def add(self, row: Transition, told: Judgement | None = None) -> None:
        """Store a row, or keep it until the next step is decided; ``told`` is what the task said of its step."""
        if self._ahead is None:
            self._store(row)
        else:
            self._waiting = (row, told)

    def release(self, *, taken_over: bool) -> None:
        """Store the row that waits; ``taken_over`` says that a human takes the next step."""
        if self._waiting is None:
            return
        (row, told), self._waiting = self._waiting, None
        if self._ahead is not None and told is not None and taken_over and own(row):
            row = replace(row, reward=self._ahead.of(told, row.observation, taken_over=True).reward)
        self._store(row)

    def _store(self, row: Transition) -> None:
        self.reward += row.reward
        self._append(row)
