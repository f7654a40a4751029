import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from robolearn.core.errors import CorruptDataError, ResumeError
from robolearn.run.checkpoint import (
    Checkpoint,
    Progress,
    list_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    require_checkpoint,
    save_checkpoint,
)

WRITER = """
import sys
from pathlib import Path
import numpy as np
from robolearn.run.checkpoint import Checkpoint, Progress, save_checkpoint
calls = 0
while True:
    calls += 1
    weights = {"w": np.full(200_000, calls, dtype=np.float32)}
    save_checkpoint(Path(sys.argv[1]), Checkpoint(Progress(calls, calls, calls, calls, {}), weights, weights))
    print(calls, flush=True)
"""


def checkpoint(calls: int) -> Checkpoint:
    rng = np.random.default_rng(calls)
    progress = Progress(calls, 8 * calls, 5 * calls, calls // 10, dict(rng.bit_generator.state))
    return Checkpoint(progress, {"adam": rng.standard_normal(4)}, {"actor": rng.standard_normal((2, 2))})


def test_round_trip_with_the_random_state(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, checkpoint(3))
    loaded = load_checkpoint(path)
    assert loaded.progress == checkpoint(3).progress
    np.testing.assert_array_equal(loaded.learner["adam"], checkpoint(3).learner["adam"])
    rng = np.random.default_rng()
    rng.bit_generator.state = loaded.progress.rng
    expected = np.random.default_rng()
    expected.bit_generator.state = checkpoint(3).progress.rng
    assert rng.random() == expected.random()


def test_only_the_newest_are_kept_and_the_newest_wins(tmp_path: Path) -> None:
    for calls in (1, 20, 300):
        save_checkpoint(tmp_path, checkpoint(calls), keep=2)
    assert [int(path.name) for path in list_checkpoints(tmp_path)] == [20, 300]
    assert require_checkpoint(tmp_path).progress.calls == 300


@pytest.mark.parametrize("victim", ["learner.safetensors", "policy.safetensors", "meta.json"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_is_taken(tmp_path: Path, victim: str, damage: str) -> None:
    save_checkpoint(tmp_path, checkpoint(1))
    bad = save_checkpoint(tmp_path, checkpoint(2)) / victim
    data = bytearray(bad.read_bytes())
    if damage == "remove":
        bad.unlink()
    else:
        data[len(data) // 2] ^= 0xFF
        bad.write_bytes(data if damage == "flip" else data[: len(data) // 2])
    with pytest.raises(CorruptDataError):
        load_checkpoint(bad.parent)
    newest, problems = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.progress.calls == 1
    assert len(problems) == 1


def test_unsound_newer_checkpoints_do_not_push_out_the_one_just_written(tmp_path: Path) -> None:
    for calls in (5, 20, 300):
        path = save_checkpoint(tmp_path, checkpoint(calls), keep=3)
        if calls > 5:
            (path / "meta.json").unlink()
    save_checkpoint(tmp_path, checkpoint(7), keep=2)
    assert require_checkpoint(tmp_path).progress.calls == 7
    assert [int(path.name) for path in list_checkpoints(tmp_path)] == [5, 7, 20, 300]


def test_what_a_killed_writer_left_half_written_is_cleared_away(tmp_path: Path) -> None:
    left = tmp_path / ".000000001.4242.tmp"
    left.mkdir()
    (left / "learner.safetensors").write_bytes(b"half")
    save_checkpoint(tmp_path, checkpoint(2))
    assert [path.name for path in tmp_path.iterdir()] == ["000000002"]


def test_without_a_checkpoint_the_error_says_so(tmp_path: Path) -> None:
    with pytest.raises(ResumeError, match="no sound checkpoint"):
        require_checkpoint(tmp_path / "none")


def test_a_writer_killed_at_any_moment_leaves_a_sound_newest_checkpoint(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for trial in range(5):
        root = tmp_path / str(trial)
        with subprocess.Popen([sys.executable, "-c", WRITER, str(root)], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert child.stdout.readline()
            time.sleep(rng.uniform(0, 0.08))
            os.kill(child.pid, signal.SIGKILL)
            acknowledged = [int(line) for line in child.stdout.read().split() if line.isdigit()]
        newest = require_checkpoint(root)
        assert newest.progress.calls >= max(acknowledged, default=1)
        assert (newest.learner["w"] == newest.progress.calls).all()
