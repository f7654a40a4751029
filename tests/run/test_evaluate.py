"""How a run's evaluation is shared out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robolearn.core.errors import RobolearnError, RobotStoppedError
from robolearn.run import examine, rundir
from robolearn.run.checkpoint import Checkpoint, Progress, save_checkpoint
from robolearn.run.complete import complete
from robolearn.run.config import RunPaths, TrainConfig
from robolearn.run.guard import Grant


def test_all_parts_take_the_same_checkpoint_and_each_its_own_episodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rundir.create(complete(TrainConfig(tier="smoke", run_dir=str(tmp_path / "run"))), ["train"])
    paths = RunPaths(tmp_path / "run")
    asked: list[dict[str, Any]] = []

    def save(calls: int) -> None:
        weights = {"w": np.zeros(1, np.float32)}
        save_checkpoint(paths.checkpoints, Checkpoint(Progress(calls, calls, calls, 0, {}), weights, weights))

    class Part:
        """An examiner that succeeds in even episodes, while the run goes on and saves checkpoints."""

        returncode = 0

        def __init__(self, command: list[str], **_: Any) -> None:
            out, request = Path(command[-2]), json.loads(command[-1])
            asked.append(request)
            lines = [
                {"policy": "final", "index": i, "success": i % 2 == 0, "steps": 9} for i in request["todo"]["final"]
            ]
            out.write_text("".join(json.dumps({**line, "peak_force_n": 1.0}) + "\n" for line in lines))
            save(7 + len(asked))

        def poll(self) -> int:
            return 0

    save(7)
    monkeypatch.setattr("robolearn.run.examine.subprocess.Popen", Part)
    (result,) = examine.evaluate_run(paths.root, 5, seed=3, processes=3)
    assert [request["calls"] for request in asked] == [7, 7, 7]
    assert (result.successes, result.episodes, result.median_cycle_s) == (3, 5, 0.9)


def test_what_a_failed_robot_has_left_is_done_by_others_and_without_any_the_evaluation_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rundir.create(complete(TrainConfig(tier="smoke", run_dir=str(tmp_path / "run"))), ["train"])
    asked: list[tuple[str, list[int]]] = []
    broken = {"bench:a", "bench:b"}

    class Part:
        """An examiner that makes one episode and stops, or makes all of them."""

        def __init__(self, command: list[str], **_: Any) -> None:
            out, request = Path(command[-2]), json.loads(command[-1])
            robot = json.loads(request["grant"])["robot"]
            numbers = request["todo"]["blind expert"]
            asked.append((robot, numbers))
            made = numbers[:1] if robot in broken else numbers
            row = {"policy": "blind expert", "success": True, "steps": 9, "peak_force_n": 1.0}
            out.write_text("".join(json.dumps({**row, "index": i}) + "\n" for i in made))
            self.returncode = 3 if robot in broken else 0

        def poll(self) -> int:
            return self.returncode

    def grant(name: str) -> Grant:
        return Grant(name, name, 1, 2.0, shared=True)

    def failed(gone: Grant, error: RobolearnError) -> Grant | None:
        assert isinstance(error, RobotStoppedError)
        return grant("bench:b") if gone.robot == "bench:a" else None

    monkeypatch.setattr("robolearn.run.examine.subprocess.Popen", Part)
    robots = [grant("bench:a"), grant("bench:c")]
    (result,) = examine.evaluate_run(tmp_path / "run", 6, seed=3, who=("blind expert",), grants=robots, failed=failed)
    assert (result.episodes, result.successes) == (6, 6)
    assert asked == [
        ("bench:a", [0, 2, 4]),
        ("bench:c", [1, 3, 5]),
        ("bench:c", [2]),
        ("bench:b", [4]),
    ]
    with pytest.raises(RobotStoppedError, match="no robot is left"):
        examine.evaluate_run(
            tmp_path / "run", 6, seed=4, who=("blind expert",), grants=robots[:1], failed=lambda *_: None
        )
    with pytest.raises(RobotStoppedError, match="evaluation failed"):
        examine.evaluate_run(tmp_path / "run", 6, seed=5, who=("blind expert",), grants=robots[:1])
