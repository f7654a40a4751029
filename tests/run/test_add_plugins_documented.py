"""What docs/add-a-task.md, add-a-policy.md and add-a-reward.md show works: as files of another distribution, which is
found by its entry points, trained with, and kept to the contracts."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from robolearn.buffer.replay import Replay
from robolearn.buffer.store import read_schema
from robolearn.cli import record, train
from robolearn.cli.options import parse
from robolearn.core import plugins
from robolearn.rewards.parts.build import build_reward

ROOT = Path(__file__).parents[2]
GUIDES = {kind: (ROOT / "docs" / f"add-a-{kind}.md").read_text() for kind in ("task", "policy", "reward")}
OWN = {"task": "press", "policy": "linear", "reward": "gentle"}


def blocks(kind: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDES[kind], re.S)


def commands(*kinds: str) -> list[list[str]]:
    """Documented commands, as words."""
    return [shlex.split(line) for kind in kinds for block in blocks(kind, "sh") for line in block.splitlines()]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder in which a distribution with the guides' files is installed."""
    package, installed = tmp_path / "site" / "my_lab", tmp_path / "site" / "my_lab-0.1.dist-info"
    for folder in (package, installed):
        folder.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: my-lab\nVersion: 0.1\n")
    lines = []
    for kind, name in OWN.items():
        (code,), (toml,) = blocks(kind, "python"), blocks(kind, "toml")
        (package / f"{name}.py").write_text(code)
        for group, entries in tomllib.loads(toml)["project"]["entry-points"].items():
            lines += [f"[{group}]", *(f"{key} = {value}" for key, value in entries.items())]
    (installed / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return package.parent


def started(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A Python that finds the distribution, and keeps what it leases to itself."""
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "ROBOLEARN_STATE": str(site.parent / "state")}
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True, text=True, timeout=150, check=False, env=environment, cwd=ROOT,
    )  # fmt: skip


def test_own_task_policy_and_reward_make_a_run(site: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = started(
        site, "-m", "robolearn.cli.main", "train", "press", "--algo", "linear", "--reward", "gentle:30", "--demos", "6",
        "--eval-episodes", "5", "--eval-experts", "False", "--headless", "--no-video", "--run-dir", str(run),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = json.loads((run / "results.json").read_text())
    assert (results["task"], results["algo"], results["updates"]) == ("press", "linear", 20)
    assert results["rows"][0]["successes"] >= 4, "the policy has learned to press"
    replay = Replay(run / "buffer", read_schema(run / "buffer"))
    replay.refresh()
    earned = np.asarray(replay.sample(512, rng=np.random.default_rng(0)).reward)
    assert set(np.unique(earned > 0.0)) == {False, True}
    assert earned.max() < 1.0, "a success is worth the less, the harder the press"
    assert earned[earned > 0.0].min() > 0.5, "gentle:30 halves it at 30 N, and no demonstration presses like that"


def test_the_contract_tests_find_and_pass_them(site: Path) -> None:
    suites = [words[1] for words in commands(*GUIDES) if words[0] == "pytest"]
    names = [words[-1] for words in commands(*GUIDES) if words[0] == "pytest"]
    assert sorted(names) == sorted(OWN.values())
    done = started(site, "-m", "pytest", *suites, "-k", " or ".join(names), "-p", "no:cacheprovider", "-vv")
    assert done.returncode == 0, done.stdout
    for name in names:
        assert len(re.findall(rf"::test_\w+\[(?:[\w ]+-)?{name}(?:-[\w ]+)?\] PASSED", done.stdout)) >= 6, done.stdout


def test_documented_commands_can_be_read(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.chdir(tmp_path)
    for words in commands(*GUIDES):
        if words[:2] == ["robolearn", "train"]:
            config = train.read(words[2:]).config
            assert config is not None
            if config.reward:
                spec = plugins.load("task", config.task).build(config.env, obs="state").spec
                assert build_reward(config.reward, spec).reset() is None
        elif words[0] == "robolearn":
            parse(record.RecordOptions, words[2:], verb="record", what="")
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_lab"]:
        del sys.modules[name]
