"""The view of a run while it goes on: a panel in a terminal, plain lines elsewhere; and its table of results."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from robolearn.run.metrics import JsonlTail

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

_PLAIN_EVERY_S = 10.0
_EVENTS = 4
_HIDDEN = {"time_s", "level", "role", "event"}
_MARKS = {"info": " ", "warn": "!", "error": "x"}


class LiveView:
    """Shows status after status.

    Args:
        output: where to; a terminal gets a panel that is redrawn, anything else plain lines.
        plain: plain lines even in a terminal.
        events: the run's ``events.jsonl``, of which the last few are shown.
        now: monotonic seconds.
    """

    def __init__(
        self,
        output: TextIO,
        *,
        plain: bool = False,
        events: Path | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._output, self._now = output, now
        self._tail = JsonlTail(events) if events is not None else None
        self._events: deque[dict[str, Any]] = deque(maxlen=_EVENTS)
        self._plain = plain or not output.isatty()
        self._live: Live | None = None
        self._shown_at = -float("inf")
        self._shown_state: tuple[Any, Any] | None = None

    def __enter__(self) -> LiveView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def update(self, status: Mapping[str, Any]) -> None:
        """Show a new status."""
        fresh = self._tail.read() if self._tail is not None else []
        self._events.extend(fresh)
        if self._plain:
            self._print(status, fresh)
        else:
            self._draw(status)

    def _print(self, status: Mapping[str, Any], fresh: list[dict[str, Any]]) -> None:
        for event in fresh:
            if event.get("level") in ("warn", "error"):
                print(event_line(event), file=self._output)
        state, now = (status.get("state"), status.get("message")), self._now()
        if state != self._shown_state or now - self._shown_at >= _PLAIN_EVERY_S:
            self._shown_state, self._shown_at = state, now
            print(plain_line(status), file=self._output)
        self._output.flush()

    def _draw(self, status: Mapping[str, Any]) -> None:
        from rich.console import Console
        from rich.live import Live

        panel = render(status, list(self._events))
        if self._live is None:
            self._live = Live(panel, console=Console(file=self._output), auto_refresh=False)
            self._live.start()
        self._live.update(panel, refresh=True)


def render(status: Mapping[str, Any], events: list[dict[str, Any]]) -> RenderableType:
    """The panel: progress, success, rates, staleness, last events."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    total = max(int(status.get("total_steps") or 0), 1)
    steps = min(int(status.get("steps") or 0), total)
    progress = Table.grid(padding=(0, 2), expand=True)
    progress.add_column(ratio=1)
    progress.add_column(justify="right", no_wrap=True)
    progress.add_row(ProgressBar(total=total, completed=steps), Text(progress_text(status)))
    numbers = Table.grid(padding=(0, 3))
    for _ in range(2):
        numbers.add_column(style="dim", no_wrap=True)
        numbers.add_column(no_wrap=True)
    cells = status_cells(status)
    for left, right in zip(cells[::2], [*cells[1::2], ("", "")], strict=False):
        numbers.add_row(left[0], Text(left[1]), right[0], Text(right[1]))
    parts: list[RenderableType] = [progress, Text(), numbers]
    if status.get("message"):
        parts += [Text(), Text(str(status["message"]), style="italic")]
    if events:
        parts.append(Text())
        styles = {"warn": "yellow", "error": "bold red"}
        parts += [
            Text(event_line(e), style=styles.get(str(e.get("level")), "dim"), overflow="ellipsis", no_wrap=True)
            for e in events
        ]
    title = f"[b]{status.get('task')}[/b]:{status.get('tier')}  {status.get('algo')}  seed {status.get('seed')}"
    return Panel(Group(*parts), title=title, subtitle=str(status.get("state")), title_align="left", padding=(1, 2))


