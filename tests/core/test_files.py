"""write_atomic: readers see the old bytes or the new ones, also when the writer is killed."""

import errno
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robolearn.core.files import fsync_dir, write_atomic

WRITER = """
import hashlib, sys
from pathlib import Path
from robolearn.core.files import write_atomic
path, number = Path(sys.argv[1]), 0
print("ready", flush=True)
while True:
    number += 1
    body = (b"%d " % number) * 40_000
    write_atomic(path, hashlib.sha256(body).digest() + body, durable=False)
"""


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=200), min_size=1, max_size=4), st.booleans())
def test_the_last_bytes_written_are_read(tmp_path: Path, contents: list[bytes], durable: bool) -> None:
    path = tmp_path / "file"
    for data in contents:
        write_atomic(path, data, durable=durable)
        assert path.read_bytes() == data
    assert os.listdir(tmp_path) == ["file"]


def sound(path: Path) -> bool:
    data = path.read_bytes()
    return hashlib.sha256(data[32:]).digest() == data[:32]


def test_a_reader_never_sees_a_part_also_when_the_writer_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for round_number in range(4):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            deadline, seen = time.monotonic() + 30, set[bytes]()
            while len(seen) < 5 + 3 * round_number and time.monotonic() < deadline:
                if path.exists():
                    assert sound(path)
                    seen.add(path.read_bytes()[:32])
            assert len(seen) > 1
        finally:
            writer.kill()
            writer.communicate()
        assert sound(path)
    write_atomic(path, b"after")
    assert path.read_bytes() == b"after"


def test_a_failed_write_leaves_the_old_bytes_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_missing_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "nowhere" / "file", b"")
    with pytest.raises(FileNotFoundError):
        fsync_dir(tmp_path / "nowhere")
