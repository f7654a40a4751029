"""Metrics: lines that never mix, readers that survive a torn one, and a TensorBoard copy."""

from __future__ import annotations

import json
import math
import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from robolearn.core.jsonable import jsonable
from robolearn.run.metrics import JsonlTail, JsonlWriter, TensorBoardCopy, read_jsonl


def _append(path: Path, role: str, count: int) -> None:
    with JsonlWriter(path) as out:
        for number in range(count):
            out.write({"role": role, "number": number, "padding": role * 700})


def test_lines_of_several_processes_do_not_mix(tmp_path: Path) -> None:
    path, context = tmp_path / "metrics.jsonl", multiprocessing.get_context("spawn")
    processes = [context.Process(target=_append, args=(path, role, 400)) for role in "abc"]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 1200
    for role in "abc":
        assert [line["number"] for line in lines if line["role"] == role] == list(range(400))
        assert all(line["padding"] == role * 700 for line in lines if line["role"] == role)


def test_what_json_lacks_becomes_null_and_arrays_lists(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with JsonlWriter(path) as out:
        out.write(
            {"a": math.nan, "b": np.float32(1.5), "c": np.arange(3), "d": np.True_, "e": -math.inf, "f": Path("x")}
        )
    assert read_jsonl(path) == [{"a": None, "b": 1.5, "c": [0, 1, 2], "d": True, "e": None, "f": "x"}]
    with pytest.raises(TypeError, match="no JSON form for object"):
        jsonable({"a": object()})


def test_a_torn_last_line_is_left_out_and_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = JsonlTail(path)
    assert (tail.read(), read_jsonl(path)) == ([], [])
    path.write_bytes(b'{"n":1}\n{"n":')
    assert (tail.read(), read_jsonl(path)) == ([{"n": 1}], [{"n": 1}])
    with open(path, "ab") as file:
        file.write(b'2}\nnot json\n[3]\n{"n":4}\n')
    assert tail.read() == [{"n": 2}, {"n": 4}]
    assert tail.read() == []
    assert read_jsonl(path) == [{"n": 1}, {"n": 2}, {"n": 4}]


def test_closing_twice_is_fine(tmp_path: Path) -> None:
    writer = JsonlWriter(tmp_path / "metrics.jsonl")
    writer.close()
    writer.close()


def test_tensorboard_gets_every_number_against_robot_steps(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    metrics, folder = tmp_path / "metrics.jsonl", tmp_path / "tensorboard"
    with JsonlWriter(metrics) as out:
        out.write({"kind": "eval", "time_s": 3.5, "steps": 100, "success": 0.5, "role": "eval", "nothing": None})
        copy = TensorBoardCopy(metrics, folder)
        assert copy.update() == 1
        out.write({"kind": "episode", "time_s": 4.0, "steps": 120, "success": True})
        copy.close()
        out.write({"kind": "episode", "time_s": 5.0, "steps": 140, "success": False})
    again = TensorBoardCopy(metrics, folder, resume=True)
    assert again.update() == 0
    again.close()
    found = []
    for path in sorted(folder.iterdir()):
        for raw in RawEventFileLoader(str(path)).Load():
            event = Event.FromString(raw)
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    assert (100, "eval/success", 0.5) in found
    assert (120, "episode/success", 1.0) in found
    assert {tag for _, tag, _ in found} == {"eval/success", "eval/time_s", "episode/success", "episode/time_s"}
    assert all(step < 140 for step, _, _ in found)
