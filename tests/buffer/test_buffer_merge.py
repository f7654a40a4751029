"""Merging: copies are the same bit by bit, with all that is known of them, and a merge goes on where it stopped."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from buffer_rows import IMAGES, SCHEMA, episode, records, same, uuid_of
from buffer_sealed import everything

from robolearn.buffer.files import EpisodeFiles
from robolearn.buffer.index import EpisodeRecord, Index, Relabel
from robolearn.buffer.merge import merge
from robolearn.buffer.relabel import relabel
from robolearn.buffer.seal import seal
from robolearn.buffer.store import StorePaths, add_key
from robolearn.buffer.transfer import Copied
from robolearn.buffer.verify import verify
from robolearn.buffer.writer import Writer
from robolearn.core.errors import CorruptDataError, StoreError
from robolearn.core.spec import ArraySpec
from robolearn.core.types import Kind

KEPT = (
    "uuid", "rows", "state", "robot", "task", "source", "demo", "success", "interventions", "total_reward",
    "policy_min", "policy_max", "truncated", "recovered", "first_stamp_ns", "last_stamp_ns", "unix_ns", "tag",
    "relabels",
)  # fmt: skip


def fill(root: Path, numbers: range, *, robot: str = "arm", name: str = "actor", sealed: bool = False) -> Path:
    for number in numbers:
        with Writer(root, IMAGES, name=name, robot=robot, task="peg", unix_ns=lambda n=number: 10**18 + n) as w:
            for t in episode(number, 5, humans=[2] if number % 3 == 0 else [], schema=IMAGES):
                w.append(t)
            w.end_episode(number % 2 == 0, demo=number % 4 == 0)
    if sealed:
        seal(root, everything=True)
    return root


def edit(root: Path, number: int, **changes: object) -> None:
    index = Index(StorePaths(root).index, writable=True)
    try:
        index.edit(uuid_of(number), **changes)  # type: ignore[arg-type]
    finally:
        index.close()


def known(root: Path) -> dict[str, tuple[object, ...]]:
    return {r.uuid: tuple(getattr(r, name) for name in KEPT) for r in records(root) if r.state != "dropped"}


def relabels(root: Path) -> list[tuple[object, ...]]:
    index = Index(StorePaths(root).index, writable=False)
    try:
        return sorted((r.uuid, r.field, r.first, r.values.tobytes()) for r in index.relabels())
    finally:
        index.close()


def recorded_reward(root: Path, number: int, step: int) -> float:
    """A reward as it was before it was corrected."""
    index = Index(StorePaths(root).index, writable=False)
    try:
        with EpisodeFiles(StorePaths(root), index) as files:
            record = index.episode(uuid_of(number))
            assert record is not None
            return float(files.low_dim(dataclasses.replace(record, relabels=0))["reward"][step])
    finally:
        index.close()


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    """One buffer that is partly sealed, with tags and corrections, and another one."""
    a = fill(tmp_path / "a", range(6), sealed=True)
    fill(a, range(6, 9), robot="leg")
    edit(a, 1, tag="good one")
    edit(a, 7, tag="keep", success=True)
    edit(a, 3, dropped=True)
    relabel(
        a, [Relabel(uuid_of(2), "reward", 5, np.array([7.5])), Relabel(uuid_of(2), "reward", 4, np.array([1, 2.0]))]
    )
    relabel(a, [Relabel(uuid_of(6), "source", 1, np.array([1, 1], np.uint8))])
    return [a, fill(tmp_path / "b", range(20, 23))]


def test_everything_that_is_known_comes_along(sources: list[Path], tmp_path: Path) -> None:
    target = fill(tmp_path / "target", range(40, 42))
    before = known(target)
    merged = merge(sources, target)
    assert (merged.episodes, merged.steps, merged.known) == (11, 55, 0)
    assert known(target) == before | known(sources[0]) | known(sources[1])
    assert relabels(target) == relabels(sources[0])
    rows = everything(sources[0]) | everything(sources[1])
    found = everything(target)
    assert all(same(found[u], rows[u]) for u in rows)
    assert found[uuid_of(2)][5].reward == 2.0
    assert recorded_reward(target, 2, 5) == episode(2, 5, schema=IMAGES)[5].reward, "the correction was copied as data"
    for root in (*sources, target):
        assert verify(root).ok, verify(root).problems


def test_merging_again_copies_what_is_new_and_leaves_edits_alone(sources: list[Path], tmp_path: Path) -> None:
    target = tmp_path / "target"
    merge(sources, target)
    edit(target, 1, tag="mine", success=True)
    edit(target, 20, dropped=True)
    relabel(target, [Relabel(uuid_of(2), "reward", 1, np.array([-1.0]))])
    before = [(r.uuid, r.revision) for r in records(target)]
    again = merge(sources, target)
    assert (again.episodes, again.known) == (0, 11)
    assert [(r.uuid, r.revision) for r in records(target)] == before
    fill(sources[1], range(23, 24))
    assert merge(sources, target).sources == {sources[0]: Copied(known=8), sources[1]: Copied(1, 5, known=3)}


@pytest.mark.parametrize(
    ("select", "numbers"),
    [("demo", {0, 4, 8, 20}), ("robot=leg,success", {6, 7, 8}), ("intervention", {0, 6, 21}), ("policy>=26", {21, 22})],
)
def test_only_what_is_selected_comes(sources: list[Path], tmp_path: Path, select: str, numbers: set[int]) -> None:
    edit(sources[0], 8, success=True)
    merge(sources, tmp_path / "target", select=select)
    there = {r.uuid for r in records(tmp_path / "target")}
    assert there == {uuid_of(n) for n in numbers}


def test_an_episode_cut_short_by_a_crash_ends_truncated(tmp_path: Path) -> None:
    source = tmp_path / "source"
    with Writer(source, SCHEMA, name="a", robot="r", task="t") as w:
        for t in episode(1, 4)[:3]:
            w.append(t)
    merge([source], tmp_path / "target")
    assert [t.kind for t in everything(tmp_path / "target")[uuid_of(1)]] == [Kind.FIRST, Kind.MID, Kind.TRUNCATED]


def test_what_cannot_be_merged_is_refused_before_anything_is_copied(sources: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    with Writer(other, SCHEMA, name="a", robot="r", task="t"):
        pass
    target = tmp_path / "target"
    for given, message in (
        ([*sources, other], "camera"),
        ([*sources, tmp_path / "nothing"], "no buffer"),
        ([], "at least one"),
    ):
        with pytest.raises(StoreError, match=message):
            merge(given, target)
    with pytest.raises(StoreError, match="unknown word"):
        merge(sources, target, select="sucess")
    assert not target.exists()
    with pytest.raises(StoreError, match="the target as well"):
        merge([sources[1], sources[0] / ".." / "a"], sources[0])
    add_key(sources[0], ArraySpec("force", (3,)), 0.0)
    with pytest.raises(StoreError, match="force"):
        merge(sources, target)
    merge(sources[:1], target)
    assert np.array_equal(everything(target)[uuid_of(0)][0].observation["force"], np.zeros(3))


def test_damage_is_not_copied(sources: list[Path], tmp_path: Path) -> None:
    log = sources[1] / "logs" / "actor-000002.log"
    data = bytearray(log.read_bytes())
    data[len(data) // 2] ^= 1
    log.write_bytes(data)
    with pytest.raises(CorruptDataError):
        merge(sources[1:], tmp_path / "target")
    assert known(tmp_path / "target").keys() == {uuid_of(20)}
    assert verify(tmp_path / "target").ok


def test_a_source_that_is_sealed_meanwhile_is_followed(
    sources: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from robolearn.buffer import transfer

    real = transfer._Copy._rows

    def and_seal(self: transfer._Copy, record: EpisodeRecord, writer: Writer) -> bool:
        seal(sources[1], everything=True)
        if record.uuid == uuid_of(22):
            edit(sources[1], 22, dropped=True)
        return real(self, record, writer)

    monkeypatch.setattr(transfer._Copy, "_rows", and_seal)
    copied = merge(sources[1:], tmp_path / "target").sources[sources[1]]
    assert copied.episodes + copied.removed == 3
    assert verify(tmp_path / "target").ok


def test_a_source_that_was_pruned_is_counted(
    sources: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from robolearn.buffer import transfer

    monkeypatch.setattr(transfer, "wherever", lambda record, index, read: None)
    assert merge(sources[1:], tmp_path / "target").sources == {sources[1]: Copied(removed=3)}
    monkeypatch.undo()
    assert merge(sources[1:], tmp_path / "target").episodes == 3
    assert verify(tmp_path / "target").ok


def kill_merges(tmp_path: Path, kills: int, seed: int) -> int:
    """Kill merges at random moments; how many left the target half full."""
    rng, count, partial = random.Random(seed), 150, 0
    source = fill_at_once(tmp_path / "source", count)
    expected = known(source)
    for number in range(kills):
        target = tmp_path / f"target-{number // 5}"  # a few kills each
        process = subprocess.Popen([sys.executable, __file__, str(source), str(target)], stdout=subprocess.PIPE)
        with process:
            assert process.stdout is not None
            process.stdout.read(1)
            time.sleep(rng.choice([0.05, 0.2]) * rng.random())
            process.send_signal(signal.SIGKILL)
        if StorePaths(target).schema.exists():
            assert verify(target).ok, verify(target).problems
            partial += 0 < len(records(target)) < count
        if number % 5 == 4 or number == kills - 1:
            merge([source], target)
            assert known(target) == expected
            assert relabels(target) == relabels(source)
            assert verify(target).ok
    return partial


def fill_at_once(root: Path, count: int) -> Path:
    with Writer(root, IMAGES, name="actor", robot="arm", task="peg") as w:
        for number in range(count):
            for t in episode(number, 5, schema=IMAGES):
                w.append(t)
            w.end_episode(number % 2 == 0, wait=False)
    seal(root, everything=True)
    for number in range(0, count, 10):
        edit(root, number, tag=f"n{number}")
    relabel(root, [Relabel(uuid_of(n), "reward", 5, np.array([7.5])) for n in range(count)])
    return root


def test_a_merge_that_is_killed_goes_on(tmp_path: Path) -> None:
    kill_merges(tmp_path, 5, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_merges_that_are_killed_often_go_on(tmp_path: Path) -> None:
    assert kill_merges(tmp_path, 55, seed=0) > 10


if __name__ == "__main__":
    os.write(1, b".")
    merge([Path(sys.argv[1])], Path(sys.argv[2]))
    time.sleep(60)
