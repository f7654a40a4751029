"""The live view: a panel in a terminal, few lines elsewhere."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from robolearn.run.live import LiveView, plain_line, render, results_table, seconds
from robolearn.run.metrics import JsonlWriter

STATUS: dict[str, Any] = {
    "state": "training", "task": "peg_insert", "tier": "hard", "algo": "rlpd", "seed": 3, "steps": 1200,
    "total_steps": 4000, "robot_s": 120.0, "updates": 9400, "utd": 7.83, "utd_target": 8.0, "episodes": 31,
    "success_recent": 0.42, "intervention_rate": 0.125, "staleness_versions": 2, "staleness_s": 0.41,
    "eval_success": 0.55, "eval_low": 0.34, "eval_high": 0.74, "eval_steps": 1000, "elapsed_s": 61.0,
    "eta_s": 140.0, "restarts": 1, "version": 900, "message": "", "learner": {"q_mean": 0.37},
}  # fmt: skip
BARE = {"state": "starting", "task": "peg_insert", "tier": "hard", "algo": "rlpd", "seed": 3}


class Terminal(io.StringIO):
    """Says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def shown(status: dict[str, Any], events: list[dict[str, Any]], width: int = 100) -> str:
    """The panel as text."""
    console = Console(file=io.StringIO(), width=width, record=True, color_system=None)
    console.print(render(status, events))
    return console.export_text()


def test_the_panel_shows_what_matters() -> None:
    text = shown(
        STATUS,
        [
            {
                "time_s": 12.0,
                "level": "error",
                "role": "supervisor",
                "event": "worker died",
                "code": -9,
                "at": [0.123456],
            }
        ],
    )
    for words in (
        "peg_insert:hard", "seed 3", "1,200/4,000 steps, 2 min 20 s left", "55 % [34, 74] at 1,000", "42 %", "12 %",
        "7.83 of 8", "2 versions, 0.41 s", "2 min 00 s", "restarts",
        "x    12.0 s  supervisor: worker died (code=-9, at=[0.123])",
    ):  # fmt: skip
        assert words in text, words


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_panel_stands_missing_numbers_and_any_width(width: int) -> None:
    lines = shown(BARE, [], width).splitlines()
    assert all(len(line) <= width for line in lines)
    assert "starting" in lines[-1]


def test_a_terminal_gets_a_panel() -> None:
    output = Terminal()
    with LiveView(output) as view:
        view.update(BARE)
        view.update(STATUS)
    assert "╭" in output.getvalue()
    assert "1,200/4,000 steps" in output.getvalue()


@pytest.mark.parametrize("output", [io.StringIO(), Terminal()])
def test_plain_lines_come_every_ten_seconds_and_at_changes(output: io.StringIO) -> None:
    now = 0.0
    with LiveView(output, plain=True, now=lambda: now) as view:
        for state, at in (("starting", 0.0), ("training", 1.0), ("training", 5.0), ("training", 11.5), ("done", 12.0)):
            now = at
            view.update({**STATUS, "state": state})
    lines = output.getvalue().splitlines()
    assert [line.split()[3] for line in lines] == ["starting", "training", "training", "done"] or len(lines) == 4
    assert "╭" not in output.getvalue()


def test_plain_lines_say_what_went_wrong(tmp_path: Path) -> None:
    output, path = io.StringIO(), tmp_path / "events.jsonl"
    with JsonlWriter(path) as events, LiveView(output, events=path) as view:
        events.write({"time_s": 1.0, "level": "info", "role": "learner", "event": "resumed"})
        events.write({"time_s": 2.0, "level": "warn", "role": "actor0", "event": "robot stopped"})
        view.update(STATUS)
    assert "! " in output.getvalue().splitlines()[0]
    assert "robot stopped" in output.getvalue()
    assert "resumed" not in output.getvalue()


def test_a_plain_line_leaves_out_what_is_not_known() -> None:
    assert plain_line({"state": "training", "steps": 0, "total_steps": 10}).split("  ")[-1] == "0/10 steps"
    assert "alone 55 % [34, 74] at 1,000" in plain_line(STATUS)


def test_the_table_of_results() -> None:
    row = {"policy": "rlpd (final)", "episodes": 100, "successes": 97, "success": 0.97, "wilson_low": 0.915}
    row |= {"wilson_high": 0.99, "median_peak_force_n": 8.42, "median_cycle_s": None}
    lines = results_table({"rows": [row]}).splitlines()
    assert lines[2].split("  ")[0] == "rlpd (final)"
    assert "97.0 %" in lines[2]
    assert "91.5 to 99.0 %" in lines[2]
    assert "8.4 N" in lines[2]
    assert lines[2].endswith("-")
    assert len(results_table({}).splitlines()) == 2


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (0.4, "0 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")]
)
def test_seconds(value: float | None, text: str) -> None:
    assert seconds(value) == text
