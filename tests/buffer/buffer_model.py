"""What a buffer should hold, in plain lists, for the tests that compare it with one on disk."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from robolearn.core.types import Kind, Source, Transition


@dataclass
class Told:
    """An episode, or one part of an episode that was split.

    Attributes:
        known: rows that the index promises; 0 when it does not know the episode.
        state: as the index says; ``open`` also for what has ended but is not acknowledged.
        partial: kept when it is cut short.
        outcome: (success, demo) once its end is in the log.
    """

    uuid: str
    writer: str
    robot: str
    open_demo: bool
    partial: bool
    unix_ns: int
    rows: list[Transition]
    known: int = 0
    state: str = "open"
    outcome: tuple[bool, bool] | None = None
    success: bool = False
    demo: bool = False
    recovered: bool = False
    tag: str = ""
    relabels: int = 0

    @property
    def steps(self) -> int:
        return max(self.known - 1, 0)

    @property
    def truncated(self) -> bool:
        return self.state != "open" and self.rows[-1].kind is not Kind.TERMINATED

    @property
    def total_reward(self) -> float:
        return sum(t.reward for t in self.rows[1 : self.known])

    @property
    def interventions(self) -> int:
        return sum(t.source is Source.HUMAN for t in self.rows[1 : self.known])

    @property
    def pinned(self) -> bool:
        return self.state != "dropped" and (self.demo or self.interventions > 0 or "keep" in self.tag.split())

    def grow(self) -> None:
        """Readers may see all rows there are."""
        if self.partial and self.state == "open":
            self.known, self.demo = len(self.rows), self.open_demo

    def correct(self, i: int, reward: float | None, source: Source | None) -> None:
        """Relabel row ``i``."""
        t = self.rows[i]
        self.rows[i] = replace(
            t, reward=t.reward if reward is None else reward, source=t.source if source is None else source
        )

    def complete(self, *, recovered: bool = False) -> None:
        """Acknowledged, or found by recovery."""
        if self.state == "open":
            self.success, self.demo = self.outcome or (False, False)
            self.state, self.known, self.recovered = "complete", len(self.rows), recovered


def part_of(last: Transition, name: str) -> Transition:
    """Row 0 of the rest of an episode that was split behind ``last``."""
    zeros = np.zeros_like(last.executed)
    return replace(
        last, episode=name, index=0, proposed=zeros, executed=zeros, human=None, source=Source.POLICY, reward=0.0,
        discount=1.0, kind=Kind.FIRST,
    )  # fmt: skip


@dataclass
class Pen:
    """What a writer does. ``split_rows`` is None, or its logs are so small that every one is large."""

    name: str
    robot: str
    demo: bool
    partial: bool
    split_rows: int | None
    episodes: dict[str, Told]
    unix_ns: Callable[[], int]
    parts: list[Told] = field(default_factory=list)
    waiting: list[Told] = field(default_factory=list)

    @property
    def open(self) -> Told | None:
        return self.parts[-1] if self.parts else None

    @property
    def next_index(self) -> int:
        return sum(len(p.rows) for p in self.parts) - max(len(self.parts) - 1, 0)

    def append(self, t: Transition) -> None:
        now = self.open
        if now is None:
            self._begin(t)
        elif self.split_rows is not None and self.partial and len(now.rows) > self.split_rows:
            now.outcome = (False, False)
            self.waiting.append(now)
            self.acknowledge()  # since the log is closed
            name = uuid.uuid5(uuid.UUID(self.parts[0].uuid), str(len(self.parts))).hex
            self._begin(part_of(now.rows[-1], name))
            self.parts[-1].rows.append(replace(t, episode=name, index=1))
        else:
            now.rows.append(replace(t, episode=now.uuid, index=len(now.rows)))

    def end(self, success: bool, demo: bool | None) -> None:
        demo = self.demo if demo is None else demo
        for part in self.parts[:-1]:
            part.success, part.demo = success, demo
        self.parts[-1].outcome = (success, demo)
        self.waiting.append(self.parts[-1])
        self.parts = []

    def give_up(self) -> None:
        """End what is open where it is; what is not kept in parts goes."""
        if self.open is not None and self.partial:
            self.open.outcome = (False, False)
            self.waiting.append(self.open)
        self.parts = []

    def acknowledge(self, count: int | None = None) -> None:
        for told in self.waiting[:count]:
            told.complete()
        del self.waiting[:count]

    def commit(self) -> None:
        """What a commit in the background tells."""
        for told in self.waiting:
            told.complete()
        if self.open is not None:
            self.open.grow()

    def _begin(self, first: Transition) -> None:
        told = Told(first.episode, self.name, self.robot, self.demo, self.partial, self.unix_ns(), [first])
        self.episodes[told.uuid] = told
        self.parts.append(told)


def recovered(episodes: dict[str, Told], writer: str) -> None:
    """What the next writer of a name finds after a kill."""
    for told in list(episodes.values()):
        if told.writer == writer and told.state == "open":
            if told.outcome is None and not told.partial:
                del episodes[told.uuid]
            else:
                told.complete(recovered=told.outcome is None)


Passes = Callable[[Told, Transition], bool]
FILTERS: dict[str, Passes] = {
    "": lambda e, t: True,
    "demo": lambda e, t: e.demo,
    "!demo": lambda e, t: not e.demo,
    "demo|intervention": lambda e, t: e.demo or t.source is Source.HUMAN,
    "!demo,source!=script": lambda e, t: not e.demo and t.source is not Source.SCRIPT,
    "success,intervention": lambda e, t: e.success and t.source is Source.HUMAN,
    "source=human|source=script": lambda e, t: t.source in (Source.HUMAN, Source.SCRIPT),
    "!intervention,success|truncated": lambda e, t: t.source is not Source.HUMAN and (e.success or e.truncated),
    "robot=arm1": lambda e, t: e.robot == "arm1",
    "writer=a|demo": lambda e, t: e.writer == "a" or e.demo,
    "tag=x|recovered": lambda e, t: e.tag == "x" or e.recovered,
    "policy>=7,steps<4|reward>=0": lambda e, t: t.policy_version >= 7 and (e.steps < 4 or e.total_reward >= 0),
}


def steps_of(told: Told) -> Iterator[int]:
    """Rows that the steps lead to which readers may see."""
    return iter(range(1, told.known if told.state != "dropped" else 1))
