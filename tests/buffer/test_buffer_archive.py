"""Archiving: images become JPEG files, all else stays bit by bit, and whoever dies or reads, one place is in charge."""

from __future__ import annotations

import dataclasses
import errno
import io
import os
import random
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from buffer_rows import SCHEMA, episode, records, same, uuid_of
from buffer_sealed import everything, sealed
from PIL import Image, JpegImagePlugin

from robolearn.buffer import archive as archive_module
from robolearn.buffer import layout as layout_module
from robolearn.buffer import segment as segment_module
from robolearn.buffer.archive import Archived, archive
from robolearn.buffer.files import EpisodeFiles
from robolearn.buffer.index import EpisodeRecord, Index, Relabel
from robolearn.buffer.interchange.lerobot_export import export_lerobot
from robolearn.buffer.interchange.lerobot_import import import_lerobot
from robolearn.buffer.jpeg import encoded
from robolearn.buffer.merge import merge
from robolearn.buffer.relabel import relabel
from robolearn.buffer.repair import repair
from robolearn.buffer.replay import Replay
from robolearn.buffer.retain import prune
from robolearn.buffer.schema import Schema
from robolearn.buffer.seal import seal
from robolearn.buffer.segment import SegmentReader
from robolearn.buffer.store import StorePaths, add_key, locked
from robolearn.buffer.verify import verify
from robolearn.buffer.writer import Writer
from robolearn.core.errors import CorruptDataError, StoreError
from robolearn.core.spec import ArraySpec
from robolearn.core.types import Array, Transition

GUIDE = (Path(__file__).parents[2] / "docs" / "buffer.md").read_text()
PICTURES = Schema(
    {
        **SCHEMA.observation,
        "wrist/rgb": ArraySpec("wrist/rgb", (45, 64, 3), "uint8", "rgb"),
        "touch": ArraySpec("touch", (32, 48, 1), "uint8"),
        "flow": ArraySpec("flow", (4, 5, 2), "uint8"),
    },
    SCHEMA.action,
)
LOSSY = ("touch", "wrist/rgb")
STEPS = 4


def picture(number: int, index: int, shape: tuple[int, ...]) -> Array:
    """Smooth, and that of no other row."""
    y, x, c = np.ogrid[: shape[0], : shape[1], : shape[2]]
    waves = np.sin(x / 9 + number) + np.cos(y / 7 + index / 3 + c)
    return (128 + 60 * waves).astype(np.uint8)


def written(number: int, *, humans: tuple[int, ...] = ()) -> list[Transition]:
    """The rows of an episode as they were written."""
    shapes = {key: PICTURES.observation[key].shape for key in PICTURES.images}
    return [
        dataclasses.replace(
            t, observation={**t.observation, **{k: picture(number, t.index, s) for k, s in shapes.items()}}
        )
        for t in episode(number, STEPS, humans=humans)
    ]


def write(root: Path, numbers: range, *, name: str = "a", humans: tuple[int, ...] = (), demo: bool = False) -> None:
    """One closed log."""
    with Writer(root, PICTURES, name=name, robot="arm", task="peg", log_bytes=1 << 20) as w:
        for number in numbers:
            for t in written(number, humans=humans):
                w.append(t)
            w.end_episode(number % 2 == 0, demo=demo)


@pytest.fixture(autouse=True, scope="module")
def unsynced() -> Iterator[None]:
    """Power cuts are no matter here, and a busy disk takes its time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda _: None)
        patched.setattr(os, "fdatasync", lambda _: None)
        yield


@pytest.fixture(scope="module")
def raw(unsynced: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Episodes 0 to 3 in segment a-000001, 4 to 7 in b-000001."""
    root = tmp_path_factory.mktemp("archive") / "raw"
    for name, numbers in (("a", range(4)), ("b", range(4, 8))):
        write(root, numbers, name=name)
    assert seal(root, everything=True) == ["a-000001", "b-000001"]
    return root


@pytest.fixture(scope="module")
def recoded(raw: Path) -> Path:
    """The same as archives."""
    root = Path(shutil.copytree(raw, raw.with_name("recoded")))
    assert len(archive(root).recoded) == 2
    return root


