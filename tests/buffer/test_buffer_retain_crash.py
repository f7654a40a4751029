"""Pruners are killed at random moments, under a writer, a sealer and a reader."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from buffer_pruned import STEPS, check, intact
from buffer_rows import IMAGES, episode, records, uuid_of
from buffer_sealed import sealed

from robolearn.buffer import retain as retain_module
from robolearn.buffer import seal as seal_module
from robolearn.buffer.files import EpisodeFiles
from robolearn.buffer.index import EpisodeRecord, Index
from robolearn.buffer.recover import recover
from robolearn.buffer.replay import Replay
from robolearn.buffer.retain import Pruned, prune
from robolearn.buffer.seal import seal
from robolearn.buffer.store import StorePaths
from robolearn.buffer.verify import verify
from robolearn.buffer.writer import Writer
from robolearn.core.errors import StoreError

DEMO_EVERY, HUMAN_EVERY, SMALL = 20, 33, 10_000


def is_given(number: int) -> bool:
    """Whether an episode must never go."""
    return number % DEMO_EVERY == 0 or number % HUMAN_EVERY == 0


def _write_forever(root: str, sleep_s: str, first: str, stop: str) -> None:
    with Writer(Path(root), IMAGES, name="actor", robot="r", task="t", log_bytes=3000, commit_every_s=0.01) as w:
        os.write(1, b"open\n")
        for number in range(int(first), int(stop)):
            humans = (2,) if number % HUMAN_EVERY == 0 else ()
            for t in episode(number, STEPS, humans=humans, schema=IMAGES):
                w.append(t)
            w.end_episode(True, demo=number % DEMO_EVERY == 0)
            os.write(1, f"{number}\n".encode())
            time.sleep(float(sleep_s))


def _seal_forever(root: str) -> None:
    seal_module.MAX_BYTES = SMALL  # many small segments, most of them without anything pinned
    os.write(1, b"open\n")
    while True:
        try:
            seal(Path(root), min_bytes=SMALL // 2)
        except StoreError as error:
            if "another process" not in str(error):  # the pruner is at work
                raise
        time.sleep(0.1)


def _prune_forever(root: str, max_bytes: str) -> None:
    """Says ``open`` when it is its turn: what comes then is worth a kill."""
    real = retain_module._Pruner.run

    def run(self: retain_module._Pruner) -> Pruned:
        os.write(1, b"open\n")
        return real(self)

    retain_module._Pruner.run = run  # type: ignore[method-assign]
    while True:
        prune(Path(root), max_bytes=int(max_bytes))


def _read_forever(root: str, seed: str) -> None:
    """Read episodes at random, with handles that stay open; fails if one is not as it was written."""
    rng = random.Random(int(seed))
    index = Index(StorePaths(Path(root)).index, writable=False)
    os.write(1, b"open\n")
    with EpisodeFiles(StorePaths(Path(root)), index, handles=3) as files:
        while True:
            live = [r for r in index.changes() if r.state == "complete"]
            for record in rng.sample(live, min(len(live), 20)):
                check(record, index, files)
            os.write(1, b".\n")


def _start(stack: ExitStack, out: Path, *arguments: str) -> subprocess.Popen[bytes]:
    with open(out, "wb") as file:
        process = stack.enter_context(subprocess.Popen([sys.executable, __file__, *arguments], stdout=file))
    stack.callback(process.kill)
    deadline = time.monotonic() + 60.0
    while not out.read_bytes().startswith(b"open\n"):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.002)
    return process


def states(root: Path) -> dict[str, str]:
    """Segment -> live or dropped."""
    index = Index(StorePaths(root).index, writable=False)
    try:
        return {name: segment.state for name, segment in index.segments().items()}
    finally:
        index.close()


def dropped(root: Path) -> int:
    """Segments that were dropped."""
    return sum(state == "dropped" for state in states(root).values())


def kill_pruners(tmp_path: Path, kills: int, seed: int) -> int:
    """Kill pruners, under a writer, a sealer and a reader; how many segments were dropped."""
    rng, root = random.Random(seed), tmp_path / "buffer"
    with ExitStack() as stack:
        assert _start(stack, tmp_path / "first", "write", str(root), "0", "0", "100").wait(60.0) == 0
        stack.enter_context(pytest.MonkeyPatch.context()).setattr(seal_module, "MAX_BYTES", SMALL)
        assert len(seal(root, everything=True)) > 10
        writer = _start(stack, tmp_path / "said", "write", str(root), "0.05", "100", str(1 << 30))
        sealer = _start(stack, tmp_path / "sealed", "seal", str(root))
        reader = _start(stack, tmp_path / "read", "read", str(root), str(seed))
        for number in range(10 * kills):
            if number >= kills and dropped(root):
                break  # a slow machine needs more kills until one falls into the pruning
            pruner = _start(stack, tmp_path / "pruned", "prune", str(root), "60000")
            time.sleep(rng.choice([0.02, 0.1, 0.4]) * rng.random())
            assert pruner.poll() is None, "the pruner failed"
            pruner.send_signal(signal.SIGKILL)
            assert pruner.wait(30.0) == -signal.SIGKILL
            assert reader.poll() is None, "the reader failed"
            if number % 8 == 0:
                assert verify(root).ok, verify(root).problems
        for process in (writer, sealer, reader):
            assert process.poll() is None, "writer, sealer or reader failed"
            process.send_signal(signal.SIGKILL)
            process.wait(30.0)
    recover(root)
    said = [int(n) for name in ("first", "said") for n in (tmp_path / name).read_text().split("\n")[1:-1]]
    index = {r.uuid: r for r in records(root)}
    assert not [n for n in said if uuid_of(n) not in index], "an acknowledged episode is not even in the index"
    there = intact(root)
    assert not [n for n in said if is_given(n) and uuid_of(n) not in there], "something pinned is lost"
    left = prune(root, max_bytes=1 << 40)
    assert left.waiting == []
    live = {name for name, state in states(root).items() if state == "live"}
    assert {p.name for p in (root / "segments").iterdir()} == live
    assert intact(root) == there
    return dropped(root)


def test_killed_pruners_lose_nothing_pinned(tmp_path: Path) -> None:
    assert kill_pruners(tmp_path, 6, seed=1) > 0


def test_a_reader_takes_in_the_rest_while_one_segment_after_another_is_pruned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, gone, real = tmp_path / "buffer", 10, EpisodeFiles.low_dim
    monkeypatch.setattr(seal_module, "MAX_BYTES", 1)
    sealed(root, range(1, gone + 6), log_bytes=1, humans=())
    oldest = [r.uuid for r in records(root)][:gone]

    def pruned_first(self: EpisodeFiles, record: EpisodeRecord, *where: int) -> object:
        if record.uuid in oldest:
            prune(root, older_than_s=0.0, unix_ns=lambda: record.unix_ns + 1000)
        return real(self, record, *where)

    monkeypatch.setattr(EpisodeFiles, "low_dim", pruned_first)
    with Replay(root, IMAGES) as replay:
        replay.refresh()
        assert (replay.episodes, replay.transitions) == (5, 5 * 7)
        assert all(len(replay.episode(uuid_of(number)).reward) == 7 for number in range(gone + 1, gone + 6))
    assert dropped(root) == gone


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(2))
def test_many_killed_pruners_lose_nothing_pinned(tmp_path: Path, seed: int) -> None:
    assert kill_pruners(tmp_path, 55, seed) > 10


if __name__ == "__main__":
    {"write": _write_forever, "seal": _seal_forever, "prune": _prune_forever, "read": _read_forever}[sys.argv[1]](
        *sys.argv[2:]
    )
