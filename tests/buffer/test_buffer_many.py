"""Many episodes read at once are the same as one after the other."""

import dataclasses
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from buffer_rows import IMAGES, SCHEMA, episode, records, uuid_of
from buffer_sealed import sealed, write

from robolearn.buffer.files import EpisodeFiles
from robolearn.buffer.filters import Filter
from robolearn.buffer.hot import HotTier
from robolearn.buffer.index import EpisodeRecord, Index, Relabel
from robolearn.buffer.records import Wanted
from robolearn.buffer.relabel import relabel
from robolearn.buffer.replay import Replay
from robolearn.buffer.schema import Schema
from robolearn.buffer.seal import seal
from robolearn.buffer.store import StorePaths
from robolearn.buffer.writer import Writer
from robolearn.core.errors import CorruptDataError, StoreError
from robolearn.core.spec import ArraySpec
from robolearn.core.types import Source

TWO = Schema({**IMAGES.observation, "wrist": ArraySpec("wrist", (2, 3, 3), "uint8", "rgb")}, IMAGES.action)


@contextmanager
def opened(root: Path) -> Iterator[tuple[Index, EpisodeFiles]]:
    with (
        closing(Index(StorePaths(root).index, writable=False)) as index,
        EpisodeFiles(StorePaths(root), index) as files,
    ):
        yield index, files


def mixed(root: Path, schema: Schema = SCHEMA) -> None:
    """Sealed and unsealed episodes, human steps, demonstrations, a relabelled one, a dropped one, a growing one."""
    write(root, range(12), schema=schema)
    with closing(Index(StorePaths(root).index, writable=True)) as index:
        index.edit([uuid_of(n) for n in (3, 4, 7)], demo=True)
        index.edit(uuid_of(5), dropped=True)
    relabel(root, [Relabel(uuid_of(8), "source", 4, np.array([Source.HUMAN, Source.SAFETY], np.uint8))])
    seal(root, everything=True)
    write(root, range(12, 16), name="other", schema=schema)


def two_cameras(number: int, steps: int) -> list[object]:
    found = []
    for t in episode(number, steps, schema=IMAGES):
        t.observation["wrist"] = np.random.default_rng([number, t.index, 1]).integers(0, 256, (2, 3, 3), np.uint8)
        found.append(t)
    return found


@pytest.mark.parametrize("kept", ["logs", "segments"])
def test_images_of_many_episodes_go_where_they_are_wanted(tmp_path: Path, kept: str) -> None:
    truth = {number: two_cameras(number, 4) for number in range(6)}
    with Writer(tmp_path, TWO, name="actor", robot="arm", task="peg", log_bytes=2048) as writer:
        for rows in truth.values():
            for t in rows:
                writer.append(t)
            writer.end_episode(True)
    if kept == "segments":
        seal(tmp_path, everything=True)
    asked = {4: [2, 3, 0], 1: [1], 5: [4, 4, 3], 0: []}
    with opened(tmp_path) as (index, files):
        wanted, expected = [], []
        for number, rows in asked.items():
            out = {key: [np.zeros(TWO.observation[key].shape, np.uint8) for _ in rows] for key in ("wrist", "camera")}
            record = index.episode(uuid_of(number))
            assert record is not None
            wanted.append(Wanted(record, np.array(rows, np.int64), out))
            expected.append({key: [truth[number][row].observation[key] for row in rows] for key in out})
        files.images_many(wanted)
        for one, images in zip(wanted, expected, strict=True):
            for key in images:
                for found, image in zip(one.out[key], images[key], strict=True):
                    np.testing.assert_array_equal(found, image)
        alone = np.zeros((1, 2, 3, 3), np.uint8)
        files.images_many([Wanted(wanted[0].record, np.array([1]), {"wrist": alone})])
        np.testing.assert_array_equal(alone[0], truth[4][1].observation["wrist"])
        with pytest.raises(StoreError, match="expected rows within"):
            files.images_many([Wanted(wanted[0].record, np.array([5]), {"wrist": alone})])


def test_every_byte_of_a_row_in_a_log_is_checked_when_one_image_is_read(tmp_path: Path) -> None:
    write(tmp_path, range(1), steps=2)
    (record,) = records(tmp_path)
    log = StorePaths(tmp_path).logs / record.log
    sound, stride = log.read_bytes(), IMAGES.row.itemsize + 16
    out = np.zeros((1, 4, 5, 3), np.uint8)
    for byte in range(record.offset + stride, record.offset + 2 * stride):
        bad = bytearray(sound)
        bad[byte] ^= 16
        log.write_bytes(bad)
        with opened(tmp_path) as (_, files):
            with pytest.raises(CorruptDataError, match="row 1 at byte"):
                files.images(record, "camera", np.array([1]), out)
            files.images(record, "camera", np.array([2]), out)
    log.write_bytes(sound[: record.offset + 2 * stride - 1])
    with opened(tmp_path) as (_, files), pytest.raises(CorruptDataError, match="row 1 at byte"):
        files.images(record, "camera", np.array([1]), out)


def test_an_image_of_another_row_is_noticed(tmp_path: Path) -> None:
    write(tmp_path, range(1), steps=3)
    (record,) = records(tmp_path)
    log, stride = StorePaths(tmp_path).logs / record.log, IMAGES.row.itemsize + 16
    data = bytearray(log.read_bytes())
    first = record.offset + stride
    data[first : first + stride] = data[first + stride : first + 2 * stride]
    log.write_bytes(data)
    with opened(tmp_path) as (_, files), pytest.raises(CorruptDataError, match="belong to other rows"):
        files.images(record, "camera", np.array([1]), np.zeros((1, 4, 5, 3), np.uint8))


