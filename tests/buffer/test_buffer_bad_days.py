"""When the machine is against it: forks, no file handles, a read-only directory, a clock that is set back."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from buffer_rows import IMAGES, contents, episode, records, row, same, uuid_of
from buffer_sealed import everything, sealed
from buffer_sealed import write as write_images
from test_buffer_writer import write, writer

from robolearn.buffer import log as log_module
from robolearn.buffer.index import Index, Relabel
from robolearn.buffer.merge import merge
from robolearn.buffer.relabel import relabel
from robolearn.buffer.repair import repair
from robolearn.buffer.replay import Replay
from robolearn.buffer.retain import prune
from robolearn.buffer.seal import seal
from robolearn.buffer.store import StorePaths, add_key
from robolearn.buffer.verify import verify
from robolearn.buffer.writer import Writer
from robolearn.core.errors import CorruptDataError, StoreError
from robolearn.core.spec import ArraySpec
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


MIDST = """
import os, time
from pathlib import Path
from buffer_rows import episode
from test_buffer_writer import writer
from robolearn.buffer.log import LogWriter
started = []

def slow(fd):
    started.append(fd)
    time.sleep(0.2)

open_log = lambda path, schema, name: LogWriter(path, schema, name, sync=slow)
with writer(Path(sys.argv[1]), commit_every_s=0.0, open_log=open_log) as w:
    rows = episode(1, 3)
    w.append(rows[0])
    w.append(rows[1])  # starts a commit
    while not started:
        time.sleep(0.001)
    child = os.fork()
    if child == 0:
        within = w._committer.busy
        grandchild = os.fork()  # has nobody's commit to wait for
        if grandchild == 0:
            os._exit(0)
        os._exit(within or os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for t in rows[2:]:
        w.append(t)
    w.end_episode(True)
sys.exit(status)
"""


def test_no_fork_happens_within_a_commit(tmp_path: Path) -> None:
    """The thread that commits is not in the child, but the locks it held would be."""
    done = run(MIDST, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert same(contents(tmp_path)[uuid_of(1)], episode(1, 3))


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


STARVED = """
import os, resource, shutil
from pathlib import Path
from buffer_rows import IMAGES, uuid_of
from buffer_sealed import everything
from robolearn.buffer.repair import repair
from robolearn.buffer.replay import Replay
from robolearn.buffer.retain import prune
from robolearn.buffer.seal import seal
from robolearn.buffer.verify import verify
from robolearn.core.errors import CorruptDataError, StoreError

replay = Replay(Path(sys.argv[1]), IMAGES, ram_bytes=100)
replay.refresh()

def sample(root):
    for _ in range(5):
        batch = replay.sample(32, demo_fraction=0.0)
        for i, count in enumerate(batch.next_observation["count"].tolist()):
            image = truth[uuid_of(count // 1000)][count % 1000].observation["camera"]
            assert (batch.next_observation["camera"][i] == image).all()

def check(root):
    report = verify(root)
    if not report.ok:
        raise StoreError("; ".join(report.problems))

use = {"sample": sample, "read": everything, "seal": lambda root: seal(root, everything=True), "verify": check,
       "prune": lambda root: prune(root, max_bytes=0, select="policy<0"), "repair": repair,
       "rebuild": repair}[sys.argv[2]]
truth = everything(Path(sys.argv[1]))
if sys.argv[2] == "rebuild":
    (Path(sys.argv[1]) / "index.sqlite").unlink()
shutil.copytree(sys.argv[1], sys.argv[1] + ".warm")
if use is not sample:
    replay.close()
    use(Path(sys.argv[1] + ".warm"))  # everything is imported by now
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
taken, errors = [], set()
try:
    while True:
        taken.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
while True:
    try:
        use(Path(sys.argv[1]))
        break
    except CorruptDataError:
        raise
    except StoreError as error:
        errors.add(str(error))
    os.close(taken.pop())
print(len(errors), *errors)
assert errors and all("too many open files" in e for e in errors)
"""


@pytest.mark.parametrize(
    "use",
    [
        "sample",
        "repair",
        *(pytest.param(u, marks=pytest.mark.slow) for u in ("rebuild", "read", "seal", "verify", "prune")),
    ],
)
def test_without_file_handles_nothing_is_taken_for_damaged(tmp_path: Path, use: str) -> None:
    """Ever more handles: opening fails at one place after the other, and in the end all is there."""
    root = tmp_path / "buffer"
    for number in range(4):
        sealed(root, range(10 * number, 10 * number + 2), name=f"a{number}")
    write_images(root, range(100, 104))
    truth = everything(root)
    if use == "repair":
        damaged = root / "segments" / "a0-000001" / "reward" / "zarr.json"
        damaged.write_bytes(b"x" + damaged.read_bytes()[1:])
    done = run(STARVED, root, use)
    assert done.returncode == 0, done.stdout + done.stderr
    assert verify(root).ok, verify(root).problems
    found = everything(root)
    assert found.keys() == truth.keys()
    assert all(same(found[u], truth[u]) for u in truth)


def test_what_the_disk_cannot_read_is_damage_and_what_may_not_be_read_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed(tmp_path, range(3))
    truth, real = everything(tmp_path), os.preadv
    failure = errno.EACCES

    def fail(fd: int, buffers: object, offset: int) -> int:
        if "reward" in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError(failure, os.strerror(failure))
        return real(fd, buffers, offset)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", fail)
        with pytest.raises(StoreError, match="no permission"):
            repair(tmp_path)
        failure = errno.EIO
        with pytest.raises(CorruptDataError, match="Input/output error"):
            everything(tmp_path)
    assert repair(tmp_path) == []
    assert all(same(rows, truth[u]) for u, rows in everything(tmp_path).items())
    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", fail)
        assert "episode" in repair(tmp_path)[-1]
    assert verify(tmp_path).ok
    assert everything(tmp_path) == {}


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A buffer, and the same one where nobody can write, not even root."""
    root, view = tmp_path / "buffer", tmp_path / "view"
    sealed(root, range(3))
    write_images(root, range(3, 5))
    view.mkdir()
    try:
        done = subprocess.run(["mount", "--bind", root, view], capture_output=True, check=False)
    except OSError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip("this user cannot mount a file system")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", view], capture_output=True, check=True)
        yield root, view
    finally:
        subprocess.run(["umount", view], check=True)


def tag(root: Path) -> None:
    index = Index(StorePaths(root).index, writable=True)
    try:
        index.edit(uuid_of(0), tag="x")
    finally:
        index.close()


def refused(view: Path, other: Path) -> None:
    """All that would change a buffer."""
    for change in (
        lambda: write_images(view, range(50, 51)),
        lambda: seal(view, everything=True),
        lambda: prune(view, max_bytes=0),
        lambda: repair(view),
        lambda: relabel(view, [Relabel(uuid_of(0), "reward", 1, np.array([1.0]))]),
        lambda: tag(view),
        lambda: add_key(view, ArraySpec("extra", (2,)), 0.0),
        lambda: merge([other], view),
    ):
        with pytest.raises(StoreError, match="read-only"):
            change()


def test_a_read_only_file_system_can_be_read_and_nothing_else(read_only: tuple[Path, Path], tmp_path: Path) -> None:
    root, view = read_only
    truth, other = everything(root), tmp_path / "other"
    sealed(other, range(20, 22))
    refused(view, other)
    assert verify(view).ok, verify(view).problems
    assert all(same(rows, truth[u]) for u, rows in everything(view).items())
    with Replay(view, IMAGES, ram_bytes=100) as replay:
        replay.refresh()
        assert replay.transitions == 5 * 7
        replay.sample(32, demo_fraction=0.0)
    assert merge([view], tmp_path / "copy").episodes == 5
    with Writer(root, IMAGES, name="late", robot="arm", task="peg") as w:
        for t in episode(60, 7, schema=IMAGES):
            w.append(t)
        w.end_episode(True)
        refused(view, other)  # also while somebody writes elsewhere
        assert same(everything(view)[uuid_of(60)], episode(60, 7, schema=IMAGES))
    seal(root, everything=True)
    assert verify(root).episodes == 6


def test_a_clock_set_back_makes_nothing_old(tmp_path: Path) -> None:
    day, now = 86_400 * 10**9, 20_000 * 86_400 * 10**9
    clocks = [now, now + day, 0, day, now + 2 * day, now]  # the battery was empty; later somebody set it wrong
    for number, clock in enumerate(clocks):
        with Writer(tmp_path, IMAGES, name=f"w{number % 2}", robot="arm", task="peg", unix_ns=lambda c=clock: c) as w:
            for t in episode(number, 7, schema=IMAGES):
                w.append(t)
            w.end_episode(True)
        seal(tmp_path, everything=True)
    merged = tmp_path / "merged"
    merge([tmp_path], merged)
    seal(merged, everything=True)
    with Replay(tmp_path, IMAGES) as replay:
        replay.refresh()
        view = replay.view("", newest=7)
        batch = replay.sample(16, mixture=[(view, 1.0)])
        assert set((batch.next_observation["count"] // 1000).tolist()) == {5}
    size = sum(p.stat().st_size for p in (tmp_path / "segments" / "w0-000001").rglob("*") if p.is_file())
    old = prune(tmp_path, older_than_s=30 * 86_400, unix_ns=lambda: now + 3 * day)
    assert old.dropped == []
    done = prune(tmp_path, max_bytes=old.before.total - 2 * size, unix_ns=lambda: now + 3 * day)
    assert [one.segment for one in done.dropped] == ["w0-000001", "w1-000001"]
    assert everything(tmp_path).keys() == {uuid_of(n) for n in (2, 3, 4, 5)}
    assert prune(tmp_path, older_than_s=1.0, unix_ns=lambda: 0).dropped == []  # set back when pruning
    assert prune(merged, older_than_s=30 * 86_400, unix_ns=lambda: now + 3 * day).dropped == []


READERS = """
import os
from pathlib import Path
from buffer_rows import IMAGES, episode, records, same, uuid_of
from buffer_sealed import everything, write
from robolearn.buffer.files import EpisodeFiles
from robolearn.buffer.index import Index
from robolearn.buffer.replay import Replay
from robolearn.buffer.rows import unpack
from robolearn.buffer.store import StorePaths
from robolearn.core.errors import StoreError
root = Path(sys.argv[1])
index = Index(StorePaths(root).index, writable=True)
files = EpisodeFiles(StorePaths(root), index)
replay = Replay(root, IMAGES, ram_bytes=100)
truth = everything(root)

def look():
    for record in index.changes():
        assert same([unpack(r, IMAGES) for r in files.rows(record)], truth[record.uuid])
    replay.refresh()
    batch = replay.sample(32, demo_fraction=0.0)
    for i, count in enumerate(batch.next_observation["count"].tolist()):
        image = truth[uuid_of(count // 1000)][count % 1000].observation["camera"]
        assert (batch.next_observation["camera"][i] == image).all()

look()
for leave in (os._exit, sys.exit):
    child = os.fork()
    if child == 0:
        for use in (lambda: files.rows(records(root)[0]), lambda: files.low_dim(records(root)[5]), replay.refresh,
                    lambda: replay.sample(8), replay.metrics, lambda: replay.episode(uuid_of(0)),
                    lambda: next(replay.prefetch(8)), index.changes, index.logs, index.revision,
                    lambda: index.edit(uuid_of(0), tag="x")):
            try:
                use()
                os._exit(3)
            except StoreError as error:
                if "by a fork" not in str(error):
                    os._exit(4)
        files.close()
        replay.close()
        index.close()
        mine = everything(root)  # what it opens itself
        if not (mine.keys() == truth.keys() and all(same(mine[u], truth[u]) for u in truth)):
            os._exit(5)
        leave(0)
    look()  # meanwhile, too
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 0, status
    write(root, range(n := 50 + 10 * (leave is sys.exit), n + 2), name="late")
    truth = everything(root)
    look()
    assert replay.episodes == len(truth)
replay.close()
files.close()
index.close()
"""


def test_a_fork_with_open_readers_harms_nobody(tmp_path: Path) -> None:
    sealed(tmp_path, range(5))
    write_images(tmp_path, range(5, 8))
    done = run(READERS, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert verify(tmp_path).episodes == 12
