"""What a writer does when the machine is against it: forks, no file handles, a full file system."""

import errno
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from buffer_rows import contents, episode, records, row, same, uuid_of
from test_buffer_writer import write, writer

from robolearn.buffer import log as log_module
from robolearn.buffer.verify import verify
from robolearn.core.errors import StoreError
from robolearn.core.types import Kind


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A script in a process of its own, which may import what the tests import."""
    prelude = f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    command = [sys.executable, "-c", prelude + script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


FORK = """
import os
from pathlib import Path
from buffer_rows import episode, row
from test_buffer_writer import writer
from robolearn.core.errors import StoreError
from robolearn.core.types import Kind
rows = episode(1, 6)
with writer(Path(sys.argv[1]), commit_every_s=0.0) as w:
    for t in rows[:3]:
        w.append(t)  # commits in the background, so there is a thread
    child = os.fork()
    if child == 0:
        status = 0
        for use in (lambda: w.append(rows[3]), w.flush, lambda: w.end_episode(True), w.truncate_episode):
            try:
                use()
                status = 1
            except StoreError as error:
                status = status or (0 if "forked from" in str(error) else 2)
        w.close()
        with writer(Path(sys.argv[1]), "child") as mine:
            mine.append(row(2, 0, Kind.FIRST))
            mine.append(row(2, 1, Kind.TERMINATED))
            mine.end_episode(True)
        os._exit(status)
    _, status = os.waitpid(child, 0)
    for t in rows[3:]:
        w.append(t)
    w.end_episode(True)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_a_forked_child_cannot_write_and_does_no_harm(tmp_path: Path) -> None:
    done = run(FORK, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert same(contents(tmp_path)[uuid_of(1)], episode(1, 6))
    assert [(r.writer, r.rows) for r in sorted(records(tmp_path), key=lambda r: r.writer)] == [
        ("actor", 7),
        ("child", 2),
    ]
    assert verify(tmp_path).ok


ORPHAN = """
import os, signal
from pathlib import Path
from buffer_rows import row
from test_buffer_writer import writer
from robolearn.core.types import Kind
w = writer(Path(sys.argv[1]))
w.append(row(1, 0, Kind.FIRST))
child = os.fork()
if child == 0:
    print(os.getpid(), flush=True)
signal.pause()
"""


def test_a_child_that_outlives_the_writer_does_not_keep_its_name(tmp_path: Path) -> None:
    script = f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n" + ORPHAN
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            parent.kill()
            assert parent.wait(30.0) == -signal.SIGKILL
            os.kill(child, 0)  # it is still there
            with writer(tmp_path) as w:
                assert w.episodes == 1
        finally:
            os.kill(child, signal.SIGKILL)


HANDLES = """
import os, resource
from pathlib import Path
from buffer_rows import episode
from test_buffer_writer import write, writer
from robolearn.core.errors import StoreError
root = Path(sys.argv[1])
with writer(root) as w:
    write(w, episode(0, 2))
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
taken = []
try:
    while True:
        taken.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
# ever more handles: opening fails at every stage until there are enough
number, refused, w = 1, 0, None
while w is None:
    try:
        w = writer(root, commit_every_s=0.0, log_bytes=1)
    except StoreError:
        refused += 1
        os.close(taken.pop())
        os.close(taken.pop())
assert refused > 2, refused
try:
    while True:
        taken.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
failed, rows = 0, []
for number in range(1, 6):
    rows = episode(number, 4)
    while rows:
        try:
            w.append(rows[0])
            rows = rows[1:]
        except StoreError:
            failed += 1
            os.close(taken.pop())
    w.end_episode(True)
assert failed >= 1, failed
w.close()
print("refused", refused, "failed", failed)
"""


def test_without_file_handles_a_writer_says_so_and_goes_on_when_there_are_some(tmp_path: Path) -> None:
    done = run(HANDLES, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(same(contents(tmp_path)[uuid_of(n)], episode(n, 4)) for n in range(1, 6))
    assert verify(tmp_path).ok


def test_a_log_whose_directory_cannot_be_synced_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with writer(tmp_path) as w:
        with monkeypatch.context() as patch:
            patch.setattr(log_module, "fsync_dir", fail)
            with pytest.raises(StoreError, match=r"cannot create log .* too many open files"):
                w.append(row(1, 0, Kind.FIRST))
        assert list((tmp_path / "logs").iterdir()) == []
        write(w, episode(1, 2))
    assert same(contents(tmp_path)[uuid_of(1)], episode(1, 2))


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of one megabyte, where the user may mount one."""
    with tempfile.TemporaryDirectory() as folder:
        mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
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


@pytest.mark.parametrize("log_bytes", [1, 1 << 20])
def test_a_full_file_system_at_every_stage(small_disk: Path, log_bytes: int) -> None:
    """More room from episode to episode: one stage after the other fails; every acknowledged episode stays."""
    ballast, root = small_disk / "ballast", small_disk / "buffer"
    acknowledged, errors = [], []
    w = writer(root, log_bytes=log_bytes)
    for number, room in enumerate([*range(0, 66_000, 6_000), 100_000]):
        ballast.unlink(missing_ok=True)
        stat = os.statvfs(small_disk)
        ballast.write_bytes(bytes(max(0, stat.f_bavail * stat.f_bsize - room)))
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
