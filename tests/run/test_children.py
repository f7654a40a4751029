"""Workers that end by themselves: killed, failing, asked to stop."""

import itertools
import time
from pathlib import Path

import pytest

from robolearn.core.errors import RobolearnError
from robolearn.run.children import Child, Children
from robolearn.run.config import RunPaths
from robolearn.run.counters import Counters, Row


@pytest.fixture
def children(tmp_path: Path) -> Children:
    paths = RunPaths(tmp_path)
    paths.logs.mkdir()
    return Children(paths, Counters(paths.counters), time.monotonic_ns(), [], lambda *_, **__: None)


def pretend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> Child:
    """A worker that is a shell script."""
    program = tmp_path / "worker.sh"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr("robolearn.run.children.sys.executable", str(program))
    return Child("recorder", Row.EVALUATOR, ["recorder"])


def test_a_killed_worker_is_started_again(children: Children, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    child = pretend(monkeypatch, tmp_path, f"[ -e {mark} ] && exit 0; touch {mark}; kill -9 $$")
    children.run(child, lambda: True)
    assert (child.restarts, children.members) == (1, [])


def test_a_failing_worker_is_not_and_its_last_words_are_told(
    children: Children, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    child = pretend(monkeypatch, tmp_path, "echo first; echo no peg >&2; exit 3")
    with pytest.raises(RobolearnError, match="recorder failed: no peg"):
        children.run(child, lambda: True)
    assert child.restarts == 0


def test_a_worker_that_is_asked_to_end_early_is_no_failure(
    children: Children, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    child, asked = pretend(monkeypatch, tmp_path, "exec sleep 60"), itertools.count()
    started = time.monotonic()
    children.run(child, lambda: next(asked) < 2)
    assert time.monotonic() - started < 30
    assert child.restarts == 0
