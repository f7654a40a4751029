"""The sealer process keeps a run's buffer within its budget, and says when it cannot."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path

import numpy as np

from robolearn.buffer.index import Index
from robolearn.buffer.schema import Schema
from robolearn.buffer.seal import seal
from robolearn.buffer.store import StorePaths
from robolearn.buffer.verify import verify
from robolearn.buffer.writer import Writer
from robolearn.core.spec import ArraySpec
from robolearn.core.types import Kind, Source, Transition
from robolearn.run import rundir
from robolearn.run.complete import complete
from robolearn.run.config import TrainConfig
from robolearn.run.counters import Row
from robolearn.run.process import Process
from robolearn.run.sealer import Sealer

SCHEMA = Schema({"state": ArraySpec("state", (1000,))}, ArraySpec("action", (1,)))


def process_of(root: Path) -> Process:
    config = complete(TrainConfig(tier="smoke", device="cpu", run_dir=str(root)))
    return Process("sealer", Row.SEALER, rundir.create(config, ["train"]), time.monotonic_ns())


def write(root: Path, name: str, *, demo: bool) -> None:
    with Writer(root, SCHEMA, name=name, robot="r", task="t", demo=demo) as writer:
        episode, action = uuid.uuid4().hex, np.zeros(1, np.float32)
        for index in range(3):
            kind = (Kind.FIRST, Kind.MID, Kind.TRUNCATED)[index]
            state = {"state": np.full(1000, index, np.float32)}
            writer.append(
                Transition(episode, index, state, action, action, None, Source.POLICY, 0.0, 1.0, kind, 0, index)
            )
        writer.end_episode(True)


def events(process: Process) -> list[dict[str, object]]:
    if not process.paths.events.exists():
        return []
    return [json.loads(line) for line in process.paths.events.read_text().splitlines()]


def live(root: Path) -> list[str]:
    index = Index(StorePaths(root).index, writable=False)
    try:
        return sorted(name for name, segment in index.segments().items() if segment.state == "live")
    finally:
        index.close()


def test_the_oldest_data_goes_and_demonstrations_stay(tmp_path: Path) -> None:
    process = process_of(tmp_path / "run")
    root = process.paths.buffer
    for name, demo in (("shown", True), ("old", False), ("new", False)):
        write(root, name, demo=demo)
        seal(root, everything=True)
    size = sum(path.stat().st_size for path in (root / "segments" / "old-000001").rglob("*") if path.is_file())
    used = sum(path.stat().st_size for path in root.rglob("*") if path.is_file() and "index.sqlite-" not in path.name)
    Sealer(process, used - size // 2).once(everything=True)
    assert live(root) == ["new-000001", "shown-000001"]
    assert [(e["event"], e["segment"]) for e in events(process)] == [("pruned", "old-000001")]
    assert verify(root).ok


def test_a_budget_that_cannot_be_kept_is_reported_once(tmp_path: Path) -> None:
    process = process_of(tmp_path / "run")
    write(process.paths.buffer, "shown", demo=True)
    sealer = Sealer(process, 1)
    for _ in range(3):
        sealer.once(everything=True)
    told = [e for e in events(process) if e["level"] == "warn"]
    assert len(told) == 1
    assert "larger than disk_gb" in str(told[0]["problem"])
    assert "shown-000001 pinned" in str(told[0]["problem"])


def test_without_a_budget_nothing_goes(tmp_path: Path) -> None:
    process = process_of(tmp_path / "run")
    write(process.paths.buffer, "a", demo=False)
    Sealer(process, 0).once(everything=True)
    assert live(process.paths.buffer) == ["a-000001"]
    assert [e["event"] for e in events(process)] == ["sealed"]
