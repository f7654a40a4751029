"""Any order of what people and processes do to a buffer, against a plain model of it."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from buffer_model import FILTERS, Pen, Told, recovered, steps_of
from buffer_rows import IMAGES, crash_image, logs, records, row, same
from buffer_sealed import everything
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from robolearn.buffer import repair as repair_module
from robolearn.buffer import retain as retain_module
from robolearn.buffer import seal as seal_module
from robolearn.buffer.index import Index, Relabel
from robolearn.buffer.recover import recover
from robolearn.buffer.relabel import relabel
from robolearn.buffer.repair import repair
from robolearn.buffer.replay import Replay
from robolearn.buffer.retain import Pruned, prune
from robolearn.buffer.seal import seal
from robolearn.buffer.store import StorePaths, open_store
from robolearn.buffer.verify import verify
from robolearn.buffer.writer import Writer
from robolearn.core.clock import FakeClock
from robolearn.core.errors import StoreError
from robolearn.core.types import Batch, Kind, Source, Transition

ROBOTS = {"a": "arm0", "b": "arm1"}
SPLIT_ROWS = 3
"""Writer b splits its episodes, and its logs hold one part each; those of writer a hold a few episodes."""
names = st.sampled_from(sorted(ROBOTS))
filters = st.sampled_from(sorted(FILTERS))
tags = st.sampled_from(["", "x", "x keep"])
selections = st.sampled_from(["", "", "!success", "writer=a"])
GAMMA = 0.9


class Evenly(np.random.Generator):
    """Draws every entry of a view once, in its order, when as many are drawn as it has."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def random(self, size: Any = None, dtype: Any = np.float64, out: Any = None) -> Any:
        count = len(out) if out is not None else int(size)
        values = (np.arange(count) + 0.5) / count
        if out is None:
            return values
        out[:] = values
        return out


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
        (os, "rename"), (os, "replace"), (seal_module, "fsync_dir"), (retain_module, "fsync_dir"),
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


class BufferMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        # kills need no disk to be survived, and syncs of a real one would take most of the time
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.folder = tempfile.TemporaryDirectory(prefix="buffer-machine-", dir=memory)
        self.path = Path(self.folder.name)
        self.images = 0
        self.numbers = 0
        self.own, self.other = Store(self.path / "own"), Store(self.path / "other")
        self.running: dict[tuple[int, str], int] = {}
        self.replay: Replay | None = None
        self.select: str | None = None
        self.mode = "all"
        self.newest_version = -1
        self.seen: dict[int, Transition] = {}
        for number, end in enumerate([Kind.TERMINATED, Kind.TRUNCATED, Kind.TERMINATED]):
            self._write(self.other, "a", 2 + number, Source.HUMAN if number == 1 else Source.POLICY, None)
            self._end(self.other, "a", end, number != 2, number == 0, wait=True)
        self.other.close("a")
        for number, name in enumerate("aabab"):
            self._write(self.own, name, 3 + number % 3, Source.HUMAN if number == 2 else Source.POLICY, None)
            self._end(self.own, name, Kind.TERMINATED if number else Kind.TRUNCATED, number == 1, None, wait=True)
        self.pace, self.done = 2, 0
        self.replay = self._opened()

    @invariant()
    def follow(self) -> None:
        """A reader follows, after every few events."""
        self.done += 1
        if self.done % self.pace == 0:
            self._follow(fresh=False)

    @rule(pace=st.sampled_from([1, 2, 5]))
    def follow_faster_or_slower(self, pace: int) -> None:
        self.pace = pace

    @rule(
        name=names, sources=st.lists(st.sampled_from(Source), min_size=1, max_size=5),
        kind=st.sampled_from([Kind.TERMINATED, Kind.TRUNCATED]), success=st.booleans(), demo=st.booleans(),
    )  # fmt: skip
    def episode(self, name: str, sources: list[Source], kind: Kind, success: bool, demo: bool) -> None:
        for source in [Source.POLICY, *sources]:
            self._write(self.own, name, 1, source, None)
        self._end(self.own, name, kind, success, demo, wait=True)

    def teardown(self) -> None:
        try:
            self._check_all()
            for store in (self.own, self.other):
                for name in list(store.writers):
                    store.close(name)
                recover(store.root)
                store.recovered()
                seal(store.root, everything=True)
                assert not any(log.length for log in logs(store.root))
                store.check()
            self._follow()
        finally:
            for store in (self.own, self.other):
                for writer, *_ in store.writers.values():
                    writer.close()
            if self.replay is not None:
                self.replay.close()
            self.folder.cleanup()

    def _check_all(self) -> None:
        self.own.check()
        self.other.check()

    # what writers do

    def _write(self, store: Store, name: str, count: int, source: Source, tick: bool | None) -> None:
        _, pen = store.writer(name)
        for _ in range(count):
            if pen.open is not None and pen.open.rows[-1].kind.is_last:
                return
            if pen.open is None:
                self.numbers += 1
                self.running[id(store), name] = self.numbers
            index = pen.next_index
            t = row(
                self.running[id(store), name], index, Kind.MID if index else Kind.FIRST,
                source=source if index else Source.POLICY, schema=IMAGES,
            )  # fmt: skip
            self._append(store, name, t, bool(tick))

    def _append(self, store: Store, name: str, t: Transition, tick: bool) -> None:
        writer, pen = store.writer(name)
        self.seen[int(t.observation["count"])] = t
        if tick:
            store.clocks[name].advance(1.0)
            pen.commit()
        writer.append(t)
        while tick and writer._committer.busy:
            time.sleep(0.0005)
        pen.append(t)
        store.settle(name)

    def _end(self, store: Store, name: str, kind: Kind, success: bool, demo: bool | None, wait: bool) -> None:
        writer, pen = store.writer(name)
        if pen.open is None:
            with pytest.raises(StoreError, match="needs a last row"):
                writer.end_episode(success)
            return
        if not pen.open.rows[-1].kind.is_last:
            index, number = pen.next_index, self.running[id(store), name]
            self._append(store, name, row(number, index, kind, schema=IMAGES), False)
        pen.end(success, demo)
        writer.end_episode(success, demo=demo, wait=wait)
        store.settle(name)
        assert not wait or not pen.waiting

    @rule(name=names, count=st.integers(1, 4), source=st.sampled_from(Source), tick=st.booleans())
    def append(self, name: str, count: int, source: Source, tick: bool) -> None:
        self._write(self.own, name, count, source, tick)

    @rule(
        name=names, kind=st.sampled_from([Kind.TERMINATED, Kind.TRUNCATED]), success=st.booleans(),
        demo=st.sampled_from([None, None, True, False]), wait=st.booleans(),
    )  # fmt: skip
    def end(self, name: str, kind: Kind, success: bool, demo: bool | None, wait: bool) -> None:
        if name in self.own.writers and self.own.writers[name][1].open is None:
            self._write(self.own, name, 1, Source.POLICY, False)
        self._end(self.own, name, kind, success, demo, wait)

    @rule(name=names, kind=st.sampled_from([Kind.TERMINATED, Kind.TRUNCATED]))
    def last_row_only(self, name: str, kind: Kind) -> None:
        _, pen = self.own.writer(name)
        if pen.open is not None and not pen.open.rows[-1].kind.is_last:
            number = self.running[id(self.own), name]
            self._append(self.own, name, row(number, pen.next_index, kind, schema=IMAGES), False)

    @rule(name=names)
    def truncate(self, name: str) -> None:
        writer, pen = self.own.writer(name)
        pen.give_up()
        writer.truncate_episode()
        self.own.settle(name)

    @rule(name=names, durable=st.booleans())
    def flush(self, name: str, durable: bool) -> None:
        writer, pen = self.own.writer(name)
        pen.commit()
        writer.flush(durable=durable)
        self.own.settle(name)
        assert not pen.waiting

    @rule(name=names, demo=st.booleans(), partial=st.sampled_from([True, True, False]))
    def reopen_writer(self, name: str, demo: bool, partial: bool) -> None:
        if name in self.own.writers:
            self.own.close(name)
        self.own.open(name, demo=demo, partial=partial)

    @rule(name=names)
    def close_writer(self, name: str) -> None:
        if name in self.own.writers:
            self.own.close(name)

    # what is done to the buffer

    @rule(min_bytes=st.sampled_from([0, 3000]), other=st.booleans())
    def seal(self, min_bytes: int, other: bool) -> None:
        store = self.other if other else self.own
        seal(store.root, min_bytes=min_bytes, everything=min_bytes == 0)
        if min_bytes == 0:
            assert all(not log.length for log in logs(store.root) if log.closed)

    @rule(
        at=st.integers(0, 50),
        other=st.booleans(),
        success=st.booleans(),
        demo=st.booleans(),
        tag=st.sampled_from(["", "x", "x keep"]),
    )
    def edit(self, at: int, other: bool, success: bool, demo: bool, tag: str) -> None:
        store = self.other if other else self.own
        if store.ended:
            told = store.ended[at % len(store.ended)]
            told.success, told.demo, told.tag = success, demo, tag
            self._edit(store, told, success=success, demo=demo, tag=tag)

    def _edit(self, store: Store, told: Told, **changes: Any) -> None:
        index = Index(StorePaths(store.root).index, writable=True)
        try:
            index.edit(told.uuid, **changes)
        finally:
            index.close()

    @rule(at=st.integers(0, 50), other=st.booleans(), dropped=st.booleans())
    def drop(self, at: int, other: bool, dropped: bool) -> None:
        store = self.other if other else self.own
        if not store.ended:
            return
        told = store.ended[at % len(store.ended)]
        record = next(r for r in records(store.root) if r.uuid == told.uuid)
        if not dropped and not record.log and not record.segment:
            with pytest.raises(StoreError, match="cannot come back"):
                self._edit(store, told, dropped=False)
        else:
            self._edit(store, told, dropped=dropped)
            told.state = "dropped" if dropped else "complete"

    @rule(
        at=st.integers(0, 50), other=st.booleans(), first=st.integers(0, 20), count=st.integers(1, 4),
        reward=st.floats(-2, 2), source=st.sampled_from([None, None, *Source]),
    )  # fmt: skip
    def relabel(self, at: int, other: bool, first: int, count: int, reward: float, source: Source | None) -> None:
        store = self.other if other else self.own
        if not store.ended:
            return
        told = store.ended[at % len(store.ended)]
        steps = list(range(1, told.known))[first % max(told.steps, 1) :][:count]
        if not steps:
            return
        values = np.full(len(steps), reward if source is None else int(source), float if source is None else int)
        change = Relabel(told.uuid, "reward" if source is None else "source", steps[0], values)
        if told.state == "dropped":
            with pytest.raises(StoreError, match="dropped"):
                relabel(store.root, [change])
            return
        relabel(store.root, [change])
        told.relabels += 1
        for i in steps:
            told.correct(i, reward if source is None else None, source)

    @rule(
        budget=st.sampled_from([0, 20_000, 1 << 40]),
        select=st.sampled_from(["", "", "!success", "writer=a"]),
        other=st.booleans(),
    )
    def prune(self, budget: int, select: str, other: bool) -> None:
        store = self.other if other else self.own
        if budget == 0:
            seal(store.root, everything=True)
            if self.replay is not None:  # it has no segment open then
                self.replay.close()
                self.newest_version, self.replay = -1, self._opened()
        lie: dict[str, list[Told]] = {}
        for r in records(store.root):
            if r.segment:
                lie.setdefault(r.segment, []).append(store.episodes[r.uuid])
        done = prune(store.root, max_bytes=budget, select=select)
        self._check_pruned(done, lie, budget, select)
        for one in done.dropped:
            for told in lie[one.segment]:
                told.state = "dropped"

    def _check_pruned(self, done: Pruned, lie: dict[str, list[Told]], budget: int, select: str) -> None:
        passes: dict[str, Callable[[Told], bool]] = {
            "": lambda e: True, "!success": lambda e: not e.success, "writer=a": lambda e: e.writer == "a"
        }  # fmt: skip
        alive = {name: [e for e in told if e.state != "dropped"] for name, told in lie.items()}
        may = [n for n, told in alive.items() if not any(e.pinned for e in told) and all(map(passes[select], told))]
        may.sort(key=lambda n: (max((e.unix_ns for e in alive[n]), default=0), n))
        gone = [one.segment for one in done.dropped]
        read = [n for n, why in done.kept.items() if why == "a reader has it open"]
        assert self.replay is not None or not read
        may = [n for n in may if n not in read]
        assert gone == may[: len(gone)]
        assert len(gone) == len(may) or done.before.total - done.freed <= budget
        assert budget or len(gone) == len(may)

    @rule()
    def recover(self) -> None:
        recover(self.own.root)
        self.own.recovered()

    @rule()
    def repair(self) -> None:
        """There is nothing to repair, ever."""
        for name in list(self.own.writers):
            self.own.close(name)
        assert repair(self.own.root) == []
        self.own.recovered()

    # kills

    def _image(self) -> Path:
        self.images += 1
        return self.path / f"own{self.images}"

    def _go_on(self, image: Path) -> None:
        """The learner is killed too, and comes back at once."""
        if self.replay is not None:
            self.replay.close()
        self.own.move(image)
        self.newest_version, self.replay = -1, self._opened()

    @rule(name=names, count=st.integers(0, 6))
    def crash(self, name: str, count: int) -> None:
        """Mostly within an episode."""
        self._write(self.own, name, count, Source.POLICY, None)
        self._go_on(crash_image(self.own.root, self._image()))

    @rule(what=st.sampled_from(["seal", "prune", "relabel", "repair"]), call=st.integers(0, 12))
    def crash_within(self, what: str, call: int) -> None:
        if what == "repair":
            for name in list(self.own.writers):
                self.own.close(name)
        image, root = self._image(), self.own.root
        targets = [e for e in self.own.ended if e.state == "complete" and e.steps][-2:]
        acts: dict[str, Callable[[], object]] = {
            "seal": lambda: seal(root, everything=True),
            "prune": lambda: prune(root, max_bytes=0),
            "relabel": lambda: relabel(root, [Relabel(e.uuid, "reward", 1, np.array([7.0])) for e in targets]),
            "repair": lambda: repair(root),
        }
        before = {r.uuid: r for r in records(root)}
        with killed_at(call, root, image):
            acts[what]()
        if image.exists():
            self._go_on(image)
        elif what == "repair":
            self.own.recovered()
        found = {r.uuid: r for r in records(self.own.root)}
        if what == "repair":  # recovery may have been done, or not
            for name in ROBOTS:
                if all(found[u].state != "open" for u in found if found[u].writer == name) and found != before:
                    recover(self.own.root)
                    self.own.recovered()
        if what == "prune":
            for told in self.own.ended:
                if found[told.uuid].state == "dropped" and told.state != "dropped":
                    assert not told.pinned
                    told.state = "dropped"
        if what == "relabel":
            done = {found[e.uuid].relabels > e.relabels for e in targets}
            assert len(done) <= 1, "some of one call and not others"
            for told in targets if done == {True} else []:
                told.relabels += 1
                told.correct(1, 7.0, None)

    @rule()
    def check(self) -> None:
        self._check_all()

    # what readers see

    @rule(mode=st.sampled_from(["all", "exact", "cached"]), select=st.one_of(st.none(), filters))
    def reopen_replay(self, mode: str, select: str | None) -> None:
        if self.replay is not None:
            self.replay.close()
        self.mode, self.select, self.newest_version = mode, select, -1
        self.replay = self._opened()

    @rule()
    def close_replay(self) -> None:
        if self.replay is not None:
            self.replay.close()
            self.replay = None

    def _opened(self) -> Replay:
        return Replay(
            self.own.root, IMAGES, others=[] if self.select is None else [(self.other.root, self.select)],
            ram_bytes=None if self.mode == "all" else 3000, mode="cached" if self.mode == "cached" else "exact", seed=1,
        )  # fmt: skip

    @precondition(lambda self: self.replay is not None)
    @rule(text=filters, newest=st.sampled_from([None, None, 3]), lag=st.sampled_from([None, None, 2]))
    def view(self, text: str, newest: int | None, lag: int | None) -> None:
        """One that has to be kept up to date from now on."""
        assert self.replay is not None
        self.replay.view(text, newest=newest, max_version_lag=lag)
        self._follow(text, newest, lag)

    @precondition(lambda self: self.replay is not None)
    @rule()
    def refresh(self) -> None:
        self._follow()

    @precondition(lambda self: self.replay is not None)
    @rule(horizon=st.integers(1, 4), seed=st.integers(0, 9))
    def sample_what_is_old(self, horizon: int, seed: int) -> None:
        """Without a refresh: what is drawn was there at some time, whatever was done to the files since."""
        assert self.replay is not None
        if not self.replay.demo_transitions + self.replay.online_transitions:
            return
        try:
            batch = self.replay.sample(8, rng=np.random.default_rng(seed), horizon=horizon, copy=True)
        except StoreError:  # all of it was dropped, and the files that were asked are gone
            assert not self.replay.demo_transitions + self.replay.online_transitions
            return
        for i in range(8):
            number, index = divmod(int(batch.observation["count"][i]), 1000)
            before, step = self.seen[1000 * number + index], self.seen[1000 * number + index + 1]
            far = self.seen[int(batch.next_observation["count"][i])]
            assert far.episode == before.episode
            assert index < far.index <= index + horizon
            np.testing.assert_array_equal(batch.observation["camera"][i], before.observation["camera"])
            np.testing.assert_array_equal(batch.next_observation["camera"][i], far.observation["camera"])
            np.testing.assert_array_equal(batch.action[i], step.executed)
            ends = far.kind is Kind.TERMINATED
            assert batch.discount[i] == (0.0 if ends else 1.0)

    def _follow(self, text: str = "", newest: int | None = None, lag: int | None = None, *, fresh: bool = True) -> None:
        """The replay that follows, and one that is new, see what the model says."""
        if self.replay is None:
            return
        self.replay.refresh()
        versions = [
            t.policy_version
            for e in self.own.episodes.values()
            if e.known and e.state != "dropped"
            for t in e.rows[: e.known]
        ]
        self.newest_version = max([self.newest_version, *versions])
        self._look(self.replay, text, newest, lag, self.newest_version)
        if not fresh:
            return
        with self._opened() as new:
            new.refresh()
            self._look(new, text, newest, lag, max([-1, *versions]))

    def _visible(self) -> list[tuple[Told, int, bool]]:
        """(episode, step, whether it is of the other buffer) in the order in which episodes began."""
        found: list[tuple[Told, int, bool]] = []
        for store, select in ((self.other, self.select), (self.own, "")):
            if select is None:
                continue
            for record in records(store.root):
                e = store.episodes[record.uuid]
                if store is self.other and e.state != "complete":
                    continue
                found += [(e, i, store is self.other) for i in steps_of(e) if FILTERS[select](e, e.rows[i])]
        return found

    def _look(self, replay: Replay, text: str, newest: int | None, lag: int | None, version: int) -> None:
        visible = self._visible()
        passing = [s for s in visible if _passes(text, *s)]
        if lag is not None:
            passing = [(e, i, o) for e, i, o in passing if e.rows[i].policy_version >= version - lag]
        sources = [e.rows[i].source for e, i, _ in visible]
        assert replay.composition() == {s: sources.count(s) for s in Source if s in sources}
        assert replay.transitions == len(visible)
        demo = {_key(e, i): _passes("demo|intervention", e, i, o) for e, i, o in visible}
        assert replay.demo_transitions == sum(demo.values())
        assert replay.online_transitions == sum(_passes("!demo,source!=script", *s) for s in visible)
        view = replay.view(text, newest=newest, max_version_lag=lag)
        if newest is not None:
            assert view.size == min(len(passing), newest)
        else:
            assert view.size == len(passing)
        if not passing:
            with pytest.raises(StoreError, match="nothing to draw"):
                replay.sample(4, mixture=[(view, 1.0)])
            return
        self._look_at(replay, view, {_key(e, i): (e, i) for e, i, _ in passing}, demo)

    def _look_at(self, replay: Replay, view: Any, steps: dict[int, tuple[Told, int]], demo: dict[int, bool]) -> None:
        rng = np.random.default_rng(3) if self.mode == "cached" else Evenly()
        for horizon in (1, 3):
            batch = replay.sample(view.size, mixture=[(view, 1.0)], rng=rng, horizon=horizon, gamma=GAMMA)
            keys = [int(k) for k in batch.observation["count"]]
            assert set(keys) <= set(steps)
            assert self.mode == "cached" or len(set(keys)) == view.size
            for at, key in enumerate(keys):
                _check_transition(batch, at, *steps[key], horizon)
                assert bool(batch.demo[at]) == demo[key]
        chunks = replay.sample_chunks(view.size, history=2, chunk=3, mixture=[(view, 1.0)], rng=rng)
        for at, key in enumerate(int(k) for k in chunks.observation["count"][:, -1]):
            told, i = steps[key]
            rows = told.rows[: told.known]
            for j, wanted in enumerate((i - 2, i - 1)):
                now = rows[max(wanted, 0)]
                assert chunks.observation_pad[at, j] == (wanted < 0)
                for name, value in now.observation.items():
                    np.testing.assert_array_equal(chunks.observation[name][at, j], value)
            for j, wanted in enumerate((i, i + 1, i + 2)):
                now = rows[min(wanted, len(rows) - 1)]
                assert chunks.action_pad[at, j] == (wanted >= len(rows))
                np.testing.assert_array_equal(chunks.action[at, j], now.executed)
        told, _ = next(iter(steps.values()))
        whole = replay.episode(told.uuid)
        np.testing.assert_array_equal(
            whole.observation["camera"], [t.observation["camera"] for t in told.rows[: told.known]]
        )
        np.testing.assert_array_equal(whole.reward, np.float32([t.reward for t in told.rows[1 : told.known]]))


