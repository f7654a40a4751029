import dataclasses
import errno
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from buffer_rows import IMAGES, SCHEMA, contents, episode, records, row, same, uuid_of

from robolearn.buffer.index import Index
from robolearn.buffer.log import LogWriter
from robolearn.buffer.schema import Schema
from robolearn.buffer.store import StorePaths
from robolearn.buffer.verify import verify
from robolearn.buffer.writer import Writer
from robolearn.core.clock import FakeClock
from robolearn.core.errors import SpecError, StoreError
from robolearn.core.types import Kind, Source, Transition


def writer(root: Path, name: str = "actor", schema: Schema = SCHEMA, **more: object) -> Writer:
    return Writer(root, schema, name=name, robot="arm/0", task="peg", **more)  # type: ignore[arg-type]


def write(to: Writer, rows: list[Transition], *, success: bool = True) -> None:
    for t in rows:
        to.append(t)
    to.end_episode(success)


def wait_for(condition: Callable[[], bool]) -> None:
    """Returns when the background has come so far."""
    deadline = time.monotonic() + 30.0
    while not condition():
        assert time.monotonic() < deadline, "it did not come about within 30 s"
        time.sleep(0.001)


@pytest.mark.parametrize("schema", [SCHEMA, IMAGES])
def test_what_was_written_is_read_back(tmp_path: Path, schema: Schema) -> None:
    first, second = episode(1, 4, humans=[2, 3], schema=schema), episode(2, 1, end=Kind.TRUNCATED, schema=schema)
    with writer(tmp_path, schema=schema) as w:
        write(w, first)
        write(w, second, success=False)
        assert (w.transitions, w.episodes, w.successes) == (5, 2, 1)
    found = contents(tmp_path)
    assert same(found[uuid_of(1)], first)
    assert same(found[uuid_of(2)], second)
    assert verify(tmp_path).ok


def test_the_index_knows_the_episode(tmp_path: Path) -> None:
    rows = episode(7, 5, humans=[2, 3, 4])
    with writer(tmp_path, demo=True) as w:
        write(w, rows)
    record = records(tmp_path)[0]
    assert (record.robot, record.task, record.writer, record.state) == ("arm/0", "peg", "actor", "complete")
    assert (record.rows, record.transitions, record.interventions, record.source) == (6, 5, 3, "human")
    assert (record.demo, record.success, record.truncated, record.recovered) == (True, True, False, False)
    assert record.total_reward == pytest.approx(sum(t.reward for t in rows))
    assert (record.policy_min, record.policy_max) == (8, 12)
    assert (record.first_stamp_ns, record.last_stamp_ns) == (70_000, 70_005)


def test_end_episode_decides_on_demo(tmp_path: Path) -> None:
    with writer(tmp_path, demo=True) as w:
        for t in episode(1, 2):
            w.append(t)
        w.end_episode(success=False, demo=False)
    assert not records(tmp_path)[0].demo


