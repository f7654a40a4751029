"""Positions: runs of them are given out, grow, move and come back without ever overlapping."""

import os

import numpy as np
import pytest
from buffer_rows import SCHEMA, episode
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from robolearn.buffer.arena import Arena
from robolearn.buffer.log import HEAD
from robolearn.buffer.memory import Memory
from robolearn.buffer.rows import RowPacker
from robolearn.buffer.table import Run, Runs, Table
from robolearn.core.errors import StoreError


def packed_rows(number: int, count: int) -> np.ndarray:
    """(count,) rows as they lie in a log."""
    packer = RowPacker(SCHEMA)
    frames = [bytes(packer.pack(t))[HEAD.size :] for t in episode(number, max(count - 1, 1))[:count]]
    return np.frombuffer(b"".join(frames), SCHEMA.row)


def test_memory_is_taken_as_it_is_written_and_given_back() -> None:
    arena = Arena()
    array = arena.array("x", (1 << 22, 16), "u1")
    empty = arena.used_bytes
    array[:4096] = 7
    full = arena.used_bytes
    assert full - empty == 4096 * 16
    arena.release("x", 1, 4095)
    assert arena.used_bytes < full - 8 * 4096
    assert not array[256:3840].any()
    assert (array[0] == 7).all()
    arena.close()
    arena.close()


def test_what_cannot_be_reserved_is_an_error() -> None:
    arena = Arena()
    with pytest.raises(StoreError, match="cannot reserve"):
        arena.array("x", (1 << 60,), "u1")
    arena.close()


def test_closing_lets_go_of_the_handles() -> None:
    before = set(os.listdir("/proc/self/fd"))
    arena = Arena()
    arena.array("x", (16,), "u1")
    arena.close()
    assert set(os.listdir("/proc/self/fd")) == before


class RunsModel(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.runs, self.mine = Runs(), {}

    @rule(count=st.integers(1, 9))
    def take(self, count: int) -> None:
        self.mine[self.runs.take(count)] = count

    @rule(pick=st.integers(0, 99))
    def give(self, pick: int) -> None:
        if self.mine:
            start = sorted(self.mine)[pick % len(self.mine)]
            self.runs.give(start, self.mine.pop(start))

    @rule(pick=st.integers(0, 99), count=st.integers(1, 9))
    def extend(self, pick: int, count: int) -> None:
        if self.mine:
            start = sorted(self.mine)[pick % len(self.mine)]
            if self.runs.extend(start + self.mine[start], count):
                self.mine[start] += count

    @invariant()
    def disjoint(self) -> None:
        if hasattr(self, "mine"):
            used = [p for start, count in self.mine.items() for p in range(start, start + count)]
            assert len(used) == len(set(used))
            assert self.runs.end == max(used, default=-1) + 1


RunsModel.TestCase.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
TestRuns = RunsModel.TestCase


class TableModel(RuleBasedStateMachine):
    """Runs grow, finish, are split and freed in any order: every row stays what it was."""

    @initialize()
    def start(self) -> None:
        self.arena = Arena()
        self.memory = Memory.reserve(SCHEMA, self.arena)
        self.moves: list[tuple[int, int, int, int]] = []
        self.table = Table(self.memory, lambda *move: self.moves.append(move))
        self.runs: list[tuple[Run, int, int]] = []  # run, episode, first row
        self.number = 0

    @rule(count=st.integers(1, 40))
    def begin(self, count: int) -> None:
        self.number += 1
        run = self.table.begin(self.number)
        self.table.append(run, packed_rows(self.number, 200)[:count], growing=True)
        self.runs.append((run, self.number, 0))

    @rule(pick=st.integers(0, 99), count=st.integers(1, 60))
    def grow(self, pick: int, count: int) -> None:
        if self.runs:
            run, number, first = self.runs[pick % len(self.runs)]
            rows = packed_rows(number, 200)[first + run.rows : first + run.rows + count]
            before, moves = run.first, len(self.moves)
            self.table.append(run, rows, growing=True)
            assert (run.first == before) == (len(self.moves) == moves)

    @rule(pick=st.integers(0, 99))
    def finish(self, pick: int) -> None:
        if self.runs:
            run = self.runs[pick % len(self.runs)][0]
            self.table.finish(run)
            assert run.room == run.rows

    @rule(pick=st.integers(0, 99))
    def free(self, pick: int) -> None:
        if self.runs:
            self.table.free(self.runs.pop(pick % len(self.runs))[0])

    @rule(pick=st.integers(0, 99), at=st.integers(0, 99))
    def split(self, pick: int, at: int) -> None:
        if self.runs:
            run, number, first = self.runs[pick % len(self.runs)]
            start = at % run.rows
            part = self.table.part(run, start, run.rows - start)
            self.runs.append((part, number, first + start))

    @invariant()
    def rows_are_what_they_were(self) -> None:
        if not hasattr(self, "runs"):
            return
        assert self.table.rows == sum(run.rows for run, *_ in self.runs)
        counts = self.memory.packed[: self.table.end].view(SCHEMA.sample)["observation/count"][:, 0]
        for run, number, first in self.runs:
            expected = 1000 * number + first + np.arange(run.rows)
            assert np.array_equal(counts[run.first : run.stop], expected)
            assert (self.memory.owner[run.first : run.stop] == run.number).all()
            assert (self.memory.first[run.number], self.memory.last[run.number]) == (run.first, run.stop - 1)
        assert self.memory.control[1] % 2 == 0

    def teardown(self) -> None:
        if hasattr(self, "arena"):
            self.arena.close()


TableModel.TestCase.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)
TestTable = TableModel.TestCase
