from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from buffer_rows import IMAGES, SCHEMA, episode, records, same, uuid_of
from buffer_sealed import everything, sealed, write

from robolearn.buffer.files import EpisodeFiles
from robolearn.buffer.index import Index
from robolearn.buffer.schema import Schema
from robolearn.buffer.seal import seal
from robolearn.buffer.segment import SegmentReader
from robolearn.buffer.store import StorePaths
from robolearn.core.errors import CorruptDataError, StoreError


@pytest.mark.parametrize("schema", [SCHEMA, IMAGES])
@pytest.mark.parametrize("episodes", [1, 40])
def test_plain_zarr_reads_what_was_written(tmp_path: Path, schema: Schema, episodes: int) -> None:
    zarr = pytest.importorskip("zarr")
    sealed(tmp_path, range(episodes), schema=schema, log_bytes=1 << 20)
    group = zarr.open_group(tmp_path / "segments" / "actor-000001", mode="r", zarr_format=3)
    rows = [t for n in range(episodes) for t in episode(n, 7, humans=[2], schema=schema)]
    for key in schema.observation:
        stored = group[f"observation/{key}"]
        assert np.array_equal(stored[:], np.stack([t.observation[key] for t in rows]))
        assert stored.dtype == schema.observation[key].dtype
    assert np.array_equal(group["reward"][:], [t.reward for t in rows])
    assert np.array_equal(group["action/proposed"][:], np.stack([t.proposed for t in rows]))
    assert np.array_equal(group["kind"][:], [t.kind for t in rows])
    assert [bytes(e).hex() for e in group["episode"][:]] == [t.episode for t in rows]
    listed = group.attrs["robolearn"]["episodes"]
    assert [(e["uuid"], e["first_row"], e["rows"]) for e in listed] == [(uuid_of(n), 8 * n, 8) for n in range(episodes)]
    assert set(group.keys()) >= {"action", "episode", "observation", "reward", "stamp_ns"}


def test_plain_zarr_notices_a_flipped_byte(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    sealed(tmp_path, range(3), log_bytes=1 << 20)
    segment = tmp_path / "segments" / "actor-000001"
    shard = segment / "reward" / "c.0"
    raw = bytearray(shard.read_bytes())
    raw[20] ^= 4
    shard.write_bytes(raw)
    with pytest.raises(ValueError, match="checksum"):
        zarr.open_group(segment, mode="r")["reward"][:]


@pytest.mark.parametrize("first", [0, 1, 5])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_pieces_of_episodes_are_the_same_in_logs_and_segments(tmp_path: Path, first: int, count: int) -> None:
    write(tmp_path, range(5))
    pieces = []
    for _ in range(2):
        index = Index(StorePaths(tmp_path).index, writable=False)
        with EpisodeFiles(StorePaths(tmp_path), index) as files:
            record = index.episode(uuid_of(3))
            assert record is not None
            numbers = np.array([4, 1, 1, 7, 2, 3])
            out = np.empty((6, 4, 5, 3), np.uint8)
            files.images(record, "camera", numbers, out)
            apart = np.empty((12, 4, 5, 3), np.uint8)[::2]
            files.images(record, "camera", numbers, apart)
            assert np.array_equal(out, apart)
            expected = [episode(3, 7, humans=[2], schema=IMAGES)[n].observation["camera"] for n in numbers]
            assert np.array_equal(out, expected)
            low, rows = files.low_dim(record, first, count), files.rows(record, first, count)
            assert low.dtype == IMAGES.low_row
            assert all(np.array_equal(low[n], rows[n]) for n in low.dtype.names)
            pieces.append((rows.tobytes(), record.segment))
            for bad in ((-1, 1), (0, 9), (8, 1)):
                with pytest.raises(StoreError, match="expected rows within"):
                    files.low_dim(record, *bad)
            with pytest.raises(StoreError, match="no image"):
                files.images(record, "q", numbers, out)
        index.close()
        seal(tmp_path, everything=True)
    assert pieces[0][0] == pieces[1][0]
    assert pieces[0][1] == ""
    assert pieces[1][1]


def test_damage_in_an_image_is_told_and_other_rows_are_read(tmp_path: Path) -> None:
    sealed(tmp_path, range(3), log_bytes=1 << 20)
    shard = tmp_path / "segments" / "actor-000001" / "observation" / "camera" / "c.0.0.0.0"
    raw = bytearray(shard.read_bytes())
    raw[60 * 10 + 7] ^= 1  # row 2 of episode 1
    shard.write_bytes(raw)
    index = Index(StorePaths(tmp_path).index, writable=False)
    with EpisodeFiles(StorePaths(tmp_path), index) as files:
        record = index.episode(uuid_of(1))
        assert record is not None
        out = np.empty((1, 4, 5, 3), np.uint8)
        with pytest.raises(CorruptDataError, match="row 10 of 'camera'"):
            files.images(record, "camera", np.array([2]), out)
        files.images(record, "camera", np.array([3]), out)
    index.close()
    assert np.array_equal(out[0], episode(1, 7, schema=IMAGES)[3].observation["camera"])


def test_space_is_allocated(tmp_path: Path) -> None:
    sealed(tmp_path, range(40), log_bytes=1 << 20)
    for shard in (tmp_path / "segments").rglob("c.0*"):
        assert shard.stat().st_blocks * 512 >= shard.stat().st_size


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, range(10))
    before = records(tmp_path)
    real = os.posix_fallocate
    for left in (0, 3, 9):
        free = iter(range(left))

        def full(fd: int, offset: int, length: int, free: Iterator[int] = free) -> None:
            if next(free, None) is None:
                raise OSError(28, "No space left on device")
            real(fd, offset, length)

        monkeypatch.setattr(os, "posix_fallocate", full)
        with pytest.raises(StoreError, match="disk is full"):
            seal(tmp_path, everything=True)
        assert list((tmp_path / "segments").iterdir()) == []
        assert records(tmp_path) == before
    monkeypatch.undo()
    assert seal(tmp_path, everything=True)
    assert same(everything(tmp_path)[uuid_of(7)], episode(7, 7, humans=[2], schema=IMAGES))


def test_a_file_size_limit_leaves_nothing_behind(tmp_path: Path) -> None:
    write(tmp_path, range(300), log_bytes=1 << 20)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(StoreError, match="file size limit"):
            seal(tmp_path, everything=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "segments").iterdir()) == []
    assert len(everything(tmp_path)) == 300


def test_a_reader_keeps_a_segment_from_being_pruned(tmp_path: Path) -> None:
    import fcntl

    names = sealed(tmp_path, range(2))
    folder = os.open(tmp_path / "segments" / names[0], os.O_RDONLY)
    try:
        reader = SegmentReader(tmp_path / "segments" / names[0])
        with pytest.raises(BlockingIOError):
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        reader.close()
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(StoreError, match="being removed"):
            SegmentReader(tmp_path / "segments" / names[0])
    finally:
        os.close(folder)