def test_rows_of_many_episodes_are_those_of_each(tmp_path: Path) -> None:
    mixed(tmp_path)
    with opened(tmp_path) as (index, files):
        found = [record for record in index.changes() if record.state == "complete"]
        for order in (found, found[::-1], found[::2], found[:1], []):
            each = [files.low_dim(record) for record in order]
            rows = files.low_dim_many(order)
            assert rows.dtype == SCHEMA.low_row
            for name in rows.dtype.names:
                assert rows[name].tolist() == [value for part in each for value in part[name].tolist()]


def state(replay: Replay) -> dict[str, object]:
    hot, end = replay._hot, replay._hot.table.end
    memory = hot.memory
    found: dict[str, object] = {view.name: view.positions.tolist() for view in hot.views}
    for name in ("packed", "source", "policy", "owner", "slot"):
        found[name] = getattr(memory, name)[:end].tolist()
    numbers = len(hot.episodes)
    found |= {"first": memory.first[:numbers].tolist(), "last": memory.last[:numbers].tolist()}
    found |= {"arrival": hot.table.arrival[:numbers].tolist(), "control": memory.control[1:8].tolist()}
    found["episodes"] = [(u, e.record, e.rows, e.runs, e.executed.tolist()) for u, e in hot.episodes.items()]
    found |= {"executed": hot.executed.tolist(), "leaving": list(hot._candidates), "rows": hot.table.rows}
    return found


@pytest.mark.parametrize(("capacity", "by_policy"), [(None, True), (60, True), (None, False)])
def test_taken_in_together_or_one_by_one_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capacity: int | None, by_policy: bool
) -> None:
    mixed(tmp_path / "own")
    write(tmp_path / "other", range(20, 26), schema=SCHEMA)
    seal(tmp_path / "other", everything=True)
    states, together = [], []
    take_in = HotTier._take_in

    def counting(hot: HotTier, found: list[EpisodeRecord], source: Any) -> int:
        together.append(len(found))
        return take_in(hot, found, source)

    for one_by_one in (False, True):
        with monkeypatch.context() as patch:
            if one_by_one:
                patch.setattr(HotTier, "_fresh", lambda self, records, at, source: at)
            else:
                patch.setattr(HotTier, "_take_in", counting)
            others = [(tmp_path / "other", "success,intervention")]
            with Replay(tmp_path / "own", SCHEMA, others=others, capacity_rows=capacity, seed=0) as replay:
                replay.view("success")
                if by_policy:
                    replay.view("policy>=9,source=policy", newest=20)
                replay.view("intervention", max_version_lag=8)
                replay.refresh()
                states.append(state(replay))
    assert sum(together) > 5
    for name, value in states[0].items():
        assert value == states[1][name], name


@pytest.mark.parametrize("text", ["policy>=6", "policy<3", "!policy>4", "policy=4|intervention", "intervention"])
def test_neighbours_that_differ_by_their_policy_only_are_told_apart(tmp_path: Path, text: str) -> None:
    truth = [episode(number, 3) for number in range(6)]
    with Writer(tmp_path, SCHEMA, name="actor", robot="arm", task="peg") as writer:
        for rows in truth:
            for t in rows:
                writer.append(t)
            writer.end_episode(True)
    select, steps = Filter.parse(text), [t for rows in truth for t in rows[1:]]
    versions = np.array([t.policy_version for t in steps])
    (record, *_) = records(tmp_path)
    every = dataclasses.replace(record, policy_min=versions.min(), policy_max=versions.max(), interventions=1)
    passed = select.steps(every, np.array([t.source for t in steps], np.uint8), versions)
    with Replay(tmp_path, SCHEMA) as replay:
        view = replay.view(text)
        replay.refresh()
        assert replay._hot.memory.policy[view.positions].tolist() == versions[passed].tolist()


def test_damage_costs_only_the_episodes_it_is_in(tmp_path: Path) -> None:
    sealed(tmp_path, range(4), schema=SCHEMA, log_bytes=1 << 20)
    shard = next((tmp_path / "segments").glob("*/reward/c.0"))
    data = bytearray(shard.read_bytes())
    data[40] ^= 1
    shard.write_bytes(data)
    write(tmp_path, range(4, 8), name="sound", schema=SCHEMA)
    with Replay(tmp_path, SCHEMA) as replay:
        with pytest.raises(CorruptDataError, match="'reward' fails its checksum"):
            replay.refresh()
        assert replay.rows == 0
        assert replay._hot.demo.size == replay.online_transitions == 0


def test_the_index_can_be_read_with_any_sqlite_tool(tmp_path: Path) -> None:
    write(tmp_path, range(3))
    with closing(sqlite3.connect(tmp_path / "index.sqlite")) as db:
        rows = db.execute('SELECT uuid, task, rows, success, interventions FROM episodes WHERE "success" ORDER BY id')
        assert rows.fetchall() == [(uuid_of(n), "peg", 8, 1, 1) for n in (0, 2)]


@pytest.mark.parametrize("reward", [float("inf"), float("-inf"), -0.0, 1e-300])
def test_the_index_holds_any_reward(tmp_path: Path, reward: float) -> None:
    write(tmp_path, range(1))
    (record,) = records(tmp_path)
    with closing(Index(StorePaths(tmp_path).index, writable=True)) as index:
        with index.transaction(durable=False) as revision:
            index.put_episode(dataclasses.replace(record, total_reward=reward), revision)
        found = index.episode(record.uuid)
    assert found is not None
    assert (found.total_reward, str(found.total_reward)) == (reward, str(reward))
