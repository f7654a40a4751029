"""Sealing: what is in a segment is what was in the logs, whenever the sealer dies and whoever reads meanwhile."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from buffer_rows import IMAGES, SCHEMA, crash_image, episode, logs, records, same, uuid_of
from buffer_sealed import everything, sealed, write

from robolearn.buffer import seal as seal_module
from robolearn.buffer.files import EpisodeFiles, MovedError
from robolearn.buffer.index import Index
from robolearn.buffer.recover import recover
from robolearn.buffer.seal import seal
from robolearn.buffer.store import StorePaths, locked
from robolearn.buffer.verify import verify
from robolearn.buffer.writer import Writer
from robolearn.core.errors import CorruptDataError, StoreError


def edit(root: Path, uuid: str, **changes: object) -> None:
    index = Index(StorePaths(root).index, writable=True)
    try:
        index.edit(uuid, **changes)  # type: ignore[arg-type]
    finally:
        index.close()


@pytest.mark.parametrize("schema", [SCHEMA, IMAGES])
def test_sealed_rows_and_records_are_the_same(tmp_path: Path, schema: object) -> None:
    write(tmp_path, range(10), schema=schema)  # type: ignore[arg-type]
    write(tmp_path, range(20, 24), name="other", schema=schema)  # type: ignore[arg-type]
    before, rows = records(tmp_path), everything(tmp_path)
    assert seal(tmp_path, everything=True) == ["actor-000001", "other-000001"]
    after = records(tmp_path)
    assert [(r.uuid, r.rows, r.success, r.interventions, r.id) for r in after] == [
        (r.uuid, r.rows, r.success, r.interventions, r.id) for r in before
    ]
    assert all(r.segment and not r.log and r.revision > b.revision for r, b in zip(after, before, strict=True))
    found = everything(tmp_path)
    assert all(same(found[u], rows[u]) for u in rows)
    report = verify(tmp_path)
    assert report.ok, report.problems
    assert (report.episodes, report.rows) == (14, 14 * 8)
    assert all(p.stat().st_size == 0 for p in (tmp_path / "logs").iterdir())
    assert seal(tmp_path, everything=True) == []


def test_small_logs_wait_for_more(tmp_path: Path) -> None:
    write(tmp_path, range(4))
    size = sum(r.length for r in logs(tmp_path))
    assert seal(tmp_path, min_bytes=size + 1) == []
    assert seal(tmp_path, min_bytes=size) == ["actor-000001"]


def test_segments_have_an_upper_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, range(12))
    monkeypatch.setattr(seal_module, "MAX_BYTES", 10_000)
    made = seal(tmp_path, min_bytes=1)
    assert len(made) > 2
    assert verify(tmp_path).episodes == 12


def test_a_writer_goes_on_while_its_closed_logs_are_sealed(tmp_path: Path) -> None:
    with Writer(tmp_path, SCHEMA, name="actor", robot="r", task="t", log_bytes=2000) as w:
        for number in range(12):
            for t in episode(number, 5):
                w.append(t)
                if t.index == 3:
                    seal(tmp_path, everything=True)
            w.end_episode(True)
    with Writer(tmp_path, SCHEMA, name="actor", robot="r", task="t", log_bytes=2000) as w:
        assert w.episodes == 12
        for t in episode(12, 5):
            w.append(t)
        w.end_episode(True)
    found = everything(tmp_path)
    assert all(same(found[uuid_of(n)], episode(n, 5)) for n in range(13))
    assert verify(tmp_path).ok


def test_numbers_of_logs_are_never_used_again(tmp_path: Path) -> None:
    names = set()
    for number in range(4):
        write(tmp_path, range(number, number + 1))
        made = seal(tmp_path, everything=True)
        assert len(made) == 1
        assert not names & set(made)
        names |= set(made)
    assert len(everything(tmp_path)) == 4
    assert len(list((tmp_path / "logs").iterdir())) == 1


def test_dropped_episodes_are_left_out_and_stay_out(tmp_path: Path) -> None:
    write(tmp_path, range(6))
    edit(tmp_path, uuid_of(2), dropped=True)
    seal(tmp_path, everything=True)
    assert set(everything(tmp_path)) == {uuid_of(n) for n in (0, 1, 3, 4, 5)}
    assert verify(tmp_path).ok
    with pytest.raises(StoreError, match="cannot come back"):
        edit(tmp_path, uuid_of(2), dropped=False)
    edit(tmp_path, uuid_of(3), dropped=True)
    edit(tmp_path, uuid_of(3), dropped=False, tag="kept")
    assert same(everything(tmp_path)[uuid_of(3)], episode(3, 7, humans=[2], schema=IMAGES))


def test_logs_of_nothing_but_dropped_episodes_just_go(tmp_path: Path) -> None:
    write(tmp_path, range(2))
    for number in range(2):
        edit(tmp_path, uuid_of(number), dropped=True)
    assert seal(tmp_path, everything=True) == []
    assert sum(p.stat().st_size for p in (tmp_path / "logs").iterdir()) == 0
    assert verify(tmp_path).ok


def test_edits_made_while_a_segment_is_written_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, range(4))
    real = seal_module.write_segment

    def slow(*args: object, **more: object) -> int:
        edit(tmp_path, uuid_of(1), tag="good", success=True)
        edit(tmp_path, uuid_of(2), dropped=True)
        return real(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(seal_module, "write_segment", slow)
    assert seal(tmp_path, everything=True) == ["actor-000001"]
    after = {r.uuid: r for r in records(tmp_path)}
    assert (after[uuid_of(1)].tag, after[uuid_of(1)].success) == ("good", True)
    assert after[uuid_of(2)].state == "dropped"
    assert verify(tmp_path).ok


def test_a_reader_with_an_old_record_is_told_that_it_moved(tmp_path: Path) -> None:
    write(tmp_path, range(3))
    old = records(tmp_path)[0]
    index = Index(StorePaths(tmp_path).index, writable=False)
    with EpisodeFiles(StorePaths(tmp_path), index) as cold, EpisodeFiles(StorePaths(tmp_path), index) as warm:
        first = warm.low_dim(old)
        seal(tmp_path, everything=True)
        assert np.array_equal(warm.low_dim(old)["reward"], first["reward"])  # its file is still open
        for read in (cold.low_dim, cold.rows):
            with pytest.raises(MovedError, match="read the index again"):
                read(old)
        new = index.episode(old.uuid)
        assert new is not None
        assert np.array_equal(cold.low_dim(new)["reward"], first["reward"])
        shutil.rmtree(tmp_path / "segments" / new.segment)
        with pytest.raises(CorruptDataError, match="on disk"):
            EpisodeFiles(StorePaths(tmp_path), index).low_dim(new)
    index.close()


def test_a_damaged_log_stays_and_the_others_are_sealed(tmp_path: Path) -> None:
    write(tmp_path, range(3), name="a", log_bytes=1 << 20)
    write(tmp_path, range(5, 8), name="b", log_bytes=1 << 20)
    log = tmp_path / "logs" / "a-000001.log"
    raw = bytearray(log.read_bytes())
    raw[len(raw) // 2] ^= 1
    log.write_bytes(raw)
    with pytest.raises(CorruptDataError, match="not sealed"):
        seal(tmp_path, everything=True)
    assert [r.segment for r in records(tmp_path)] == [""] * 3 + ["b-000001"] * 3
    assert log.read_bytes() == bytes(raw)


def test_one_sealer_at_a_time(tmp_path: Path) -> None:
    write(tmp_path, range(1))
    with locked(StorePaths(tmp_path).seal_lock), pytest.raises(StoreError, match="by another process"):
        seal(tmp_path, everything=True)


class _Died(BaseException):
    pass


@pytest.mark.parametrize(
    "moment", ["write_segment", "rename", "fsync_dir", "put_segment", "transaction", "_remove_log"]
)
def test_a_crash_at_any_stage_leaves_one_place_in_charge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    root = tmp_path / "live"
    write(root, range(5))
    rows = everything(root)

    def die(*_: object, **__: object) -> None:
        shutil.copytree(root, tmp_path / "crash")
        raise _Died

    if moment in ("put_segment",):
        monkeypatch.setattr(Index, moment, die)
    elif moment == "transaction":
        real = Index.transaction

        def after(self: Index, *, durable: bool) -> object:
            stack = real(self, durable=durable)

            class Then:
                def __enter__(self) -> int:
                    return stack.__enter__()

                def __exit__(self, *error: object) -> None:
                    stack.__exit__(*error)  # type: ignore[arg-type]
                    die()

            return Then()

        monkeypatch.setattr(Index, "transaction", after)
    elif moment == "rename":
        monkeypatch.setattr(os, "rename", die)
    else:
        monkeypatch.setattr(seal_module, moment, die)
    with pytest.raises(_Died):
        seal(root, everything=True)
    monkeypatch.undo()
    crash = tmp_path / "crash"
    for _ in range(2):
        assert verify(crash).ok, verify(crash).problems
        found = everything(crash)
        assert found.keys() == rows.keys()
        assert all(same(found[u], rows[u]) for u in rows)
        recover(crash)
        seal(crash, everything=True)
        assert {p.name for p in (crash / "segments").iterdir()} == {"actor-000001"}
        assert sum(p.stat().st_size for p in (crash / "logs").iterdir()) == 0


def test_a_crash_while_a_leftover_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a leftover could not say any more that it is one, and would be in the way of every later sealing."""
    write(tmp_path, range(5))
    rows = everything(tmp_path)

    def die(*_: object) -> None:
        raise _Died

    def die_amid(folder: Path, **_: object) -> None:
        (folder / "zarr.json").unlink()
        raise _Died

    with monkeypatch.context() as patched:
        patched.setattr(Index, "put_segment", die)
        with pytest.raises(_Died):
            seal(tmp_path, everything=True)
    for _ in range(2):  # once the segment is being removed, once what is left of it
        with monkeypatch.context() as patched:
            patched.setattr(shutil, "rmtree", die_amid)
            with pytest.raises(_Died):
                seal(tmp_path, everything=True)
        assert verify(tmp_path).ok, verify(tmp_path).problems
        (tmp_path / "segments" / "actor-000001.tmp" / "zarr.json").touch()
    assert seal(tmp_path, everything=True) == ["actor-000001"]
    found = everything(tmp_path)
    assert all(same(found[u], rows[u]) for u in rows)
    assert not list((tmp_path / "segments").glob("*.tmp"))


