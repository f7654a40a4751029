import dataclasses
from pathlib import Path

import pytest
from buffer_rows import IMAGES, SCHEMA, contents, episode, records, same, uuid_of

from robolearn.buffer.transfer import copy_demonstrations
from robolearn.buffer.verify import verify
from robolearn.buffer.writer import Writer
from robolearn.core.errors import CorruptDataError, StoreError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    for task, numbers in (("peg", (1, 2)), ("plug", (3,))):
        with Writer(root, SCHEMA, name="demonstrations", robot="arm", task=task, demo=True) as w:
            for number in numbers:
                for t in episode(number, 4, humans=[2]):
                    w.append(t)
                w.end_episode(number != 2)
    with Writer(root, SCHEMA, name="actor", robot="arm", task="peg") as w:
        for t in episode(4, 4):
            w.append(t)
        w.end_episode(True)
    return root


def test_demonstrations_are_copied_whole(source: Path, tmp_path: Path) -> None:
    assert copy_demonstrations(source, tmp_path / "target", SCHEMA) == 3
    found = contents(tmp_path / "target")
    assert set(found) == {uuid_of(1), uuid_of(2), uuid_of(3)}
    assert all(same(found[uuid_of(n)], episode(n, 4, humans=[2])) for n in (1, 2, 3))
    stored = records(tmp_path / "target")
    assert [(r.task, r.success, r.demo) for r in stored] == [
        ("peg", True, True),
        ("peg", False, True),
        ("plug", True, True),
    ]
    assert verify(tmp_path / "target").ok
    assert verify(source).ok


@pytest.mark.parametrize("limit", [0, 1, 2, 10, None])
def test_a_limit_takes_the_oldest(source: Path, tmp_path: Path, limit: int | None) -> None:
    expected = 3 if limit is None else min(limit, 3)
    assert copy_demonstrations(source, tmp_path / "target", SCHEMA, limit=limit) == expected
    if expected:
        assert [r.uuid for r in records(tmp_path / "target")] == [uuid_of(n) for n in range(1, expected + 1)]


def test_copying_again_goes_on_where_it_stopped(source: Path, tmp_path: Path) -> None:
    copy_demonstrations(source, tmp_path / "target", SCHEMA, limit=1)
    for _ in range(2):
        assert copy_demonstrations(source, tmp_path / "target", SCHEMA) == 3
        assert len(records(tmp_path / "target")) == 3


def test_a_demonstration_cut_short_ends_truncated(tmp_path: Path) -> None:
    from robolearn.buffer.index import Index
    from robolearn.buffer.store import StorePaths
    from robolearn.core.types import Kind

    rows = episode(1, 4)[:3]
    with Writer(tmp_path / "source", SCHEMA, name="human", robot="arm", task="peg") as w:
        for t in rows:
            w.append(t)
    index = Index(StorePaths(tmp_path / "source").index, writable=True)
    index.edit(uuid_of(1), demo=True)
    index.close()
    assert copy_demonstrations(tmp_path / "source", tmp_path / "target", SCHEMA) == 1
    rows[-1] = dataclasses.replace(rows[-1], kind=Kind.TRUNCATED)
    assert same(contents(tmp_path / "target")[uuid_of(1)], rows)


def test_another_schema_or_no_buffer_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="camera"):
        copy_demonstrations(source, tmp_path / "target", IMAGES)
    with pytest.raises(StoreError, match="no buffer"):
        copy_demonstrations(tmp_path / "nothing", tmp_path / "target", SCHEMA)
    assert not (tmp_path / "target").exists()


def test_damage_is_not_copied(source: Path, tmp_path: Path) -> None:
    log = source / "logs" / "demonstrations-000001.log"
    raw = bytearray(log.read_bytes())
    raw[-100] ^= 1
    raw[-400] ^= 1
    log.write_bytes(raw)
    with pytest.raises(CorruptDataError):
        copy_demonstrations(source, tmp_path / "target", SCHEMA)
    assert same(contents(tmp_path / "target")[uuid_of(1)], episode(1, 4, humans=[2]))
    assert verify(tmp_path / "target").ok
