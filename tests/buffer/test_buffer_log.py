import errno
import os
from pathlib import Path

import pytest
from buffer_rows import SCHEMA, episode, uuid_of
from hypothesis import given
from hypothesis import strategies as st

from robolearn.buffer.log import FrameType, LogReader, LogWriter, json_frame, mapped, scan
from robolearn.buffer.rows import RowPacker
from robolearn.core.errors import CorruptDataError, StoreError

FRAMES = [
    json_frame(FrameType.BEGIN, {"n": 1}),
    json_frame(FrameType.END, {"n": 22}),
    json_frame(FrameType.BEGIN, {"n": 333}),
]
BYTES = b"".join(FRAMES)


@given(st.integers(0, len(BYTES) - 1), st.integers(0, 7))
def test_any_flipped_bit_ends_the_scan_before_it(at: int, bit: int) -> None:
    data = bytearray(BYTES)
    data[at] ^= 1 << bit
    sound = list(scan(memoryview(bytes(data))))
    ends = [0, len(FRAMES[0]), len(FRAMES[0]) + len(FRAMES[1]), len(BYTES)]
    damaged = next(i for i in range(3) if ends[i] <= at < ends[i + 1])
    assert len(sound) == damaged


@given(st.integers(0, len(BYTES)))
def test_a_torn_tail_ends_the_scan(length: int) -> None:
    sound = list(scan(memoryview(BYTES[:length])))
    assert b"".join(bytes(BYTES[f.start : f.end]) for f in sound) == BYTES[: sound[-1].end if sound else 0]
    assert length - (sound[-1].end if sound else 0) < max(map(len, FRAMES))


class Disk:
    """A pwrite that takes ``room`` bytes, at most ``piece`` at a time, and then says the disk is full."""

    def __init__(self, room: int, piece: int = 1 << 30) -> None:
        self.room, self.piece = room, piece

    def pwrite(self, fd: int, data: memoryview, offset: int) -> int:
        if self.room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = os.pwrite(fd, data[: min(self.room, self.piece)], offset)
        self.room -= done
        return done


def test_short_writes_are_continued(tmp_path: Path) -> None:
    log = LogWriter(tmp_path / "a.log", SCHEMA, "a", pwrite=Disk(1 << 30, piece=7).pwrite)
    for frame in FRAMES:
        log.append(frame)
    log.close()
    assert [f.type for f in scan(mapped(log.path))][1:] == [FrameType.BEGIN, FrameType.END, FrameType.BEGIN]


def test_a_full_disk_leaves_whole_frames_and_a_log_that_goes_on(tmp_path: Path) -> None:
    disk = Disk(1 << 30)
    log = LogWriter(tmp_path / "a.log", SCHEMA, "a", pwrite=disk.pwrite)
    log.append(FRAMES[0])
    before, disk.room = log.offset, 10
    with pytest.raises(StoreError, match="disk is full"):
        log.append(FRAMES[1])
    assert log.offset == before == log.path.stat().st_size
    disk.room = 1 << 30
    log.append(FRAMES[2])
    log.close()
    assert [f.json().get("n") for f in scan(mapped(log.path))][1:] == [1, 333]


def test_a_log_that_failed_to_sync_takes_no_more(tmp_path: Path) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "input/output error")

    log = LogWriter(tmp_path / "a.log", SCHEMA, "a", sync=fail)
    log.append(FRAMES[0])
    with pytest.raises(StoreError, match="cannot sync"):
        log.sync()
    with pytest.raises(StoreError, match="close the writer"):
        log.sync()
    with pytest.raises(StoreError, match="close the writer"):
        log.append(FRAMES[1])
    log.close()


def test_what_is_appended_during_a_sync_is_not_counted_as_synced(tmp_path: Path) -> None:
    def sync(fd: int) -> None:
        os.fdatasync(fd)
        log.append(FRAMES[1])  # as another thread may

    log = LogWriter(tmp_path / "a.log", SCHEMA, "a", sync=sync)
    log.append(FRAMES[0])
    reached = log.offset
    log.sync()
    assert (log.synced, log.offset) == (reached, reached + len(FRAMES[1]))
    log.close()


def test_a_log_is_never_written_over(tmp_path: Path) -> None:
    LogWriter(tmp_path / "a.log", SCHEMA, "a").close()
    with pytest.raises(StoreError, match="cannot create"):
        LogWriter(tmp_path / "a.log", SCHEMA, "a")


@given(st.data())
def test_a_flipped_bit_in_a_row_is_never_read(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("log") / "a.log"
    log, packer = LogWriter(path, SCHEMA, "a"), RowPacker(SCHEMA)
    offset, *_ = [log.append(packer.pack(t)) for t in episode(1, 3)]
    log.close()
    raw = bytearray(path.read_bytes())
    raw[data.draw(st.integers(offset, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(raw)
    reader = LogReader(path, SCHEMA)
    try:
        with pytest.raises(CorruptDataError, match="fails its checksum"):
            reader.rows(offset, 0, 4, uuid_of(1))
    finally:
        reader.close()


def test_rows_of_another_episode_or_place_are_refused(tmp_path: Path) -> None:
    log, packer = LogWriter(tmp_path / "a.log", SCHEMA, "a"), RowPacker(SCHEMA)
    offset, *_ = [log.append(packer.pack(t)) for t in episode(1, 3)]
    log.close()
    reader = LogReader(log.path, SCHEMA)
    try:
        assert len(reader.rows(offset, 1, 3, uuid_of(1))) == 3
        with pytest.raises(CorruptDataError, match="other rows"):
            reader.rows(offset, 0, 4, uuid_of(2))
        with pytest.raises(CorruptDataError, match="other rows"):
            reader.rows(offset + reader.stride, 0, 3, uuid_of(1))
        with pytest.raises(CorruptDataError, match="row 4"):
            reader.rows(offset, 0, 5, uuid_of(1))
    finally:
        reader.close()