STEPS = 6


def _write_forever(root: str, first: str) -> None:
    with Writer(Path(root), IMAGES, name="actor", robot="r", task="t", log_bytes=6000, commit_every_s=0.01) as w:
        os.write(1, b"open\n")
        for number in range(int(first), 1 << 30):
            for t in episode(number, STEPS, schema=IMAGES):
                w.append(t)
            w.end_episode(True)
            os.write(1, f"{number}\n".encode())
            time.sleep(0.01)  # else checking the growing buffer takes ever longer


def _seal_forever(root: str) -> None:
    os.write(1, b"open\n")
    while True:
        seal(Path(root), everything=True)
        os.write(1, b".\n")


def _start(stack: ExitStack, out: Path, *arguments: str) -> subprocess.Popen[bytes]:
    with open(out, "wb") as file:
        process = stack.enter_context(subprocess.Popen([sys.executable, __file__, *arguments], stdout=file))
    stack.callback(process.kill)
    deadline = time.monotonic() + 60.0
    while not out.read_bytes().startswith(b"open\n"):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.002)
    return process


def kill_sealers(tmp_path: Path, kills: int, seed: int) -> None:
    rng, root = random.Random(seed), tmp_path / "buffer"
    with ExitStack() as stack:
        writer = _start(stack, tmp_path / "said", "write", str(root), "0")
        for number in range(kills):
            sealer = _start(stack, tmp_path / "sealed", "seal", str(root))
            time.sleep(rng.choice([0.01, 0.05, 0.2]) * rng.random())
            assert sealer.poll() is None, "the sealer failed"
            sealer.send_signal(signal.SIGKILL)
            assert sealer.wait(30.0) == -signal.SIGKILL
            if number % 4 == 0:
                said = {uuid_of(int(n)) for n in (tmp_path / "said").read_text().split("\n")[1:-1]}
                assert said <= everything(root).keys()
                assert verify(root).ok, verify(root).problems
        assert writer.poll() is None, "the writer failed"
        writer.send_signal(signal.SIGKILL)
        writer.wait(30.0)
    recover(root)
    crash = crash_image(root, tmp_path / "again")
    for place in (root, crash):
        numbers = [int(n) for n in (tmp_path / "said").read_text().split("\n")[1:-1]]
        found = everything(place)
        lost = [n for n in numbers if uuid_of(n) not in found]
        assert not lost, f"{len(lost)} acknowledged episodes are lost: {lost[:5]}"
        assert all(same(found[uuid_of(n)], episode(n, STEPS, schema=IMAGES)) for n in numbers)
        report = verify(place)
        assert report.ok, report.problems
        seal(place, everything=True)
        assert any(r.segment for r in records(place))
        assert not list((place / "segments").glob("*.tmp"))


def test_killed_sealers_lose_nothing(tmp_path: Path) -> None:
    kill_sealers(tmp_path, 8, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_many_killed_sealers_lose_nothing(tmp_path: Path, seed: int) -> None:
    kill_sealers(tmp_path, 55, seed)


def test_reading_and_verifying_while_others_write_and_seal(tmp_path: Path) -> None:
    root = tmp_path / "buffer"
    sealed(root, range(1 << 20, (1 << 20) + 3), name="first")
    with ExitStack() as stack:
        for arguments in (("write", str(root), "0"), ("seal", str(root))):
            _start(stack, tmp_path / arguments[0], *arguments)
        for _ in range(6):
            assert len(everything(root)) >= 3
            report = verify(root)
            assert report.ok, report.problems


if __name__ == "__main__":
    {"write": _write_forever, "seal": _seal_forever}[sys.argv[1]](*sys.argv[2:])
