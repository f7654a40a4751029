"""A disk that is full at any stage of anything: an error that says so, and nothing that was acknowledged is lost."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from buffer_rows import IMAGES, contents, episode, records, same, uuid_of
from buffer_sealed import everything
from test_buffer_writer import write, writer

from robolearn.buffer.index import Index, Relabel
from robolearn.buffer.interchange import export_lerobot
from robolearn.buffer.merge import merge
from robolearn.buffer.relabel import relabel
from robolearn.buffer.repair import repair
from robolearn.buffer.replay import Replay
from robolearn.buffer.retain import prune
from robolearn.buffer.seal import seal
from robolearn.buffer.store import StorePaths, add_key
from robolearn.buffer.verify import verify
from robolearn.buffer.writer import Writer
from robolearn.core.errors import StoreError
from robolearn.core.spec import ArraySpec

FULL = "the disk is full: free some space and try again"


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of two megabytes, where the user may mount one."""
    with tempfile.TemporaryDirectory() as folder:
        mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder]
        try:
            done = subprocess.run(mount, capture_output=True, check=False)
        except OSError:
            pytest.skip("there is no mount command")
        if done.returncode:
            pytest.skip("this user cannot mount a file system")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", folder], check=True)


def leave(disk: Path, room: int) -> None:
    """Fill all of a file system but ``room`` bytes."""
    ballast = disk / "ballast"
    ballast.unlink(missing_ok=True)
    stat = os.statvfs(disk)
    ballast.write_bytes(bytes(max(0, stat.f_bavail * stat.f_bsize - room)))


def put(root: Path, numbers: range, name: str = "actor") -> None:
    """Episodes with images, each in a log of its own; none is pinned."""
    with Writer(root, IMAGES, name=name, robot="arm", task="peg", log_bytes=1) as w:
        for number in numbers:
            write(w, episode(number, 7, schema=IMAGES))


_numbers = itertools.count(1000)


def put_new(root: Path) -> None:
    """Three episodes with new ids: of those a full disk stopped, what was appended is kept."""
    put(root, range(number := next(_numbers) * 3, number + 3), "late")


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[0] ^= 1
    path.write_bytes(raw)


def tag(root: Path) -> None:
    index = Index(StorePaths(root).index, writable=True)
    try:
        index.edit([uuid_of(n) for n in range(12)], tag="long " * 400)
    finally:
        index.close()


# what is called, which of episodes 0 to 11 it takes away
STAGES: dict[str, tuple[Callable[[Path, Path], object], set[int]]] = {
    "write": (lambda root, other: put_new(root), set()),
    "seal": (lambda root, other: seal(root, everything=True), set()),
    "prune": (lambda root, other: prune(root, max_bytes=0), set(range(6))),
    "merge": (lambda root, other: merge([other], root), set()),
    "new": (lambda root, other: put_new(root.parent / "new"), set()),
    "add_key": (lambda root, other: add_key(root, ArraySpec("extra", (2,)), 0.0), set()),
    "relabel": (lambda root, other: relabel(root, [Relabel(uuid_of(2), "source", 1, np.array([1]))]), set()),
    "tag": (lambda root, other: tag(root), set()),
    "export": (lambda root, other: export_lerobot(root, root.parent / "out", fps=10.0), set()),
    "repair": (lambda root, other: repair(root), set()),
}


