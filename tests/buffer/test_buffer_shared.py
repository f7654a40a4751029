"""Other processes sample the memory of a replay, while it changes, and notice when it is gone."""

import dataclasses
import json
import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from buffer_rows import IMAGES, SCHEMA, episode, row, uuid_of

from robolearn.buffer.index import Index
from robolearn.buffer.replay import Refresh, Replay
from robolearn.buffer.schema import Schema
from robolearn.buffer.shared import Handle, attach
from robolearn.buffer.store import StorePaths
from robolearn.buffer.writer import Writer
from robolearn.core.errors import StoreError
from robolearn.core.types import Kind

SPAWN = multiprocessing.get_context("spawn")


def fill(root: Path, numbers: range, schema: Schema = SCHEMA, name: str = "actor", steps: int = 12) -> None:
    with Writer(root, schema, name=name, robot="arm", task="peg") as w:
        for number in numbers:
            for t in episode(number, steps, schema=schema, humans=[2]):
                w.append(t)
            w.end_episode(True)


def check(batch: object, schema: Schema) -> set[int]:
    """Rows belong together, bit by bit; the numbers of their episodes."""
    before, after = batch.observation, batch.next_observation  # type: ignore[attr-defined]
    assert np.array_equal(before["count"] + 1, after["count"])
    for observation in (before, after):
        for i, count in enumerate(observation["count"]):
            expected = row(*divmod(int(count), 1000), Kind.MID, schema=schema).observation
            for key, value in expected.items():
                assert np.array_equal(observation[key][i], value), (key, count)
    return {int(c) // 1000 for c in after["count"]}


def _reader(handle: Handle, pipe: Connection, schema_name: str) -> None:
    """Another process: samples until told to stop; says what it saw."""
    schema = {"plain": SCHEMA, "images": IMAGES}[schema_name]
    seen: set[int] = set()
    try:
        with attach(handle) as replay:
            pipe.send("attached")
            batches = 0
            while not pipe.poll():
                seen |= check(replay.sample(24, demo_fraction=0.25), schema)
                replay.sample_chunks(4, history=2, chunk=5)
                batches += 1
            pipe.send((batches, sorted(seen)))
    except BaseException as error:  # noqa: BLE001
        pipe.send(f"{type(error).__name__}: {error}")


def start(target: object, *arguments: object) -> tuple[object, Connection]:
    mine, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=target, args=(*arguments[:1], theirs, *arguments[1:]))  # type: ignore[arg-type]
    process.start()
    theirs.close()
    return process, mine


def received(pipe: Connection) -> object:
    assert pipe.poll(60)
    return pipe.recv()


@pytest.mark.parametrize("kind", ["plain", "images"])
def test_a_reader_sees_what_is_taken_in_and_never_a_mixture(tmp_path: Path, kind: str) -> None:
    schema = {"plain": SCHEMA, "images": IMAGES}[kind]
    fill(tmp_path, range(1, 9), schema)
    budget = {} if kind == "plain" else {"ram_bytes": 17000, "mode": "cached", "exchange": Refresh(4.0)}
    with Replay(tmp_path, schema, capacity_rows=None if budget else 90, **budget) as replay:  # type: ignore[arg-type]
        replay.refresh()
        process, pipe = start(_reader, replay.handle(), kind)
        assert received(pipe) == "attached"
        for number in range(9, 20):
            with Writer(tmp_path, schema, name="other", robot="arm", task="peg") as w:
                rows = episode(number, 12, schema=schema, humans=[2])
                for t in rows:
                    w.append(t)
                    w.flush()
                    replay.refresh()
                    replay.sample(8)
                w.end_episode(True)
            replay.refresh()
        for _ in range(300):
            replay.sample(8)
        assert not pipe.poll(), pipe.recv()
        pipe.send("stop")
        result = received(pipe)
        assert isinstance(result, tuple), result
        assert result[0] > 0
        assert set(result[1]) & set(range(9, 20))
        process.join()  # type: ignore[attr-defined]
        pipe.close()


def _owner(root: Path, pipe: Connection) -> None:
    replay = Replay(root, SCHEMA)
    replay.refresh()
    pipe.send(replay.handle())
    pipe.recv()


def test_an_owner_that_is_killed_is_noticed(tmp_path: Path) -> None:
    fill(tmp_path, range(1, 4))
    process, pipe = start(_owner, tmp_path)
    handle = received(pipe)
    with attach(handle) as replay:  # type: ignore[arg-type]
        check(replay.sample(32), SCHEMA)
        assert (replay.demo_transitions, replay.online_transitions) == (3, 36)
        os.kill(process.pid, signal.SIGKILL)  # type: ignore[attr-defined]
        process.join()  # type: ignore[attr-defined]
        for _ in range(2):
            with pytest.raises(StoreError, match="is gone"):
                replay.sample(32)
    with pytest.raises(StoreError, match="is gone"):
        attach(handle)  # type: ignore[arg-type]
    pipe.close()


def test_within_one_process(tmp_path: Path) -> None:
    fill(tmp_path, range(1, 4))
    replay = Replay(tmp_path, SCHEMA)
    replay.refresh()
    handle = Handle(**json.loads(json.dumps(dataclasses.asdict(replay.handle()))))
    before = len(os.listdir("/proc/self/fd"))
    with attach(handle, seed=1) as shared:
        mine = replay.sample(16, rng=np.random.default_rng(2), horizon=3, gamma=0.9)
        theirs = shared.sample(16, rng=np.random.default_rng(2), horizon=3, gamma=0.9)
        assert np.array_equal(mine.reward, theirs.reward)
        assert np.array_equal(mine.next_observation["q"], theirs.next_observation["q"])
        chunks = shared.sample_chunks(4, rng=np.random.default_rng(3), copy=True)
        assert np.array_equal(chunks.action, replay.sample_chunks(4, rng=np.random.default_rng(3)).action)
        with pytest.raises(StoreError, match="no view 'success'"):
            shared.sample(4, mixture=[("success", 1.0)])
        replay.view("success")
        assert "success" in shared.views
        shared.sample(4, mixture=[("success", 1.0)])
        index = Index(StorePaths(tmp_path).index, writable=True)
        index.edit([uuid_of(1), uuid_of(2)], dropped=True)
        index.close()
        replay.refresh()
        assert check(shared.sample(64), SCHEMA) == {3}
        replay.close()
        with pytest.raises(StoreError, match="has closed it"):
            shared.sample(4)
    with pytest.raises(StoreError, match="closed"):
        shared.sample(4)
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_handle_of_somebody_else_is_refused(tmp_path: Path) -> None:
    with Replay(tmp_path, SCHEMA) as replay:
        handle = replay.handle()
        with pytest.raises(StoreError, match="is gone"):
            attach(dataclasses.replace(handle, started=handle.started - 1))
        with pytest.raises(StoreError, match="is gone"):
            attach(dataclasses.replace(handle, pid=2**22 + 1))
        wrong = {**handle.arrays, "control": {**handle.arrays["control"], "fd": handle.arrays["source"]["fd"]}}
        with pytest.raises(StoreError, match="no replay of this version"):
            attach(dataclasses.replace(handle, arrays=wrong))
        with attach(handle) as shared, pytest.raises(StoreError, match="nothing to draw"):
            shared.sample(4)