@pytest.fixture
def root(raw: Path, tmp_path: Path) -> Path:
    """A copy of ``raw``."""
    return Path(shutil.copytree(raw, tmp_path / "buffer"))


@pytest.fixture
def archived(recoded: Path, tmp_path: Path) -> Path:
    """A copy of ``recoded``."""
    return Path(shutil.copytree(recoded, tmp_path / "archived"))


def folders(root: Path) -> set[str]:
    return {path.name for path in (root / "segments").iterdir()}


def edit(root: Path, uuid: str, **changes: Any) -> None:
    index = Index(StorePaths(root).index, writable=True)
    try:
        index.edit(uuid, **changes)
    finally:
        index.close()


def without(rows: Iterable[Transition], keys: Iterable[str] = LOSSY) -> list[Transition]:
    """Rows without some images."""
    return [dataclasses.replace(t, observation={k: v for k, v in t.observation.items() if k not in keys}) for t in rows]


def psnr(left: Array, right: Array) -> float:
    return float(10 * np.log10(255**2 / max(np.mean((left.astype(float) - right.astype(float)) ** 2), 1e-9)))


def check(root: Path, numbers: Iterable[int], *, lossy: bool = True) -> dict[str, list[Transition]]:
    """These episodes are there and no others, as they were written but for what JPEG does; what was read."""
    report = verify(root)
    assert report.ok, report.problems
    found = everything(root)
    assert found.keys() == {uuid_of(number) for number in numbers}
    for number in numbers:
        rows, truth = found[uuid_of(number)], written(number)
        assert same(without(rows), without(truth))
        for key in LOSSY:
            quality = [psnr(a.observation[key], b.observation[key]) for a, b in zip(rows, truth, strict=True)]
            assert min(quality) > 38
            assert (max(quality) < 100) == lossy
    return found


def images_of() -> Callable[..., Array]:
    """The function that the guide shows."""
    (snippet,) = re.findall(r"```py\n(.*?)```", GUIDE, re.S)
    assert "robolearn" not in snippet
    known: dict[str, Any] = {}
    exec(snippet, known)
    found: Callable[..., Array] = known["images_of"]
    return found


def test_all_but_images_is_the_same_and_the_disk_has_room(root: Path) -> None:
    before = {r.uuid: r for r in records(root)}
    size = sum(p.stat().st_size for p in (root / "segments").rglob("*") if p.is_file())
    done = archive(root)
    assert [(r.segment, r.archive, r.episodes, r.steps) for r in done.recoded] == [
        ("a-000001", "a-000001.jpeg1", 4, 4 * STEPS),
        ("b-000001", "b-000001.jpeg1", 4, 4 * STEPS),
    ]
    assert (done.kept, done.waiting) == ({}, [])
    after = sum(p.stat().st_size for p in (root / "segments").rglob("*") if p.is_file())
    assert size - after == done.freed > size / 3
    assert folders(root) == {"a-000001.jpeg1", "b-000001.jpeg1"}
    check(root, range(8))
    for record in records(root):
        old = before[record.uuid]
        assert record == dataclasses.replace(old, segment=f"{old.segment}.jpeg1", revision=record.revision)
        assert record.revision > old.revision
    assert archive(root) == Archived(dry_run=False)


def test_a_dry_run_changes_nothing(root: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file() and "segments" in p.parts}
    done = archive(root, dry_run=True)
    assert [(r.segment, r.archive, r.archive_bytes) for r in done.recoded] == [("a-000001", "", 0), ("b-000001", "", 0)]
    assert (done.dry_run, done.freed) == (True, 0)
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file() and "segments" in p.parts} == before
    check(root, range(8), lossy=False)


def test_which_segments(root: Path) -> None:
    times = {w: [r.unix_ns for r in records(root) if r.writer == w] for w in "ab"}
    between = (max(times["a"]) + min(times["b"])) // 2
    assert archive(root, older_than_s=3600.0) == Archived(dry_run=False)
    done = archive(root, older_than_s=1.0, unix_ns=lambda: between + 10**9)
    assert [r.segment for r in done.recoded] == ["a-000001"]
    done = archive(root, select="writer=a")
    assert (done.recoded, done.kept) == ([], {"b-000001": "not all steps pass 'writer=a'"})
    done = archive(root, select="writer=b", quality=60)
    assert [r.segment for r in done.recoded] == ["b-000001"]
    assert done.recoded[0].archive_bytes < sum(
        p.stat().st_size for p in (root / "segments" / "a-000001.jpeg1").rglob("*") if p.is_file()
    )


