"""Many processes at one buffer: two sealers, corrections while sealing, readers while pruning, and who dies amid it."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from buffer_rows import IMAGES, episode, records, same, uuid_of
from buffer_sealed import everything, sealed, write

from robolearn.buffer import repair as repair_module
from robolearn.buffer.index import Index, Relabel, SegmentRecord
from robolearn.buffer.relabel import relabel
from robolearn.buffer.repair import repair
from robolearn.buffer.replay import Replay
from robolearn.buffer.retain import prune
from robolearn.buffer.seal import seal
from robolearn.buffer.segment import SegmentReader
from robolearn.buffer.verify import verify
from robolearn.buffer.writer import Writer
from robolearn.core.errors import StoreError

STEPS, CORRECTED = 7, 3


def start(role: str, root: Path, *arguments: object) -> subprocess.Popen[str]:
    """A process that plays one of the roles below; it ends when its standard input does."""
    script = f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom test_buffer_contention import *\n"
    script += f"{role}(Path(sys.argv[1]), *map(int, sys.argv[2:]))\n"
    command = [sys.executable, "-c", script, str(root), *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ended() -> Callable[[], bool]:
    """Whether the parent has closed our standard input."""
    thread = threading.Thread(target=sys.stdin.read)
    thread.start()
    return lambda: not thread.is_alive()


def say(*words: str) -> None:
    os.write(1, "".join(f"{word}\n" for word in words).encode())


def seal_all(root: Path) -> None:
    """Seal whatever there is, and say what was made; once more at the end."""
    done, last = ended(), False
    while not last:
        last = done()
        try:
            say(*seal(root, everything=True))
        except StoreError as error:
            if "by another process" not in str(error):
                raise


def correct(root: Path, episodes: int) -> None:
    """Correct a step of each episode as soon as it is complete."""
    done, last, left = ended(), False, set(range(episodes))
    while left and not last:
        last = done()
        known = {r.uuid for r in records(root) if r.state == "complete"}
        for number in sorted(n for n in left if uuid_of(n) in known):
            relabel(root, [Relabel(uuid_of(number), "reward", CORRECTED, np.array([1000.0 + number]))])
            left.discard(number)
    assert not left, left


def learn(root: Path) -> None:
    """Sample from disk all the time, and compare every row with what was written, or corrected."""
    done, last = ended(), False
    with Replay(root, IMAGES, ram_bytes=100) as replay:
        while not last:
            last = done()
            replay.refresh()
            if replay.transitions:
                batch = replay.sample(32, demo_fraction=0.0)
                for i, count in enumerate(batch.next_observation["count"].tolist()):
                    number, index = divmod(count, 1000)
                    row = episode(number, STEPS, humans=[2], schema=IMAGES)[index]
                    for key in IMAGES.observation:
                        assert np.array_equal(batch.next_observation[key][i], row.observation[key])
                    rewards = [np.float32(row.reward)] + [1000.0 + number] * (index == CORRECTED)
                    assert batch.reward[i] in rewards, (number, index)
                say("batch")


def test_two_sealers_a_writer_corrections_and_a_learner_at_once(tmp_path: Path) -> None:
    episodes, root = 12, tmp_path / "buffer"
    Writer(root, IMAGES, name="a", robot="arm", task="peg").close()
    processes = [
        start("seal_all", root),
        start("seal_all", root),
        start("learn", root),
        start("correct", root, episodes),
    ]
    try:
        write(root, range(episodes), name="a", log_bytes=1)
        said = [process.communicate(timeout=120)[0].split() for process in [*processes[3:], *processes[:3]]][1:]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0] * 4
    made = said[0] + said[1]
    assert sorted(made) == sorted(p.name for p in (root / "segments").iterdir())
    assert said[2]  # batches
    found = everything(root)
    for number in range(episodes):
        rows = episode(number, STEPS, humans=[2], schema=IMAGES)
        assert [t.reward for t in found[uuid_of(number)]] == [
            1000.0 + number if t.index == CORRECTED else t.reward for t in rows
        ]
    assert {r.segment != "" for r in records(root)} == {True}
    assert verify(root).ok, verify(root).problems


def hold(root: Path) -> None:
    """Read from a segment, and keep it open."""
    reader = SegmentReader(root / "segments" / "a-000001")
    say("open")
    sys.stdin.read()
    reader.close()


def unpinned(root: Path, numbers: range, name: str = "a") -> list[str]:
    """Sealed episodes that may be pruned; names of the segments."""
    with Writer(root, IMAGES, name=name, robot="arm", task="peg") as w:
        for number in numbers:
            for t in episode(number, STEPS, schema=IMAGES):
                w.append(t)
            w.end_episode(True)
    return seal(root, everything=True)


def test_what_another_process_reads_stays_until_it_dies(tmp_path: Path) -> None:
    unpinned(tmp_path, range(2))
    unpinned(tmp_path, range(2, 4), "b")
    with start("hold", tmp_path) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "open\n"
        done = prune(tmp_path, max_bytes=0)
        reader.send_signal(signal.SIGKILL)
    assert (done.kept, [one.segment for one in done.dropped]) == ({"a-000001": "a reader has it open"}, ["b-000001"])
    assert [one.segment for one in prune(tmp_path, max_bytes=0).dropped] == ["a-000001"]


def test_a_reader_waits_for_who_only_looks_whether_a_segment_is_used(tmp_path: Path) -> None:
    (name,) = unpinned(tmp_path, range(2))
    truth, stop = everything(tmp_path), threading.Event()

    def look() -> None:
        folder = os.open(tmp_path / "segments" / name, os.O_RDONLY)
        while not stop.is_set():
            fcntl.flock(folder, fcntl.LOCK_EX)  # the readers of this test hold it for a moment only, too
            time.sleep(0.01)
            fcntl.flock(folder, fcntl.LOCK_UN)
            time.sleep(0.001)
        os.close(folder)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(20):
            found = everything(tmp_path)
            assert all(same(found[u], truth[u]) for u in truth)
            assert verify(tmp_path).ok
    finally:
        stop.set()
        thread.join()


class _Died(BaseException):
    pass


def test_sealing_removes_what_a_pruner_that_died_left_unless_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpinned(tmp_path, range(2))
    folder = tmp_path / "segments" / "a-000001"

    def die(*_: object) -> None:
        raise _Died

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", die)
        with pytest.raises(_Died):
            prune(tmp_path, max_bytes=0)
    assert {r.state for r in records(tmp_path)} == {"dropped"}
    assert folder.is_dir()
    reader = SegmentReader(folder)
    seal(tmp_path)
    assert folder.is_dir()
    reader.close()
    seal(tmp_path)
    assert not folder.exists()
    assert verify(tmp_path).ok


@pytest.mark.parametrize("moment", ["write_segment", "part", "put_segment", "dropped", "remove_leftovers"])
def test_a_repair_that_dies_deletes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    root, crash, lost = tmp_path / "buffer", tmp_path / "crash", 4
    sealed(root, range(3), name="a")
    sealed(root, range(3, 6), name="b")
    truth, shard = everything(root), "observation/camera/c.0.0.0.0"
    path = root / "segments" / "b-000001" / shard
    damaged = bytearray(path.read_bytes())
    damaged[60 * 9 + 5] ^= 1  # an image of episode 4
    path.write_bytes(damaged)
    calls = []

    def die(*_: object, **__: object) -> None:
        shutil.copytree(root, crash)
        raise _Died

    def part(source: str, target: str) -> None:
        shutil.copyfile(source, target)
        die()

    def second(*_: object) -> None:
        calls.append(1)
        if len(calls) > 1:
            die()

    def dropped(index: Index, segment: SegmentRecord) -> None:
        if segment.state == "dropped":
            die()

    target, name, act = {
        "part": (repair_module, "_link", part),
        "put_segment": (Index, "put_segment", die),
        "dropped": (Index, "put_segment", dropped),
        "remove_leftovers": (repair_module, "remove_leftovers", second),
    }.get(moment, (repair_module, moment, die))
    with monkeypatch.context() as patch:
        patch.setattr(target, name, act)
        with pytest.raises(_Died):
            repair(root)
    seal(crash, everything=True)
    prune(crash, max_bytes=0)
    repair(crash)
    assert verify(crash).ok, verify(crash).problems
    found = everything(crash)
    assert truth.keys() - found.keys() == {uuid_of(lost)}
    assert all(same(found[u], truth[u]) for u in found)
    assert any(p.read_bytes() == damaged for p in (crash / "damaged").glob(f"b-000001*/{shard}"))
    assert not (crash / "segments" / "b-000001").exists()


def test_repair_needs_no_links_of_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed(tmp_path, range(3), name="a")
    path = tmp_path / "segments" / "a-000001" / "reward" / "zarr.json"
    path.write_bytes(b"x")

    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    assert repair(tmp_path)
    assert (tmp_path / "damaged" / "a-000001.1" / "reward" / "zarr.json").read_bytes() == b"x"
    assert verify(tmp_path).episodes == 3
