"""Whole runs of the families that need more than a robot: a base, a person, a reward of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robolearn.buffer.replay import Replay
from robolearn.buffer.store import read_schema
from robolearn.core.types import Source
from robolearn.run.base import load_base
from robolearn.run.config import RunPaths
from robolearn.run.inventory import inventory
from robolearn.run.rundir import load_config

SMALL = (
    *("--headless", "--no-video", "--eval-episodes", "2", "--eval-every", "0", "--eval-experts", "False"),
    *("--demos", "2"),
)
RL = ("--policy.utd", "2", "--policy.batch", "32", "--policy.pretrain", "5", "--steps", "120")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBOLEARN_STATE", str(tmp_path / "state"))


def train(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "robolearn.cli.main", "train", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)


def results(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "results.json").read_text())
    return found


def test_residual_goes_on_from_its_base_and_every_row_knows_what_that_would_do(tmp_path: Path) -> None:
    run, base = tmp_path / "run", tmp_path / "run-base"
    task = "peg_insert:smoke"
    made = train(task, "--algo", "bc", "--policy.updates", "200", *SMALL, "--run-dir", str(base))
    assert made.returncode == 0, made.stderr
    ours = (task, "--algo", "residual", *SMALL, *RL, "--run-dir", str(run))
    refused = train(*ours, "--base-algo", "bc")
    assert refused.returncode != 0
    assert "not the one this run would make: policy.updates: 200 -> 20000" in refused.stderr
    assert not run.exists()
    done = train(*ours, "--base", str(base), "--demos-from", str(base))
    assert done.returncode == 0, done.stderr
    assert results(run)["steps"] == 120
    config = load_config(RunPaths(run))
    frozen = load_base(config)
    assert frozen is not None
    assert frozen.algo == "bc"
    schema = read_schema(run / "buffer")
    assert "base_action" in schema.observation
    replay = Replay(run / "buffer", schema)
    replay.refresh()
    assert (replay.demo_transitions > 0, replay.online_transitions) == (True, 120)
    batch = replay.sample(64, rng=np.random.default_rng(0))
    assert np.abs(batch.observation["base_action"]).max() > 0
    # the same demonstrations as the base learned from
    mine, theirs = (inventory(RunPaths(r).buffer)["demo_steps"] for r in (run, base))
    assert mine == theirs


def test_corrections_are_stored_as_such_and_a_reward_looks_one_step_ahead(tmp_path: Path) -> None:
    run = tmp_path / "run"
    script = ("--script.late", "0.3", "--script.delay", "1")
    done = train("peg_insert:smoke", "--algo", "rlif", *SMALL, *RL, *script, "--run-dir", str(run))
    assert done.returncode == 0, done.stderr
    replay = Replay(run / "buffer", read_schema(run / "buffer"))
    replay.refresh()
    assert replay.composition()[Source.HUMAN] > 0
    episodes = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    episodes = [line for line in episodes if line["kind"] == "episode"]
    takeovers = 0
    for line in episodes:
        rows = replay.episode(line["episode"])
        human = np.asarray(rows.source) == Source.HUMAN
        before = ~human[1:-1] & human[2:]
        takeovers += int(before.sum())
        np.testing.assert_array_equal(np.asarray(rows.reward)[1:-1], np.where(before, -1.0, 0.0))
    assert takeovers > 0


def test_what_cannot_work_is_refused_in_one_line_and_nothing_is_made(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for arguments, words in (
        (("--algo", "rlpd", "--base", str(tmp_path / "none")), "starts from nothing"),
        (("--algo", "residual", "--base", str(tmp_path / "none")), "no run directory"),
        (("--algo", "rlpd", "--reward", "tusk"), "tusk"),
        (("--algo", "residual", "--base-algo", "rlpd"), "a family that imitates: bc, diffusion, flow"),
    ):
        done = train("peg_insert:smoke", *arguments, *SMALL, "--run-dir", str(run))
        assert done.returncode != 0
        assert words in done.stderr
        assert "Traceback" not in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert not run.exists()
