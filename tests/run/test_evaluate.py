"""How a run's evaluation is shared out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robolearn.run import evaluate, rundir
from robolearn.run.checkpoint import Checkpoint, Progress, save_checkpoint
from robolearn.run.config import RunPaths, TrainConfig
from robolearn.run.supervise import complete


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

        returncode, stderr = 0, None

        def __init__(self, command: list[str], **_: Any) -> None:
            out, request = Path(command[-2]), json.loads(command[-1])
            asked.append(request)
            numbers = range(request["part"], request["episodes"], request["parts"])
            lines = [{"policy": "final", "index": i, "success": i % 2 == 0, "steps": 9} for i in numbers]
            out.write_text("".join(json.dumps({**line, "peak_force_n": 1.0}) + "\n" for line in lines))
            save(7 + len(asked))

        def communicate(self) -> tuple[None, None]:
            return None, None

        def poll(self) -> int:
            return 0

    save(7)
    monkeypatch.setattr("robolearn.run.evaluate.subprocess.Popen", Part)
    (result,) = evaluate.evaluate_run(paths.root, 5, seed=3, processes=3)
    assert [request["calls"] for request in asked] == [7, 7, 7]
    assert (result.successes, result.episodes, result.median_cycle_s) == (3, 5, 0.9)
