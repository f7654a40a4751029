"""A thread draws ahead: same batches, failures reach the caller, nothing hangs."""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from buffer_rows import SCHEMA, episode

from robolearn.buffer.prefetch import Prefetch
from robolearn.buffer.replay import Replay
from robolearn.buffer.writer import Writer
from robolearn.core.errors import StoreError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    with Writer(tmp_path, SCHEMA, name="actor", robot="arm", task="peg") as w:
        for number in range(1, 5):
            for t in episode(number, 20, humans=[4]):
                w.append(t)
            w.end_episode(True)
    return tmp_path


def opened(root: Path) -> Replay:
    replay = Replay(root, SCHEMA, seed=0)
    replay.refresh()
    return replay


def test_batches_are_those_that_sample_gives(root: Path) -> None:
    with opened(root) as replay, opened(root) as again:
        rng = np.random.default_rng(3)
        with replay.prefetch(16, rng=np.random.default_rng(3), horizon=2, gamma=0.9) as ahead:
            for _ in range(30):
                batch, expected = ahead.next(), again.sample(16, rng=rng, horizon=2, gamma=0.9)
                assert np.array_equal(batch.observation["q"], expected.observation["q"])
                assert np.array_equal(batch.reward, expected.reward)
        with replay.prefetch_chunks(8, chunk=4, rng=np.random.default_rng(5)) as chunks:
            expected_chunk = again.sample_chunks(8, chunk=4, rng=np.random.default_rng(5))
            assert np.array_equal(next(iter(chunks)).action, expected_chunk.action)
    assert not [t for t in threading.enumerate() if t.name == "buffer-prefetch"]


@pytest.mark.parametrize("depth", [1, 3])
def test_a_batch_stays_until_the_next_is_asked_for(root: Path, depth: int) -> None:
    with opened(root) as replay, replay.prefetch(16, depth=depth) as ahead:
        for _ in range(20):
            batch = ahead.next()
            kept = batch.observation["q"].copy()
            deadline = time.monotonic() + 5
            while len(ahead._ready) < depth and time.monotonic() < deadline:
                time.sleep(0.001)
            assert np.array_equal(batch.observation["q"], kept)


def test_what_drawing_raises_reaches_the_caller(tmp_path: Path) -> None:
    with Replay(tmp_path, SCHEMA) as replay, replay.prefetch(4) as ahead:
        for _ in range(2):
            with pytest.raises(StoreError, match="nothing to draw"):
                ahead.next()


def test_what_was_drawn_before_a_failure_comes_first() -> None:
    left = [1, 2, 3]

    def draw() -> int:
        if not left:
            raise ValueError("empty")
        return left.pop(0)

    with Prefetch(draw, 5) as ahead:
        assert [ahead.next() for _ in range(3)] == [1, 2, 3]
        with pytest.raises(ValueError, match="empty"):
            ahead.next()


def test_closing_ends_a_thread_that_waits_and_one_that_draws() -> None:
    begun = threading.Event()

    def slow() -> int:
        begun.set()
        time.sleep(0.05)
        return 1

    for wait in (False, True):
        ahead = Prefetch(slow, 1)
        begun.wait(5)
        if wait:
            ahead.next()
        ahead.close()
        ahead.close()
        with pytest.raises(StoreError, match="closed"):
            ahead.next()


def test_closing_wakes_a_caller_that_waits() -> None:
    release = threading.Event()

    def never() -> int:
        release.wait(10)
        return 1

    ahead, problems = Prefetch(never, 1), []

    def ask() -> None:
        try:
            ahead.next()
        except StoreError as error:
            problems.append(str(error))

    caller = threading.Thread(target=ask)
    caller.start()
    while not ahead.waited:
        time.sleep(0.001)
    closer = threading.Thread(target=ahead.close)
    closer.start()
    caller.join(5)
    assert not caller.is_alive()
    assert "closed" in problems[0]
    release.set()
    closer.join()


def test_a_closed_replay_ends_its_prefetch(root: Path) -> None:
    replay = opened(root)
    with replay.prefetch(4) as ahead:
        while len(ahead._ready) < 2:
            time.sleep(0.001)
        replay.close()
        for _ in range(2):  # drawn before
            ahead.next()
        with pytest.raises(StoreError, match="closed"):
            [ahead.next() for _ in range(2)]


def _in_child(calls: list[Callable[[], object]], out: "multiprocessing.connection.Connection") -> None:  # type: ignore[name-defined]
    for call in calls:
        try:
            call()
            out.send("nothing raised")
        except StoreError as error:
            out.send(str(error))
    os._exit(0)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_is_noticed(root: Path) -> None:
    context = multiprocessing.get_context("fork")
    with opened(root) as replay, replay.prefetch(8) as ahead:
        ahead.next()
        calls = [lambda: replay.sample(4), replay.refresh, ahead.next, lambda: replay.sample_chunks(2)]
        mine, theirs = context.Pipe()
        child = context.Process(target=_in_child, args=(calls, theirs))
        child.start()
        for _ in calls:
            assert mine.poll(30)
            assert "by a fork" in mine.recv()
        child.join()
        ahead.next()
        replay.sample(4)
        mine.close()
        theirs.close()


def test_a_depth_of_none_is_refused() -> None:
    with pytest.raises(StoreError, match="depth >= 1"):
        Prefetch(lambda: 1, 0)
