"""Rows come back corrected and in the newest schema, from logs and from segments."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from buffer_rows import IMAGES, SCHEMA, episode, records, same, uuid_of
from buffer_sealed import everything, sealed, write

from robolearn.buffer.files import EpisodeFiles
from robolearn.buffer.index import EpisodeRecord, Index, Relabel
from robolearn.buffer.relabel import relabel
from robolearn.buffer.schema import Schema
from robolearn.buffer.seal import seal
from robolearn.buffer.store import StorePaths, add_key, read_schema, read_versions
from robolearn.buffer.transfer import copy_demonstrations
from robolearn.buffer.verify import verify
from robolearn.buffer.writer import Writer
from robolearn.core.errors import CorruptDataError, SpecError, StoreError
from robolearn.core.spec import ArraySpec
from robolearn.core.types import Source, Transition

FORCE = ArraySpec("force", (2,), unit="N")
CAMERA = ArraySpec("wrist", (2, 2, 3), "uint8", "rgb")


@contextmanager
def opened(root: Path) -> Iterator[tuple[Index, EpisodeFiles]]:
    index = Index(StorePaths(root).index, writable=False)
    try:
        with EpisodeFiles(StorePaths(root), index) as files:
            yield index, files
    finally:
        index.close()


def record_of(index: Index, number: int) -> EpisodeRecord:
    record = index.episode(uuid_of(number))
    assert record is not None
    return record


@pytest.mark.parametrize("make", [write, sealed])
def test_corrections_are_applied_on_read(tmp_path: Path, make: Callable[..., object]) -> None:
    make(tmp_path, range(3))
    before = records(tmp_path)
    with opened(tmp_path) as (index, files):
        plain = files.rows(record_of(index, 1)).copy()
        relabel(tmp_path, [Relabel(uuid_of(1), "reward", 3, np.array([7.0, 8.0, 9.0]))])
        relabel(
            tmp_path,
            [
                Relabel(uuid_of(1), "reward", 4, np.array([-1.0])),
                Relabel(uuid_of(1), "source", 1, np.full(7, Source.SCRIPT)),
            ],
        )
        record = record_of(index, 1)
        rows = files.rows(record)
        assert rows["reward"].tolist() == [*plain["reward"][:3], 7.0, -1.0, 9.0, *plain["reward"][6:]]
        assert rows["source"].tolist() == [0, *[Source.SCRIPT] * 7]
        assert files.low_dim(record, 4, 2)["reward"].tolist() == [-1.0, 9.0]
        for name in set(rows.dtype.names) - {"reward", "source"}:
            assert np.array_equal(rows[name], plain[name])
        assert record.total_reward == pytest.approx(rows["reward"].sum())
        assert (record.interventions, record.source, record.relabels) == (0, "script", 3)
        assert record.revision > before[1].revision
        assert files.rows(record_of(index, 2))["reward"].tolist() != rows["reward"].tolist()
        seal(tmp_path, everything=True)
        again = files.rows(record_of(index, 1))
        assert all(np.array_equal(again[name], rows[name]) for name in rows.dtype.names)
    assert verify(tmp_path).ok


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (Relabel(uuid_of(1), "reward", 0, np.zeros(1)), "steps 1 to 7"),
        (Relabel(uuid_of(1), "reward", 7, np.zeros(2)), "steps 1 to 7"),
        (Relabel(uuid_of(1), "reward", 1, np.array([np.nan])), "no reward"),
        (Relabel(uuid_of(1), "source", 1, np.array([9])), "no source"),
        (Relabel(uuid_of(1), "kind", 1, np.array([1])), "expected field"),  # type: ignore[arg-type]
        (Relabel(uuid_of(9), "reward", 1, np.zeros(1)), "no such episode"),
    ],
)
def test_corrections_that_make_no_sense_change_nothing(tmp_path: Path, change: Relabel, message: str) -> None:
    write(tmp_path, range(3))
    before = records(tmp_path)
    with pytest.raises(StoreError, match=message):
        relabel(tmp_path, [Relabel(uuid_of(0), "reward", 1, np.ones(2)), change])
    assert records(tmp_path) == before
    index = Index(StorePaths(tmp_path).index, writable=False)
    assert index.relabels() == []
    index.close()


def test_a_lost_correction_is_no_silent_wrong_reward(tmp_path: Path) -> None:
    import sqlite3

    write(tmp_path, range(2))
    relabel(tmp_path, [Relabel(uuid_of(1), "reward", 1, np.ones(2))])
    db = sqlite3.connect(tmp_path / "index.sqlite", isolation_level=None)
    db.execute("DELETE FROM relabels")
    db.close()
    with opened(tmp_path) as (index, files), pytest.raises(CorruptDataError, match="expected 1 corrections"):
        files.low_dim(record_of(index, 1))


def test_copies_have_the_corrections(tmp_path: Path) -> None:
    write(tmp_path / "a", range(2))
    index = Index(StorePaths(tmp_path / "a").index, writable=True)
    index.edit(uuid_of(1), demo=True)
    index.close()
    relabel(tmp_path / "a", [Relabel(uuid_of(1), "reward", 2, np.array([4.0]))])
    seal(tmp_path / "a", everything=True)
    assert copy_demonstrations(tmp_path / "a", tmp_path / "b", IMAGES) == 1
    expected = episode(1, 7, humans=[2], schema=IMAGES)
    expected[2] = dataclasses.replace(expected[2], reward=4.0)
    assert same(everything(tmp_path / "b")[uuid_of(1)], expected)


def with_keys(t: Transition, **keys: np.ndarray) -> Transition:
    return dataclasses.replace(t, observation={**t.observation, **keys})


@pytest.mark.parametrize("seal_at", ["never", "before", "after"])
def test_old_rows_read_as_if_they_had_the_new_keys(tmp_path: Path, seal_at: str) -> None:
    write(tmp_path, range(2), schema=SCHEMA)
    if seal_at == "before":
        seal(tmp_path, everything=True)
    with Writer(tmp_path, SCHEMA, name="old", robot="r", task="t") as old:
        for t in episode(3, 2):
            old.append(t)
        add_key(tmp_path, FORCE, [1.5, -1.0])
        new = add_key(tmp_path, CAMERA, 7)
        old.end_episode(True)
        for t in episode(4, 2):
            old.append(t)
        old.end_episode(True)
    assert read_schema(tmp_path).difference(new) == []
    with Writer(tmp_path, new, name="new", robot="r", task="t") as w:
        newer = [
            with_keys(t, force=np.array([t.index, 2], np.float32), wrist=np.full((2, 2, 3), t.index, np.uint8))
            for t in episode(5, 3)
        ]
        for t in newer:
            w.append(t)
        w.end_episode(True)
    if seal_at == "after":
        assert seal(tmp_path, everything=True)
    found = everything(tmp_path)
    filled = {"force": np.array([1.5, -1.0], np.float32), "wrist": np.full((2, 2, 3), 7, np.uint8)}
    for number, steps in ((0, 7), (1, 7), (3, 2), (4, 2)):
        humans = [2] if steps == 7 else []
        expected = [with_keys(t, **filled) for t in episode(number, steps, humans=humans)]
        assert same(found[uuid_of(number)], expected)
    assert same(found[uuid_of(5)], newer)
    with opened(tmp_path) as (index, files):
        out = np.zeros((2, 2, 2, 3), np.uint8)
        for number, expected_image in ((1, [7, 7]), (5, [3, 0])):
            files.images(record_of(index, number), "wrist", np.array([3, 0]), out)
            assert out[:, 0, 0, 0].tolist() == expected_image
    report = verify(tmp_path)
    assert report.ok, report.problems


def test_a_crash_of_an_older_writer_is_recovered(tmp_path: Path) -> None:
    from buffer_rows import crash_image

    from robolearn.buffer.recover import recover

    with Writer(tmp_path / "live", SCHEMA, name="old", robot="r", task="t") as w:
        for t in episode(1, 5)[:4]:
            w.append(t)
        add_key(tmp_path / "live", FORCE, 0.0)
        root = crash_image(tmp_path / "live", tmp_path / "crash")
    assert recover(root) == ["old"]
    zero = np.zeros(2, np.float32)
    assert same(everything(root)[uuid_of(1)], [with_keys(t, force=zero) for t in episode(1, 5)[:4]])


def test_who_opens_with_the_old_schema_is_shown_the_difference(tmp_path: Path) -> None:
    write(tmp_path, range(1), schema=SCHEMA)
    add_key(tmp_path, FORCE, 0.0)
    with pytest.raises(StoreError, match=r"observation 'force': float32\[2\] -> missing"):
        Writer(tmp_path, SCHEMA, name="old", robot="r", task="t")


@pytest.mark.parametrize(
    ("spec", "fill", "error", "message"),
    [
        (ArraySpec("q", (3,)), 0.0, StoreError, "exists already"),
        (FORCE, [1.0, 2.0, 3.0], SpecError, "fill of 'force'"),
        (FORCE, "x", SpecError, "fill of 'force'"),
        (ArraySpec("n", (), "int32"), 0.5, SpecError, "fill of 'n'"),
        (ArraySpec("q/x", ()), 0.0, StoreError, "below key 'q'"),
        (ArraySpec("../x", ()), 0.0, StoreError, "expected letters"),
    ],
)
def test_keys_that_cannot_be_added(
    tmp_path: Path, spec: ArraySpec, fill: object, error: type[Exception], message: str
) -> None:
    write(tmp_path, range(1), schema=SCHEMA)
    before = read_versions(tmp_path)
    with pytest.raises(error, match=message):
        add_key(tmp_path, spec, fill)
    assert read_versions(tmp_path) == before


def test_few_file_handles_are_enough(tmp_path: Path) -> None:
    import os

    for number in range(6):
        sealed(tmp_path, range(number, number + 1), schema=IMAGES)
    index = Index(StorePaths(tmp_path).index, writable=False)
    before = len(os.listdir("/proc/self/fd"))
    with EpisodeFiles(StorePaths(tmp_path), index, handles=2) as files:
        for record in [*index.changes(), *index.changes()]:
            files.rows(record)
        assert len(os.listdir("/proc/self/fd")) - before <= 4
    assert len(os.listdir("/proc/self/fd")) == before
    index.close()


def test_the_low_dimensional_part_is_a_prefix_of_the_row() -> None:
    schema: Schema = IMAGES
    for name in schema.low_row.names or ():
        assert schema.low_row.fields[name] == schema.row.fields[name]  # type: ignore[index]
    assert set(schema.row.names or ()) - set(schema.low_row.names or ()) == {"observation/camera"}