def test_counts_go_on_in_the_next_writer(tmp_path: Path) -> None:
    for number in range(3):
        with writer(tmp_path) as w:
            assert (w.transitions, w.episodes, w.successes) == (3 * number, number, (number + 1) // 2)
            write(w, episode(number, 3), success=number % 2 == 0)
    with writer(tmp_path, "other") as w:
        assert (w.transitions, w.episodes, w.successes) == (0, 0, 0)


def test_rows_become_visible_within_an_episode(tmp_path: Path) -> None:
    clock = FakeClock()
    with writer(tmp_path, commit_every_s=0.25, clock=clock) as w:
        rows = episode(1, 9)
        for t in rows[:3]:
            w.append(t)
        assert records(tmp_path) == []
        clock.advance(0.3)
        w.append(rows[3])
        wait_for(lambda: [(r.state, r.rows) for r in records(tmp_path)] == [("open", 3)])
        w.flush()
        assert [(r.state, r.rows) for r in records(tmp_path)] == [("open", 4)]
        assert same(contents(tmp_path)[uuid_of(1)], rows[:4])
        for t in rows[4:]:
            w.append(t)
        w.end_episode(True)
        assert [(r.state, r.rows) for r in records(tmp_path)] == [("complete", 10)]


def test_logs_are_rotated_between_episodes(tmp_path: Path) -> None:
    with writer(tmp_path, log_bytes=1) as w:
        for number in range(3):
            write(w, episode(number, 2))
    assert len({r.log for r in records(tmp_path)}) == 3
    assert verify(tmp_path).ok
    assert all(same(contents(tmp_path)[uuid_of(n)], episode(n, 2)) for n in range(3))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(1, 1, Kind.MID)], "expected row 0, FIRST"),
        ([row(1, 0, Kind.MID)], "expected row 0, FIRST"),
        ([row(1, 0, Kind.FIRST), row(1, 2, Kind.MID)], "expected row 1"),
        ([row(1, 0, Kind.FIRST), row(2, 1, Kind.MID)], "expected row 1"),
        ([row(1, 0, Kind.FIRST), row(1, 1, Kind.FIRST)], "expected row 1"),
        ([*episode(1, 1), row(1, 2, Kind.MID)], "end_episode"),
        ([*episode(1, 1), row(2, 0, Kind.FIRST)], "end_episode"),
        ([dataclasses.replace(row(1, 0, Kind.FIRST), episode="x")], "32 lower-case hex digits"),
        ([row(1, 0, Kind.FIRST), dataclasses.replace(row(1, 1, Kind.TERMINATED), discount=1.0)], "discount 1.0"),
        ([row(1, 0, Kind.FIRST), dataclasses.replace(row(1, 1, Kind.TRUNCATED), discount=0.0)], "discount 0.0"),
    ],
)
def test_rows_out_of_order_are_refused(tmp_path: Path, rows: list[Transition], message: str) -> None:
    with writer(tmp_path) as w:
        for t in rows[:-1]:
            w.append(t)
        with pytest.raises(StoreError, match=message):
            w.append(rows[-1])
    assert sum(r.rows for r in records(tmp_path)) == len(rows) - 1
    assert verify(tmp_path).ok


def test_a_refused_row_can_be_corrected(tmp_path: Path) -> None:
    rows = episode(1, 2)
    bad = {**rows[1].observation, "q": rows[1].observation["q"] * float("nan")}
    with writer(tmp_path) as w:
        w.append(rows[0])
        with pytest.raises(SpecError, match="finite"):
            w.append(dataclasses.replace(rows[1], observation=bad))
        w.append(rows[1])
        w.append(rows[2])
        w.end_episode(True)
    assert same(contents(tmp_path)[uuid_of(1)], rows)


def test_an_episode_must_end_before_it_is_acknowledged(tmp_path: Path) -> None:
    with writer(tmp_path) as w:
        with pytest.raises(StoreError, match="last row"):
            w.end_episode(True)
        w.append(row(1, 0, Kind.FIRST))
        with pytest.raises(StoreError, match="last row"):
            w.end_episode(True)


def test_an_id_can_be_used_once(tmp_path: Path) -> None:
    with writer(tmp_path) as w:
        write(w, episode(1, 1))
    with writer(tmp_path, "other") as w:
        assert w.has(uuid_of(1))
        with pytest.raises(StoreError, match="already in buffer"):
            w.append(row(1, 0, Kind.FIRST))
        write(w, episode(2, 1))
    assert len(records(tmp_path)) == 2


@pytest.mark.parametrize("close", [True, False])
def test_an_unfinished_episode_is_truncated(tmp_path: Path, close: bool) -> None:
    w = writer(tmp_path, demo=True)
    for t in episode(1, 4)[:3]:
        w.append(t)
    if not close:
        w.truncate_episode()
        write(w, episode(2, 1))
    w.close()
    record = records(tmp_path)[0]
    assert (record.state, record.rows, record.truncated, record.success, record.demo) == (
        "complete",
        3,
        True,
        False,
        False,
    )
    assert verify(tmp_path).ok


def test_a_closed_writer_says_so(tmp_path: Path) -> None:
    w = writer(tmp_path)
    w.close()
    w.close()
    for use in (lambda: w.append(row(1, 0, Kind.FIRST)), lambda: w.end_episode(True), w.truncate_episode):
        with pytest.raises(StoreError, match="closed"):
            use()


