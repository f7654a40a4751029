"""Workers that end by themselves: killed, failing, asked to stop."""

import itertools
import subprocess
import time
from pathlib import Path

import pytest

from robolearn.core.errors import ConfigError, LeaseError, RobolearnError, RobotStoppedError
from robolearn.run.children import Child, Children, Failed, give_up
from robolearn.run.config import RunPaths
from robolearn.run.counters import Counters, Row


@pytest.fixture
def children(tmp_path: Path) -> Children:
    paths = RunPaths(tmp_path)
    paths.logs.mkdir()

    def launch(child: Child) -> subprocess.Popen[bytes]:
        with open(paths.logs / f"{child.name}.log", "ab") as log:
            return subprocess.Popen([str(tmp_path / "worker.sh")], stdout=log, stderr=log, start_new_session=True)

    return Children(paths, Counters(paths.counters), launch, lambda *_, **__: None)


def pretend(tmp_path: Path, script: str) -> Child:
    """A worker that is a shell script."""
    program = tmp_path / "worker.sh"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return Child("recorder", Row.EVALUATOR, ["recorder"])


def test_a_killed_worker_is_started_again(children: Children, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    child = pretend(tmp_path, f"[ -e {mark} ] && exit 0; touch {mark}; kill -9 $$")
    children.run(child, lambda: True)
    assert (child.restarts, children.members) == (1, [])


def test_a_failing_worker_is_not_and_its_last_words_are_told(children: Children, tmp_path: Path) -> None:
    child = pretend(tmp_path, "echo first; echo no peg >&2; exit 3")
    with pytest.raises(RobolearnError, match="recorder failed: no peg"):
        children.run(child, lambda: True)
    assert child.restarts == 0


def test_a_worker_that_is_asked_to_end_early_is_no_failure(children: Children, tmp_path: Path) -> None:
    child, asked = pretend(tmp_path, "exec sleep 60"), itertools.count()
    started = time.monotonic()
    children.run(child, lambda: next(asked) < 2)
    assert time.monotonic() - started < 30
    assert child.restarts == 0


def watched(children: Children, child: Child, failed: Failed) -> None:
    """Watch one worker until it is done with."""
    children.start(child)
    while not child.finished:
        child.restart_at = 0.0
        children.watch(lambda _: False, failed)
        time.sleep(0.005)


@pytest.mark.parametrize(("code", "kind"), [(3, RobotStoppedError), (4, LeaseError)])
def test_a_worker_whose_robot_is_gone_starts_again_only_where_somebody_gives_it_another(
    children: Children, tmp_path: Path, code: int, kind: type[RobolearnError]
) -> None:
    child, told = pretend(tmp_path, f"echo the arm; exit {code}"), list[RobolearnError]()

    def failed(_: Child, error: RobolearnError) -> bool:
        told.append(error)
        return len(told) < 3

    watched(children, child, failed)
    assert [type(error) for error in told] == [kind] * 3
    assert str(told[0]) == "the arm"
    assert child.restarts == 2


def test_a_worker_that_cannot_work_as_configured_is_not_started_again(children: Children, tmp_path: Path) -> None:
    child = pretend(tmp_path, "echo say where the socket stands; exit 5")
    with pytest.raises(ConfigError, match="say where the socket stands"):
        watched(children, child, give_up)
    assert child.restarts == 0


def test_dying_now_and_then_is_forgiven_for_so_many_times_an_hour(
    children: Children, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    child = pretend(tmp_path, "exit 1")
    monkeypatch.setattr("robolearn.run.children._QUICK_S", 0.0)  # every death is a late one
    with pytest.raises(RobolearnError, match="again and again"):
        watched(children, child, give_up)
    assert child.restarts == 20
    child.deaths.clear()
    monkeypatch.setattr("robolearn.run.children._HOUR_S", 0.0)  # each of them is long ago
    child.restarts, rounds = 0, itertools.count()
    monkeypatch.setattr(children, "on_event", lambda *_, **__: next(rounds))
    while child.restarts < 30:
        child.restart_at = 0.0
        children.watch(lambda _: False)
        time.sleep(0.002)
    children.kill()


def test_deaths_right_after_the_start_are_forgiven_less_often_with_a_robot_that_exists_once(
    children: Children, tmp_path: Path
) -> None:
    child = pretend(tmp_path, "exit 1")
    child.max_quick = 2
    told = list[str]()

    def failed(_: Child, error: RobolearnError) -> bool:
        told.append(str(error))
        return False

    watched(children, child, failed)
    assert (child.restarts, len(told)) == (2, 1)