def _key(told: Told, i: int) -> int:
    return int(told.rows[i - 1].observation["count"])


def _passes(text: str, told: Told, i: int, other: bool) -> bool:
    """Steps of the other buffer are demonstrations, whatever its marks."""
    was = told.demo
    told.demo = was or other
    try:
        return FILTERS[text](told, told.rows[i])
    finally:
        told.demo = was


def _check_transition(batch: Batch, at: int, told: Told, i: int, horizon: int) -> None:
    rows = told.rows[i : min(i + horizon, told.known)]
    for part, t in ((batch.observation, told.rows[i - 1]), (batch.next_observation, rows[-1])):
        for name, value in t.observation.items():
            np.testing.assert_array_equal(part[name][at], value)
    np.testing.assert_array_equal(batch.action[at], rows[0].executed)
    assert batch.reward[at] == pytest.approx(sum(GAMMA**k * t.reward for k, t in enumerate(rows)), abs=1e-5)
    scale = 0.0 if rows[-1].kind is Kind.TERMINATED else GAMMA ** (len(rows) - 1)
    assert batch.discount[at] == pytest.approx(scale)


EXAMPLES: dict[str, Any] = {
    "deadline": None,
    "stateful_step_count": 30,
    "suppress_health_check": list(HealthCheck),
    "database": None,
}


def test_any_order_of_events_agrees_with_a_plain_model() -> None:
    run_state_machine_as_test(BufferMachine, settings=settings(max_examples=25, derandomize=True, **EXAMPLES))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_orders_of_events_agree_with_a_plain_model() -> None:
    run_state_machine_as_test(BufferMachine, settings=settings(max_examples=1000, derandomize=True, **EXAMPLES))
