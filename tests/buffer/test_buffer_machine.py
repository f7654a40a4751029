"""Any order of what people and processes do to a buffer, against a plain model of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from buffer_model import Told
from buffer_readers import Readers
from buffer_rows import IMAGES, crash_image, logs, records, row
from buffer_store import ROBOTS, Store, killed_at
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from robolearn.buffer.index import Index, Relabel
from robolearn.buffer.recover import recover
from robolearn.buffer.relabel import relabel
from robolearn.buffer.repair import repair
from robolearn.buffer.retain import Pruned, prune
from robolearn.buffer.seal import seal
from robolearn.buffer.store import StorePaths
from robolearn.core.errors import StoreError
from robolearn.core.types import Kind, Source, Transition

names = st.sampled_from(sorted(ROBOTS))


class BufferMachine(Readers):
    def __init__(self) -> None:
        super().__init__()
        self.images = 0
        self.numbers = 0
        self.running: dict[tuple[int, str], int] = {}
        for number, end in enumerate([Kind.TERMINATED, Kind.TRUNCATED, Kind.TERMINATED]):
            self._write(self.other, "a", 2 + number, Source.HUMAN if number == 1 else Source.POLICY, None)
            self._end(self.other, "a", end, number != 2, number == 0, wait=True)
        self.other.close("a")
        for number, name in enumerate("aabab"):
            self._write(self.own, name, 3 + number % 3, Source.HUMAN if number == 2 else Source.POLICY, None)
            self._end(self.own, name, Kind.TERMINATED if number else Kind.TRUNCATED, number == 1, None, wait=True)
        self.replay = self._opened()

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

    @rule(name=names, told=st.integers(0, 8), more=st.integers(0, 12), source=st.sampled_from(Source))
    def crash(self, name: str, told: int, more: int, source: Source) -> None:
        """Mostly within a long episode, of which the index knows the beginning or nothing."""
        if told:
            self._write(self.own, name, told, Source.POLICY, None)
            self.flush(name, durable=False)
        self._write(self.own, name, more, source, None)
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
    """Others in every run; the failing example is printed."""
    run_state_machine_as_test(BufferMachine, settings=settings(max_examples=1000, **EXAMPLES))