def test_a_name_has_one_writer(tmp_path: Path) -> None:
    with writer(tmp_path):
        with pytest.raises(StoreError, match="held by another writer"):
            writer(tmp_path)
        writer(tmp_path, "actor-1").close()
    writer(tmp_path).close()


HOLD = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
sys.path.insert(0, {tests!r})
from buffer_rows import SCHEMA
from robolearn.buffer.writer import Writer
held = Writer(Path({root!r}), SCHEMA, name="actor", robot="r", task="t")
print("held", flush=True)
sys.stdin.read()
"""


def test_a_name_has_one_writer_across_processes_and_is_free_after_a_kill(tmp_path: Path) -> None:
    script = HOLD.format(tests=str(Path(__file__).parent), root=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"held\n"
            with pytest.raises(StoreError, match="held by another writer"):
                writer(tmp_path)
        finally:
            child.kill()
    writer(tmp_path).close()


@pytest.mark.parametrize("name", ["", "a/b", "-a", "a b", ".."])
def test_names_that_make_bad_files_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match="writer name"):
        writer(tmp_path / "sub", name)


def test_another_schema_is_refused_with_the_difference(tmp_path: Path) -> None:
    writer(tmp_path).close()
    with pytest.raises(StoreError, match=r"observation 'camera': missing -> uint8\[4, 5, 3\]"):
        writer(tmp_path, "other", IMAGES)


def test_a_buffer_cannot_be_made_under_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot make a buffer"):
        writer(tmp_path / "file" / "buffer")


class FullDisk:
    """Log files on a disk that can be full."""

    def __init__(self) -> None:
        self.full = False

    def open(self, path: Path, schema: Schema, name: str) -> LogWriter:
        return LogWriter(path, schema, name, pwrite=self.pwrite)

    def pwrite(self, fd: int, data: memoryview, offset: int) -> int:
        if self.full:
            if len(data) > 40:
                return os.pwrite(fd, data[:40], offset)  # a part still fits
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.pwrite(fd, data, offset)


@pytest.mark.parametrize("at", range(5))
def test_a_full_disk_loses_nothing_and_the_writer_goes_on(tmp_path: Path, at: int) -> None:
    disk, rows = FullDisk(), episode(2, 3)
    with writer(tmp_path, open_log=disk.open) as w:
        write(w, episode(1, 2))
        for t in rows[:at]:
            w.append(t)
        disk.full = True
        with pytest.raises(StoreError, match="disk is full"):
            w.append(rows[at]) if at < 4 else w.end_episode(True)
        assert same(contents(tmp_path)[uuid_of(1)], episode(1, 2))
        disk.full = False
        for t in rows[at:]:
            w.append(t)
        w.end_episode(True)
    assert same(contents(tmp_path)[uuid_of(2)], rows)
    assert verify(tmp_path).ok


def test_an_index_that_cannot_be_written_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put = Index.put_episode

    def full(self: Index, *args: object) -> None:
        raise StoreError("database or disk is full")

    w = writer(tmp_path)
    for t in episode(1, 2):
        w.append(t)
    monkeypatch.setattr(Index, "put_episode", full)
    with pytest.raises(StoreError, match="full"):
        w.end_episode(True)
    with pytest.raises(StoreError, match="full"):
        w.close()
    monkeypatch.setattr(Index, "put_episode", put)
    assert records(tmp_path) == []
    with writer(tmp_path) as again:
        assert (again.episodes, again.successes) == (1, 1)
    assert same(contents(tmp_path)[uuid_of(1)], episode(1, 2))
    assert verify(tmp_path).ok


def test_a_commit_that_is_tried_again_keeps_what_was_said_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with writer(tmp_path) as w:
        for t in episode(1, 2):
            w.append(t)
        with monkeypatch.context() as patch:
            patch.setattr(Index, "put_log", lambda *_: (_ for _ in ()).throw(StoreError("full")))
            with pytest.raises(StoreError, match="full"):
                w.end_episode(True)
        assert records(tmp_path) == []
        w.flush()
    assert [(r.state, r.success) for r in records(tmp_path)] == [("complete", True)]


def test_the_index_can_be_edited_later(tmp_path: Path) -> None:
    with writer(tmp_path) as w:
        write(w, episode(1, 2))
        w.append(row(2, 0, Kind.FIRST))
        w.flush()
        index = Index(StorePaths(tmp_path).index, writable=True)
        index.edit(uuid_of(1), demo=True, success=False, tag="good push")
        with pytest.raises(StoreError, match="still open"):
            index.edit(uuid_of(2), demo=True)
        with pytest.raises(StoreError, match="no such episode"):
            index.edit(uuid_of(3), demo=True)
        index.close()
    record = records(tmp_path)[0]
    assert (record.demo, record.success, record.tag) == (True, False, "good push")


def test_scripts_and_safety_are_told_apart(tmp_path: Path) -> None:
    with writer(tmp_path) as w:
        write(w, episode(1, 3, source=Source.SCRIPT))
        write(w, episode(2, 3, source=Source.SAFETY))
    assert [r.source for r in records(tmp_path)] == ["script", "safety"]


LIMITED = """
import resource, signal, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
sys.path.insert(0, {tests!r})
from buffer_rows import SCHEMA, episode
from robolearn.buffer.writer import Writer
from robolearn.core.errors import StoreError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
writer = Writer(Path({root!r}), SCHEMA, name="actor", robot="r", task="t", commit_every_s=1e9)
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, hard))
failures, number, rows = 0, 0, episode(0, 20)
while number < 40:
    try:
        for t in rows:
            writer.append(t)
            rows = rows[1:]
        writer.end_episode(True)
    except StoreError as error:
        failures += 1
        print("failed", number, error, flush=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        continue
    print("done", number, flush=True)
    number += 1
    rows = episode(number, 20)
writer.close()
sys.exit(0 if failures == 1 else 1)
"""


@pytest.mark.parametrize("limit", [50_000, 90_000])
def test_a_real_file_size_limit(tmp_path: Path, limit: int) -> None:
    """The kernel's own limit, hit by the log or by SQLite, whichever comes first."""
    script = LIMITED.format(tests=str(Path(__file__).parent), root=str(tmp_path), limit=limit)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = contents(tmp_path)
    assert all(same(found[uuid_of(n)], episode(n, 20)) for n in range(40))
    assert verify(tmp_path).ok


READ_ONLY = """
import os, sys
import numpy.random  # before the Python installation may be out of reach
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
sys.path.insert(0, {tests!r})
from buffer_rows import SCHEMA, contents, uuid_of
from robolearn.buffer.replay import Replay
from robolearn.buffer.writer import Writer
from robolearn.core.errors import StoreError
root = Path({root!r})
for folder in (root, *(p for p in root.rglob("*") if p.is_dir())):
    folder.chmod(0o555)
for file in (p for p in root.rglob("*") if p.is_file()):
    file.chmod(0o444)
if os.geteuid() == 0:
    os.setresuid(65534, 65534, 65534)
with Replay(root, SCHEMA) as replay:
    replay.refresh()
    print("read", replay.transitions)
for target in (root, root / "new"):
    try:
        Writer(target, SCHEMA, name="actor", robot="r", task="t")
    except StoreError as error:
        print("refused", error)
"""


def test_a_read_only_directory_can_be_read_and_not_written() -> None:
    base = Path(tempfile.mkdtemp())  # tmp_path lies in a directory that other users may not enter
    try:
        base.chmod(0o755)
        _check_read_only(base / "buffer")
    finally:
        for folder in (base, *(p for p in base.rglob("*") if p.is_dir())):
            folder.chmod(0o755)
        shutil.rmtree(base)


def _check_read_only(root: Path) -> None:
    with writer(root) as w:
        write(w, episode(1, 3))
    script = READ_ONLY.format(tests=str(Path(__file__).parent), root=str(root))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "read 3" in done.stdout
    assert done.stdout.count("refused") == 2
    assert "no permission" in done.stdout


def test_many_may_make_the_same_buffer_at_once(tmp_path: Path) -> None:
    def make(number: int) -> None:
        with writer(tmp_path / "new", f"actor{number}") as w:
            for repeat in range(3):
                write(w, episode(10 * number + repeat, 2))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(make, range(4)))
    assert len(records(tmp_path / "new")) == 12
    assert verify(tmp_path / "new").ok
