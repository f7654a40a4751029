"""A buffer on disk beside its model, and kills within what changes it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from buffer_model import Pen, Told, recovered
from buffer_rows import IMAGES, crash_image, records, same
from buffer_sealed import everything

from robolearn.buffer import repair as repair_module
from robolearn.buffer import seal as seal_module
from robolearn.buffer.index import Index
from robolearn.buffer.store import open_store
from robolearn.buffer.verify import verify
from robolearn.buffer.writer import Writer
from robolearn.core.clock import FakeClock

ROBOTS = {"a": "arm0", "b": "arm1"}
SPLIT_ROWS = 3
"""Writer b splits its episodes, and its logs hold one part each; those of writer a hold a few episodes."""


class Store:
    """A buffer on disk and its model."""

    def __init__(self, root: Path) -> None:
        self.root = root
        open_store(root, IMAGES)
        self.clocks = {name: FakeClock(0) for name in ROBOTS}
        self.now_ns = 0
        self.episodes: dict[str, Told] = {}
        self.writers: dict[str, tuple[Writer, Pen, int]] = {}

    def unix_ns(self) -> int:
        self.now_ns += 1
        return self.now_ns

    def open(self, name: str, *, demo: bool = False, partial: bool = True) -> None:
        split = SPLIT_ROWS if name == "b" else None
        told: list[int] = []
        writer = Writer(
            self.root, IMAGES, name=name, robot=ROBOTS[name], task="peg", demo=demo, partial=partial,
            log_bytes=2500 if split is None else 1, split_rows=split or 10_000, clock=self.clocks[name],
            unix_ns=lambda: told.append(self.unix_ns()) or told[-1],  # type: ignore[func-returns-value]
        )  # fmt: skip
        recovered(self.episodes, name)
        own = [e for e in self.episodes.values() if e.writer == name]
        self.writers[name] = (
            writer,
            Pen(name, ROBOTS[name], demo, partial, split, self.episodes, lambda: told[-1]),
            writer.episodes,
        )
        assert writer.episodes == len(own)
        assert writer.transitions == sum(e.steps for e in own)
        assert writer.successes == sum(e.success and e.state == "complete" for e in own)

    def writer(self, name: str) -> tuple[Writer, Pen]:
        if name not in self.writers:
            self.open(name)
        return self.writers[name][:2]

    def settle(self, name: str) -> None:
        """The model follows what the writer says it has acknowledged."""
        writer, pen, before = self.writers[name]
        news = writer.episodes - before
        done = sum(e.state != "open" for e in pen.waiting)  # told by a commit in the background
        pen.acknowledge(news)
        assert len(pen.waiting) == writer.stats.waiting_episodes
        assert done <= news + len(pen.waiting)
        self.writers[name] = (writer, pen, writer.episodes)

    def close(self, name: str) -> None:
        writer, pen, _ = self.writers.pop(name)
        pen.give_up()
        pen.acknowledge()
        writer.close()

    def move(self, to: Path) -> None:
        """Everything is killed, and goes on as what is on disk in ``to``."""
        for writer, *_ in self.writers.values():
            writer.close()
        self.writers.clear()
        shutil.rmtree(self.root)
        self.root = to

    def recovered(self) -> None:
        for name in ROBOTS:
            if name not in self.writers:
                recovered(self.episodes, name)

    @property
    def ended(self) -> list[Told]:
        """What can be edited, in a fixed order."""
        return [e for e in self.episodes.values() if e.state != "open"]

    def check(self) -> None:
        """The index, and every byte that can be read, are as the model says."""
        index = {r.uuid: r for r in records(self.root)}
        assert set(index) == {e.uuid for e in self.episodes.values() if e.known}
        for uuid, r in index.items():
            e = self.episodes[uuid]
            found = (r.state, r.rows, r.success, r.demo, r.tag, r.robot, r.writer, r.truncated, r.recovered, r.relabels)
            assert found == (
                e.state, e.known, e.success, e.demo, e.tag, e.robot, e.writer, e.truncated, e.recovered, e.relabels
            ), e  # fmt: skip
            assert (r.interventions, r.total_reward) == (e.interventions, pytest.approx(e.total_reward))
        found_rows = everything(self.root)
        live = {e.uuid: e for e in self.episodes.values() if e.known and e.state != "dropped"}
        assert found_rows.keys() == live.keys()
        for uuid, e in live.items():
            assert same(found_rows[uuid], e.rows[: e.known]), e
        report = verify(self.root)
        assert report.ok, report.problems


class Killed(BaseException):
    """What stands for a SIGKILL."""


@contextmanager
def killed_at(call: int, root: Path, image: Path) -> Iterator[None]:
    """At the n-th call of something that changes the disk, take an image of it and stop."""
    left = [call]

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def at(*arguments: Any, **more: Any) -> Any:
            if left[0] == 0:
                left[0] -= 1
                crash_image(root, image)
                raise Killed
            left[0] -= 1
            return real(*arguments, **more)

        return at

    places = [
        (os, "rename"), (os, "replace"), (seal_module, "fsync_dir"),
        (shutil, "rmtree"), (Index, "put_segment"), (Index, "move_episode"), (Index, "put_log"), (Index, "put_relabel"),
        (seal_module, "_remove_log"), (seal_module, "write_segment"), (repair_module, "fsync_dir"),
    ]  # fmt: skip
    with mock.patch.multiple(Index, **{n: _method(counted, n) for p, n in places if p is Index}):
        stack = [mock.patch.object(p, n, counted(getattr(p, n))) for p, n in places if p is not Index]
        for patch in stack:
            patch.start()
        try:
            yield
        except Killed:
            pass
        finally:
            for patch in reversed(stack):
                patch.stop()


def _method(counted: Callable[[Callable[..., Any]], Callable[..., Any]], name: str) -> Callable[..., Any]:
    at = counted(getattr(Index, name))
    return lambda self, *arguments: at(self, *arguments)
