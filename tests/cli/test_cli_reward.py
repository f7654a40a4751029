"""``robolearn reward`` from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import labelled_episodes as toy
import pytest

Cli = Callable[..., tuple[int, str, str]]


def test_train_report_and_apply(cli: Cli, tmp_path: Path) -> None:
    toy.write(tmp_path / "run" / "buffer", 14, 6)
    line = ("reward", "train", "run", "--out", "seen", "--keys", "slider", "--updates", "400")
    status, out, err = cli(*line)
    assert (status, err) == (0, "")
    assert out.startswith("seen: a success when p > ")
    assert "false positives per 1000" in out
    status, told, _ = cli("reward", "report", "seen")
    assert (status, told) == (0, out)
    status, text, _ = cli("reward", "report", "seen", "--json")
    report = json.loads(text)
    assert (status, report["classifier"]) == (0, "seen")
    assert report["held_out"]["episodes"] == 6

    status, text, _ = cli("reward", "apply", "run", "new", "--reward", "classifier:seen", "--json")
    done = json.loads(text)
    assert (status, done["episodes"], done["successes"]) == (0, 20, 14)
    assert done["new_successes"] == done["new_reward"]
    assert done["new_successes"] >= 12
    status, out, _ = cli("reward", "apply", "run", "second", "--reward", "0*classifier:seen+intervention")
    assert status == 0
    assert out.splitlines()[1].endswith(f"14 -> {done['new_successes']}, total reward 14 -> 0")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "which action? (have: train, report, apply)"),
        ("tarin x", "unknown action 'tarin' of reward; did you mean 'train'?"),
        ("train run", "missing: --out"),
        ("train nowhere --out x", "no buffer in nowhere"),
        ("train run --out x --keys smell", "no observation smell (have: slider, step)"),
        ("train run --out x --select success=", "filter 'success=': expected success alone"),
        ("train run --out x --held-out 2", "held_out is 2.0; it must lie between 0 and 1"),
        ("report nowhere", "no classifier in nowhere (make one: robolearn reward train"),
        ("apply run new", "missing: --reward"),
        ("apply run run --reward task", "run exists; rewards are changed in a new buffer, never in place"),
        ("apply run new --reward task+", "reward 'task+': cannot understand 'nothing'"),
    ],
)
def test_mistakes_are_one_line(cli: Cli, tmp_path: Path, line: str, message: str) -> None:
    toy.write(tmp_path / "run" / "buffer", 2, 1)
    status, out, err = cli("reward", *line.split())
    assert status in (1, 2)
    assert out == ""
    assert err.startswith("robolearn: error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "x").exists()


def test_the_overview_and_each_action_have_help(cli: Cli, capfd: Any) -> None:
    for line in (["--help"], ["train", "--help"], ["report", "--help"], ["apply", "--help"]):
        with pytest.raises(SystemExit) as exit_:
            cli("reward", *line)
        assert exit_.value.code == 0
        assert "usage: robolearn reward" in capfd.readouterr().out