@pytest.mark.parametrize("how", ["demo", "keep", "human"])
def test_pinned_segments_only_when_told(tmp_path: Path, how: str) -> None:
    write(tmp_path, range(2), demo=how == "demo")
    if how == "human":
        with Writer(tmp_path, PICTURES, name="a", robot="arm", task="peg") as w:
            for t in written(2, humans=(3,)):
                w.append(t)
            w.end_episode(True)
    seal(tmp_path, everything=True)
    if how == "keep":
        edit(tmp_path, uuid_of(1), tag="keep this")
    done = archive(tmp_path)
    assert done.recoded == []
    assert "pinned by" in done.kept["a-000001"]
    done = archive(tmp_path, pinned=True)
    assert (len(done.recoded), done.kept) == (1, {})
    assert verify(tmp_path).ok


def test_only_some_images(root: Path) -> None:
    archive(root, keys=["touch"])
    found = everything(root)
    for number in range(8):
        rows, truth = found[uuid_of(number)], written(number)
        assert same(without(rows, ["touch"]), without(truth, ["touch"]))
        assert not same(rows, truth)
    assert verify(root).ok


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"quality": 0}, "quality of 1 to 100, got 0"),
        ({"quality": 101}, "quality of 1 to 100, got 101"),
        ({"older_than_s": -1.0}, "an age of at least 0 s"),
        ({"older_than_s": float("nan")}, "an age of at least 0 s"),
        ({"select": "sucess"}, "unknown word 'sucess'"),
        ({"keys": ["wrist"]}, "'wrist' is no image that JPEG takes; have: touch, wrist/rgb"),
        ({"keys": ["flow"]}, "'flow' is no image that JPEG takes; have: touch, wrist/rgb"),
        ({"keys": ["q"]}, "'q' is no image"),
    ],
)
def test_arguments_that_make_no_sense(root: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(StoreError, match=re.escape(message)):
        archive(root, **given)
    check(root, range(8), lossy=False)


def test_what_has_no_images_or_would_grow_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, schema in (("none", SCHEMA), ("tiny", Schema({"flow": PICTURES.observation["flow"]}, SCHEMA.action))):
        with Writer(tmp_path / name, schema, name="a", robot="r", task="t") as w:
            for t in written(1):
                w.append(dataclasses.replace(t, observation={k: t.observation[k] for k in schema.observation}))
            w.end_episode(True)
        seal(tmp_path / name, everything=True)
        assert archive(tmp_path / name).kept == {"a-000001": "has no image that JPEG takes"}
    sealed(tmp_path / "noise", range(3), humans=())
    before = everything(tmp_path / "noise")
    monkeypatch.setattr(archive_module, "unfinished", lambda *_: [])  # at once: the disk may be nearly full
    done = archive(tmp_path / "noise")
    assert set(done.kept.values()) == {"would not become smaller"}
    assert (done.recoded, folders(tmp_path / "noise")) == ([], set(done.kept))
    assert all(same(rows, before[uuid]) for uuid, rows in everything(tmp_path / "noise").items())


def test_marks_and_corrections_stay_whenever_they_were_made(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    relabel(root, [Relabel(uuid_of(0), "reward", 2, np.array([5.0, 6.0]))])
    edit(root, uuid_of(1), dropped=True)
    real = archive_module.write_segment

    def meanwhile(*args: Any, **more: Any) -> int:
        monkeypatch.setattr(archive_module, "write_segment", real)
        edit(root, uuid_of(2), tag="good", success=False)
        edit(root, uuid_of(3), dropped=True)
        relabel(root, [Relabel(uuid_of(2), "reward", 1, np.array([-7.0]))])
        return real(*args, **more)

    monkeypatch.setattr(archive_module, "write_segment", meanwhile)
    assert len(archive(root).recoded) == 2
    now = {r.uuid: r for r in records(root)}
    assert (now[uuid_of(2)].tag, now[uuid_of(2)].success) == ("good", False)
    found = everything(root)
    assert found.keys() == {uuid_of(n) for n in (0, 2, 4, 5, 6, 7)}
    assert [t.reward for t in found[uuid_of(0)][2:4]] == [5.0, 6.0]
    assert found[uuid_of(2)][1].reward == -7.0
    assert verify(root).ok
    for number in (1, 3):  # a drop can still be undone
        edit(root, uuid_of(number), dropped=False)
    assert same(without(everything(root)[uuid_of(3)]), without(written(3)))
    assert verify(root).ok


def test_a_segment_that_is_pinned_meanwhile_stays(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = archive_module.write_segment

    def meanwhile(*args: Any, **more: Any) -> int:
        monkeypatch.setattr(archive_module, "write_segment", real)
        edit(root, uuid_of(2), demo=True)
        return real(*args, **more)

    monkeypatch.setattr(archive_module, "write_segment", meanwhile)
    done = archive(root)
    assert done.kept == {"a-000001": "was edited meanwhile"}
    assert folders(root) == {"a-000001", "b-000001.jpeg1"}
    found = everything(root)
    assert all(same(found[uuid_of(n)], written(n)) for n in range(4))


class _Died(BaseException):
    pass


@pytest.mark.parametrize(
    "moment", ["encoded", "write_segment", "rename", "fsync_dir", "put_segment", "transaction", "remove_unused"]
)
def test_a_crash_at_any_stage_leaves_one_place_in_charge(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    seen = 0

    def die(*_: object, **__: object) -> None:
        nonlocal seen
        seen += 1
        if moment != "encoded" or seen == 9:
            shutil.copytree(root, tmp_path / "crash")
            raise _Died

    if moment == "put_segment":
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
    elif moment == "encoded":
        monkeypatch.setattr(archive_module, "encoded", lambda *args: die() or encoded(*args))
    else:
        monkeypatch.setattr(archive_module, moment, die)
    with pytest.raises(_Died):
        archive(root)
    monkeypatch.undo()
    crash = tmp_path / "crash"
    over = moment in ("transaction", "remove_unused")
    assert verify(crash).ok, verify(crash).problems
    found = everything(crash)
    assert [same(found[uuid_of(number)], written(number)) for number in range(4)] == [not over] * 4
    shutil.copytree(crash, tmp_path / "sealed")
    seal(tmp_path / "sealed")  # what is left goes with whatever comes next
    assert folders(tmp_path / "sealed") == {"a-000001.jpeg1" if over else "a-000001", "b-000001"}
    archive(crash)
    assert folders(crash) == {"a-000001.jpeg1", "b-000001.jpeg1"}
    check(crash, range(8))


def test_a_full_disk_costs_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, left = os.pwrite, 30_000

    def full(fd: int, data: Any, offset: int) -> int:
        nonlocal left
        left -= len(data)
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data, offset)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(StoreError, match="No space left"):
            archive(root)
    assert folders(root) == {"a-000001", "b-000001"}
    check(root, range(8), lossy=False)


def test_an_index_that_takes_nothing_costs_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise StoreError("disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(Index, "put_segment", full)
        with pytest.raises(StoreError, match="disk is full"):
            archive(root)
    assert folders(root) == {"a-000001", "b-000001"}
    check(root, range(8), lossy=False)


def test_one_at_a_time(root: Path) -> None:
    with locked(StorePaths(root).seal_lock), pytest.raises(StoreError, match="by another process"):
        archive(root, patience_s=0.0)


def test_a_reader_goes_on_and_then_the_old_files_go(root: Path) -> None:
    old = records(root)[0]
    index = Index(StorePaths(root).index, writable=False)
    with EpisodeFiles(StorePaths(root), index) as files:
        before = files.rows(old)
        done = archive(root)
        assert (len(done.recoded), done.waiting) == (2, ["a-000001"])
        assert np.array_equal(files.rows(old), before)  # its files are still open
        assert verify(root).ok
    index.close()
    assert archive(root).waiting == []
    check(root, range(8))


def test_a_learner_follows(root: Path) -> None:
    with Replay(root, PICTURES, ram_bytes=1) as replay:
        replay.refresh()
        replay.sample(8)
        archive(root)
        replay.refresh()
        batch = replay.sample(64)
        for row_, count in enumerate(batch.next_observation["count"].tolist()):
            truth = written(count // 1000)[count % 1000].observation["wrist/rgb"]
            assert psnr(batch.next_observation["wrist/rgb"][row_], truth) > 38


@pytest.mark.parametrize(("mode", "ram"), [("exact", None), ("exact", 1), ("cached", 200_000)])
def test_samples_are_what_zarr_and_pillow_read(root: Path, mode: Any, ram: int | None) -> None:
    zarr = pytest.importorskip("zarr")
    archive(root, select="writer=a")
    read, by_hand = images_of(), {}
    for folder in (root / "segments").iterdir():
        segment = zarr.open_group(folder, mode="r")
        for found in segment.attrs["robolearn"]["episodes"]:
            rows = slice(found["first_row"], found["first_row"] + found["rows"])
            for key in PICTURES.images:
                for index, image in enumerate(read(segment, key, rows)):
                    by_hand[found["uuid"], index, key] = image.reshape(PICTURES.observation[key].shape)
    assert len(by_hand) == 8 * (STEPS + 1) * 3
    seen = set()
    with Replay(root, PICTURES, ram_bytes=ram, mode=mode) as replay:
        replay.refresh()
        for _ in range(6):
            batch = replay.sample(32)
            for side in (batch.observation, batch.next_observation):
                for i, count in enumerate(side["count"].tolist()):
                    seen.add(count // 1000)
                    for key in PICTURES.images:
                        expected = by_hand[uuid_of(count // 1000), count % 1000, key]
                        assert np.array_equal(side[key][i], expected)
    assert seen & set(range(4))
    assert seen & set(range(4, 8))


def outcome(root: Path) -> tuple[dict[str, list[Transition]], set[str]]:
    """What can be read, and ids of the episodes that are an error."""
    good, bad = {}, set()
    index = Index(StorePaths(root).index, writable=False)
    try:
        with EpisodeFiles(StorePaths(root), index) as files:
            for record in index.changes():
                if record.state != "dropped":
                    try:
                        good[record.uuid] = unpacked(files, record)
                    except CorruptDataError:
                        bad.add(record.uuid)
    finally:
        index.close()
    return good, bad


def unpacked(files: EpisodeFiles, record: EpisodeRecord) -> list[Transition]:
    from robolearn.buffer.rows import unpack

    return [unpack(row_, files.schema) for row_ in files.rows(record)]


@pytest.mark.parametrize(
    ("name", "at", "episodes"),
    [
        ("jpeg/wrist/rgb/c.0", 0, 1),
        ("jpeg/wrist/rgb/c.0", 5_000, 1),
        ("jpeg/wrist/rgb/c.0", -6, 0),
        ("jpeg_end/touch/c.0", 70, 4),
        ("crc/touch/c.0", 70, 4),
        ("crc/touch/c.0", -6, 0),
    ],
)
def test_a_flipped_bit_is_found_and_repair_keeps_the_rest(archived: Path, name: str, at: int, episodes: int) -> None:
    truth = everything(archived)
    path = archived / "segments" / "a-000001.jpeg1" / name
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)
    assert not verify(archived).ok
    good, bad = outcome(archived)
    assert len(bad) == episodes
    assert all(same(rows, truth[uuid]) for uuid, rows in good.items())
    repair(archived)
    assert verify(archived).ok, verify(archived).problems
    kept = everything(archived)
    assert kept.keys() == good.keys() == truth.keys() - bad
    assert all(same(rows, truth[uuid]) for uuid, rows in kept.items())


def test_files_in_many_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage of a chunk of offsets costs no more than its rows, and what lies behind the last file is checked."""
    zarr = pytest.importorskip("zarr")
    monkeypatch.setattr(layout_module, "CHUNK_BYTES", 99)
    root = tmp_path
    write(root, range(8))
    seal(root, everything=True)
    archive(root)
    truth, folder = check(root, range(8)), root / "segments" / "a-000001.jpeg1"
    shown = images_of()(zarr.open_group(folder, mode="r"), "wrist/rgb", slice(3, 9))
    rows = [t.observation["wrist/rgb"] for number in range(2) for t in truth[uuid_of(number)]]
    assert np.array_equal(shown, rows[3:9])
    arrays = [a for a in _arrays(folder) if a.name.startswith("jpeg/") and a.rows < a.chunks * a.chunk_rows]
    path = folder / arrays[0].shard
    data = bytearray(path.read_bytes())
    data[arrays[0].rows] = 1
    path.write_bytes(data)
    (problem,) = verify(root).problems
    assert "bytes behind the last row are not 0" in problem
    data[arrays[0].rows] = 0
    path.write_bytes(data)
    ends = folder / "jpeg_end" / "touch" / "c.0"
    data = bytearray(ends.read_bytes())
    data[1] ^= 1
    ends.write_bytes(data)
    assert len(verify(root).problems) < 5
    good, bad = outcome(root)
    assert uuid_of(0) in bad
    assert {uuid_of(n) for n in range(3, 8)} <= good.keys()
    assert all(same(rows, truth[uuid]) for uuid, rows in good.items())


def _arrays(folder: Path) -> list[Any]:
    reader = SegmentReader(folder)
    reader.close()
    return list(reader.arrays.values())


def test_random_bytes_of_an_archive(archived: Path) -> None:
    truth = everything(archived)
    files = [p for p in (archived / "segments" / "b-000001.jpeg1").rglob("*") if p.is_file()]
    rng = random.Random(4)
    for path in rng.sample(files, 10):
        data = bytearray(path.read_bytes())
        position = rng.randrange(len(data))
        changed = bytes(data[:position]) + bytes([data[position] ^ 1 << rng.randrange(8)]) + bytes(data[position + 1 :])
        path.write_bytes(changed)
        assert not verify(archived).ok, path
        good, _ = outcome(archived)
        assert all(same(rows, truth[uuid]) for uuid, rows in good.items()), path
        path.write_bytes(data)
    assert verify(archived).ok


@pytest.mark.parametrize("lost", ["zarr.json", "index", "both places", "cut"])
def test_repair_of_what_says_where_things_lie(archived: Path, raw: Path, lost: str) -> None:
    truth = everything(archived)
    if lost == "zarr.json":
        (archived / "segments" / "a-000001.jpeg1" / "zarr.json").write_bytes(b"{}")
    elif lost == "cut":
        path = archived / "segments" / "a-000001.jpeg1" / "jpeg" / "touch" / "c.0"
        os.truncate(path, 100)
    else:
        for path in archived.glob("index.sqlite*"):
            path.unlink()
        if lost == "both places":
            shutil.copytree(raw / "segments" / "a-000001", archived / "segments" / "a-000001")
    assert not verify(archived).ok
    repair(archived)
    assert verify(archived).ok, verify(archived).problems
    found = everything(archived)
    expected = truth.keys() - {uuid_of(n) for n in range(4)} if lost == "cut" else truth.keys()
    assert found.keys() == expected
    assert all(same(without(rows), without(truth[uuid])) for uuid, rows in found.items())
    if lost != "both places":
        assert all(same(rows, truth[uuid]) for uuid, rows in found.items())


@pytest.mark.parametrize("wrong", ["size", "turned", "channels", "cut", "text"])
def test_files_with_good_checksums_that_do_not_decode(root: Path, monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    def other(image: Array, quality: int) -> bytes:
        data = {
            "size": lambda: encoded(image[:-1], quality),
            "turned": lambda: encoded(np.ascontiguousarray(image.swapaxes(0, 1)), quality),
            "channels": lambda: encoded(np.repeat(image, 3, -1)[..., :3] if image.shape[-1] == 1 else image, quality),
            "cut": lambda: encoded(image, quality)[:-20],
            "text": lambda: b"no picture",
        }[wrong]()
        return data

    monkeypatch.setattr(archive_module, "encoded", other)
    archive(root, keys=["touch"])
    problems = verify(root).problems
    assert problems
    assert all("touch" in problem for problem in problems)
    assert outcome(root) == ({}, {uuid_of(n) for n in range(8)})


@pytest.mark.parametrize("wrong", ["a byte more", "backwards"])
def test_offsets_with_good_checksums_that_make_no_sense(
    root: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    writer = segment_module._StreamWriter
    put, finish = writer.put, writer.finish

    def more(self: Any) -> None:
        put(self, [b"x"])
        finish(self)

    if wrong == "backwards":
        monkeypatch.setattr(writer, "put", lambda self, files: put(self, files)[::-1].copy())
    else:
        monkeypatch.setattr(writer, "finish", more)
    archive(root, keys=["touch"], select="writer=a")
    said = "does not ascend" if wrong == "backwards" else "bytes of files, they end at"
    assert any(said in problem for problem in verify(root).problems)


def test_a_folder_that_is_in_the_way(root: Path) -> None:
    (root / "segments" / "a-000001.jpeg1").mkdir()
    assert [r.archive for r in archive(root).recoded] == ["a-000001.jpeg2", "b-000001.jpeg1"]


def test_colours_are_kept_at_full_resolution(archived: Path) -> None:
    reader = SegmentReader(archived / "segments" / "a-000001.jpeg1")
    (file,) = reader.jpegs("wrist/rgb", np.array([3]))
    reader.close()
    with Image.open(io.BytesIO(file)) as image:
        assert (image.format, image.size, JpegImagePlugin.get_sampling(image)) == ("JPEG", (64, 45), 0)


def test_an_older_version_refuses_an_archive(archived: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_module, "JPEG_FORMAT", segment_module.FORMAT)  # it knows but one
    with pytest.raises(StoreError, match="has format 3, this version reads 2 and 2"):
        SegmentReader(archived / "segments" / "a-000001.jpeg1")


def test_a_damaged_segment_is_told_and_the_others_are_archived(root: Path) -> None:
    path = root / "segments" / "a-000001" / "observation" / "wrist" / "rgb" / "c.0.0.0.0"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    done = archive(root)
    assert [r.segment for r in done.recoded] == ["b-000001"]
    assert "is damaged, repair the buffer: " in done.kept["a-000001"]
    assert folders(root) == {"a-000001", "b-000001.jpeg1"}


def test_a_key_added_since(root: Path) -> None:
    add_key(root, ArraySpec("late", (8, 8, 3), "uint8", "rgb"), 7)
    archive(root)
    assert verify(root).ok
    for number, rows in enumerate(map(everything(root).get, map(uuid_of, range(8)))):
        assert rows is not None
        assert all((t.observation["late"] == 7).all() for t in rows)
        assert same(without(rows, [*LOSSY, "late"]), without(written(number)))


def test_prune_merge_and_export(archived: Path, tmp_path: Path) -> None:
    truth = everything(archived)
    merged = tmp_path / "merged"
    merge([archived], merged)
    assert verify(merged).ok
    assert all(same(rows, truth[uuid]) for uuid, rows in everything(merged).items())
    assert everything(merged).keys() == truth.keys()
    done = prune(archived, older_than_s=0.0, select="writer=a")
    assert [d.segment for d in done.dropped] == ["a-000001.jpeg1"]
    assert folders(archived) == {"b-000001.jpeg1"}
    check(archived, range(4, 8))
    pytest.importorskip("pyarrow")
    export_lerobot(archived, tmp_path / "lerobot", fps=10.0)
    import_lerobot(tmp_path / "lerobot", tmp_path / "back")
    back = [[t.observation["wrist/rgb"] for t in rows] for rows in everything(tmp_path / "back").values()]
    here = [[t.observation["wrist/rgb"] for t in rows] for rows in everything(archived).values()]
    assert all(np.array_equal(a, b) for a, b in zip(back, here, strict=True))


def test_archived_again_after_repair(archived: Path) -> None:
    (archived / "segments" / "a-000001.jpeg1" / "zarr.json").write_bytes(b"{}")
    repair(archived)
    assert folders(archived) == {"a-000001.jpeg1.1", "b-000001.jpeg1"}
    archive(archived)
    assert folders(archived) == {"a-000001.jpeg1.1.jpeg1", "b-000001.jpeg1"}
    check(archived, range(8))