def status_cells(status: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Label and value of everything the panel shows in numbers."""
    learner = status.get("learner") or {}
    return [
        ("success, policy alone", eval_text(status)),
        ("robot time", seconds(status.get("robot_s"))),
        ("success, last episodes", percentage(status.get("success_recent"))),
        ("episodes", count(status.get("episodes"))),
        ("intervention rate", percentage(status.get("intervention_rate"))),
        ("updates", count(status.get("updates"))),
        ("updates per step", f"{number(status.get('utd'))} of {number(status.get('utd_target'))}"),
        ("staleness", staleness_text(status)),
        ("mean Q", number(learner.get("q_mean"))),
        ("restarts", count(status.get("restarts"))),
    ]


def plain_line(status: Mapping[str, Any]) -> str:
    """One line for logs."""
    parts = [f"[{seconds(status.get('elapsed_s')):>8}]", f"{status.get('state'):<10}"]
    if status.get("state") in ("training", "evaluating", "stopped", "done"):
        parts.append(progress_text(status))
        for key, text in (
            ("success_recent", f"success {percentage(status.get('success_recent'))}"),
            ("eval_success", f"alone {eval_text(status)}"),
            ("intervention_rate", f"interventions {percentage(status.get('intervention_rate'))}"),
            ("utd", f"utd {number(status.get('utd'))}/{number(status.get('utd_target'))}"),
            ("staleness_versions", f"stale {staleness_text(status)}"),
        ):
            if status.get(key) is not None:
                parts.append(text)
        if status.get("restarts"):
            parts.append(f"restarts {status['restarts']}")
    if status.get("message"):
        parts.append(str(status["message"]))
    return "  ".join(parts)


def progress_text(status: Mapping[str, Any]) -> str:
    """``1,200/4,000 steps, 1 min 20 s left``."""
    text = f"{count(status.get('steps'))}/{count(status.get('total_steps'))} steps"
    if status.get("eta_s") is not None and status.get("state") == "training":
        text += f", {seconds(status['eta_s'])} left"
    return text


def eval_text(status: Mapping[str, Any]) -> str:
    """Last policy-only evaluation with its interval and where it was made."""
    if status.get("eval_success") is None:
        return "-"
    low, high = status.get("eval_low"), status.get("eval_high")
    interval = f" [{100 * low:.0f}, {100 * high:.0f}]" if low is not None and high is not None else ""
    return f"{percentage(status['eval_success'])}{interval} at {count(status.get('eval_steps'))}"


def staleness_text(status: Mapping[str, Any]) -> str:
    """How old the acting weights are, in versions and seconds."""
    if status.get("staleness_versions") is None:
        return "-"
    return f"{count(status['staleness_versions'])} versions, {number(status.get('staleness_s'))} s"


def event_line(event: Mapping[str, Any]) -> str:
    """``! 12.3 s  actor0: robot stopped (reason=...)``."""
    details = ", ".join(f"{key}={_brief(value)}" for key, value in event.items() if key not in _HIDDEN)
    mark = _MARKS.get(str(event.get("level")), " ")
    line = f"{mark} {event.get('time_s', 0.0):7.1f} s  {event.get('role', '')}: {event.get('event', '')}"
    return f"{line} ({details})" if details else line


def _brief(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list):
        return f"[{', '.join(map(_brief, value))}]"
    return str(value)


def results_table(results: Mapping[str, Any]) -> str:
    """The rows of ``results.json`` as a text table."""
    rows = results.get("rows", [])
    graded = earns_more_than_success(rows)
    head = ("policy", "success", "95 % interval", "episodes", "peak force, median", "cycle time, median")
    lines: list[tuple[str, ...]] = [(*head, "return, mean") if graded else head]
    for row in rows:
        low, high = row.get("wilson_low"), row.get("wilson_high")
        lines.append(
            (
                str(row.get("policy", "")),
                f"{100 * row['success']:.1f} %",
                "-" if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f} %",
                f"{row.get('successes', '-')} of {row.get('episodes', '-')}",
                _unit(row.get("median_peak_force_n"), "N"),
                _unit(row.get("median_cycle_s"), "s"),
                *([number(row.get("mean_return"))] if graded else []),
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rule = tuple("─" * width for width in widths)
    aligned = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in (lines[0], rule, *lines[1:])
    ]
    return "\n".join(line.rstrip() for line in aligned)


def earns_more_than_success(rows: Sequence[Mapping[str, Any]]) -> bool:
    """True when rewards say more than success does, so that returns are worth a column."""
    return any(abs(row.get("mean_return", row["success"]) - row["success"]) > 1e-3 for row in rows)


def _unit(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.1f} {unit}"


def percentage(value: float | None) -> str:
    """``93 %``, or a dash."""
    return "-" if value is None else f"{100 * value:.0f} %"


def number(value: float | None) -> str:
    """Three digits, or a dash."""
    return "-" if value is None else f"{value:.3g}"


def count(value: float | None) -> str:
    """Thousands separated, or a dash."""
    return "-" if value is None else f"{int(value):,}"


def seconds(value: float | None) -> str:
    """``45 s``, ``3 min 20 s``, ``2 h 05 min``, or a dash."""
    if value is None:
        return "-"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