@pytest.mark.parametrize("step", [44 << 10, pytest.param(4 << 10, marks=pytest.mark.slow)])
@pytest.mark.parametrize("stage", STAGES)
def test_whatever_fails_can_be_done_again_when_there_is_room(
    small_disk: Path, tmp_path: Path, stage: str, step: int
) -> None:
    """Ever more room, so that it fails at one place after the other, on the same buffer."""
    root, other = small_disk / "buffer", tmp_path / "other"
    put(root, range(6))
    seal(root, everything=True)
    put(root, range(6, 12), "second")
    put(other, range(100, 120))
    truth, damaged = everything(root), False
    if stage == "repair":  # of one whose damage costs nothing
        flip(root / "segments" / "actor-000001" / "reward" / "zarr.json")
        damaged = True
    attempt, gone = STAGES[stage]
    errors: list[str] = []
    for room in range(0, 2 << 20, step):
        leave(small_disk, room)
        try:
            attempt(root, other)
            break
        except StoreError as error:
            errors.append(str(error))
        finally:
            (small_disk / "ballast").unlink()
        assert errors[-1].endswith(FULL), errors[-1]
        assert verify(root).ok != damaged, (room, verify(root).problems)
        found = everything(root)
        assert all(same(found[u], truth[u]) for u in truth), room
        assert not (small_disk / "out").exists()
    assert errors
    assert verify(root).ok, verify(root).problems
    found = everything(root)
    assert truth.keys() - found.keys() == {uuid_of(n) for n in gone}
    if stage not in ("add_key", "relabel"):  # which change what is read
        assert all(same(found[u], truth[u]) for u in truth.keys() & found.keys())
    if stage == "new":
        assert verify(small_disk / "new").ok
        assert sum(r.state == "complete" for r in records(small_disk / "new")) >= 3
    if stage == "merge":
        assert all(same(found[uuid_of(n)], episode(n, 7, schema=IMAGES)) for n in range(100, 120))
    if stage == "export":
        assert (small_disk / "out" / "meta" / "info.json").exists()
        shutil.rmtree(small_disk / "out")
    if stage != "add_key":
        put(root, range(200, 201))
    seal(root, everything=True)
    assert verify(root).ok, verify(root).problems


def test_a_learner_goes_on_sampling_and_a_prune_makes_room(small_disk: Path) -> None:
    root = small_disk / "buffer"
    put(root, range(12))
    seal(root, everything=True)
    with Replay(root, IMAGES, ram_bytes=100) as replay:  # images come from disk
        replay.refresh()
        leave(small_disk, 0)
        with pytest.raises(StoreError, match="is full"):
            put(root, range(50, 51), "late")
        replay.refresh()
        batch = replay.sample(64, demo_fraction=0.0)
        for i, count in enumerate(batch.next_observation["count"].tolist()):
            image = episode(count // 1000, 7, schema=IMAGES)[count % 1000].observation["camera"]
            assert np.array_equal(batch.next_observation["camera"][i], image)
    leave(small_disk, 160 << 10)  # what the index needs
    assert prune(root, max_bytes=0).dropped
    put(root, range(50, 51), "late")
    (small_disk / "ballast").unlink()
    assert verify(root).ok
    assert same(everything(root)[uuid_of(50)], episode(50, 7, schema=IMAGES))


@pytest.mark.parametrize("log_bytes", [1, 1 << 20])
def test_a_full_file_system_at_every_stage(small_disk: Path, log_bytes: int) -> None:
    """More room from episode to episode: one stage after the other fails; every acknowledged episode stays."""
    ballast, root = small_disk / "ballast", small_disk / "buffer"
    acknowledged, errors = [], []
    w = writer(root, log_bytes=log_bytes)
    for number, room in enumerate([*range(0, 66_000, 6_000), 100_000]):
        leave(small_disk, room)
        try:
            write(w, episode(number, 30))
            acknowledged.append(number)
        except StoreError as error:
            errors.append(str(error))
            try:
                w.close()
            except StoreError as late:
                errors.append(str(late))
            assert verify(root).ok, verify(root)
            ballast.unlink()
            w = writer(root, log_bytes=log_bytes)
    ballast.unlink()
    write(w, episode(1000, 30))
    w.close()
    assert errors
    assert acknowledged
    found = contents(root)
    assert all(same(found[uuid_of(n)], episode(n, 30)) for n in [*acknowledged, 1000])
    assert {r.state for r in records(root)} <= {"complete"}
    assert verify(root).ok
