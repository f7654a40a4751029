"""``report.html``: how a run went, in one file that opens from disk, whether the run is finished or not."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from robolearn import __version__
from robolearn.core import config as typed
from robolearn.core.files import write_atomic
from robolearn.run import report_html as html
from robolearn.run import report_plots as plots
from robolearn.run.live import count, earns_more_than_success, event_line, number, percentage, seconds
from robolearn.run.report_data import RunData, read_run
from robolearn.run.stats import percentiles

_EMBED_BYTES = 12 * 2**20
_EVENTS = 60
_DASH = "-"


def write_report(run_dir: Path) -> Path:
    """Write ``report.html`` and ``plots/*.png`` of a run; return the report's path.

    Raises:
        ResumeError: the directory is no run.
    """
    run = read_run(Path(run_dir))
    run.paths.plots.mkdir(exist_ok=True)
    pictures = {}
    for name, draw in (("learning_curve", plots.learning_curve), ("system", plots.system)):
        pictures[name] = html.Picture(
            **{
                f"{theme_name}{'_narrow' * narrow}": plots.png(draw, run, plots.Style(theme, narrow))
                for theme_name, theme in (("light", plots.LIGHT), ("dark", plots.DARK))
                for narrow in (False, True)
            }
        )
        write_atomic(run.paths.plots / f"{name}.png", pictures[name].light, durable=False)
    parts = [
        _header(run),
        _learning(run, pictures["learning_curve"]),
        _results(run),
        _videos(run),
        _system(run, pictures["system"]),
        _buffer(run),
        _events(run),
        _configuration(run),
    ]
    document = html.page(run.title, parts, f"robolearn {__version__}")
    write_atomic(run.paths.report, document.encode(), durable=False)
    return run.paths.report


def final_row(run: RunData) -> dict[str, Any]:
    """The evaluation that counts: the last final one, else the newest point of the curve, else nothing."""
    return next(iter([*run.final[-1:], *run.curve[-1:]]), {})


def _header(run: RunData) -> str:
    state, message = _state(run)
    style = state if state in ("done", "failed") else "other"
    facts = [f"seed {run.config.get('seed')}", f"{run.config.get('obs')} observations"]
    if run.config.get("demos"):
        facts.append(f"{run.config['demos']} demonstrations")
    facts.append(f"{run.config.get('robots') or 1} x {run.config.get('robot') or run.config.get('robot_labels')}")
    return (
        f"<header><h1>{escape(run.title)}</h1>"
        f'<p class="faint"><span class="state {style}">{escape(state)}</span> · {escape(" · ".join(facts))}</p>'
        + (html.paragraph(message) if message else "")
        + html.numbers(_numbers(run))
        + "</header>"
    )


def _state(run: RunData) -> tuple[str, str]:
    """State and message; the supervisor writes the report as its last act, just before it says ``done``."""
    state, message = str(run.status.get("state", "unknown")), str(run.status.get("message", ""))
    if state in ("evaluating", "unknown") and run.results.get("steps") == run.status.get(
        "steps", run.results.get("steps")
    ):
        return ("done", "") if run.results else (state, message)
    return state, message


def _numbers(run: RunData) -> list[tuple[str, str, str]]:
    """The large numbers on top."""
    row, status, results = final_row(run), run.status, run.results
    cells = []
    if row:
        when = "unseen episodes" if row.get("final") else f"episodes, at {count(row['steps'])} steps"
        interval = f"95 %: {100 * row['wilson_low']:.0f} to {100 * row['wilson_high']:.0f} % · {row['episodes']} {when}"
        cells.append(("success, policy alone", f"{100 * row['success']:.0f} %", interval))
    steps, total = results.get("steps", status.get("steps")), status.get("total_steps") or run.config.get("steps")
    if steps is not None:
        cells.append(("robot steps", count(steps), f"of {count(total)}" if total else ""))
    robot_s = results.get("robot_s", status.get("robot_s"))
    if robot_s is not None:
        cells.append(("robot time", seconds(robot_s), ""))
    wall = results.get("wall_s", status.get("elapsed_s"))
    if wall is not None:
        cpu = results.get("cpu_s")
        cells.append(("wall clock", seconds(wall), f"{seconds(cpu)} of CPU" if cpu else ""))
    utd = results.get("utd", status.get("utd"))
    if utd is not None:
        cells.append(("updates per step", number(utd), f"target {number(run.utd_target)}"))
    if row.get("median_peak_force_n") is not None:
        cells.append(("peak force", f"{row['median_peak_force_n']:.1f} N", "median of the evaluation"))
    return cells


def _learning(run: RunData, picture: html.Picture) -> str:
    if run.curve:
        first, last = run.curve[0], run.curve[-1]
        alt = (
            f"Success of the policy alone: {percentage(first['success'])} at {count(first['steps'])} robot steps, "
            f"{percentage(last['success'])} at {count(last['steps'])}."
        )
    else:
        alt = "No evaluation has been made yet."
    caption = (
        "Policy alone: greedy, nobody intervening, on episodes it never trained on; the band is the 95 % Wilson "
        "interval. While exploring: training episodes; one in which somebody helped is no success."
    )
    rows = [
        (
            count(line["steps"]),
            seconds(line.get("robot_s")),
            percentage(line["success"]),
            f"{100 * line['wilson_low']:.0f} to {100 * line['wilson_high']:.0f} %",
            f"{line.get('successes')} of {line.get('episodes')}",
            _with_unit(line.get("median_peak_force_n"), "N"),
            _with_unit(line.get("median_cycle_s"), "s"),
        )
        for line in (*run.curve, *run.final)
    ]
    head = ("robot steps", "robot time", "success", "95 % interval", "episodes", "peak force", "cycle time")
    return html.section(
        "Learning",
        html.figure(picture, alt=alt, caption=caption),
        html.details("The curve in numbers", html.table(head, rows, numeric=range(len(head)))),
    )


def _results(run: RunData) -> str:
    rows, found = [], run.results.get("rows", [])
    graded = earns_more_than_success(found)
    for row in found:
        rows.append(
            (
                row.get("policy"),
                f"{100 * row['success']:.1f} %",
                f"{100 * row['wilson_low']:.1f} to {100 * row['wilson_high']:.1f} %",
                f"{row['successes']} of {row['episodes']}",
                _with_unit(row.get("median_peak_force_n"), "N"),
                _with_unit(row.get("median_cycle_s"), "s"),
                *([number(row.get("mean_return"))] if graded else []),
            )
        )
    plain = ("policy", "success", "95 % interval", "episodes", "peak force, median", "cycle time of successes, median")
    head = (*plain, "return, mean") if graded else plain
    own = next((i for i, row in enumerate(rows) if "final" in str(row[0])), None)
    return html.section("Results", html.table(head, rows, numeric=range(1, len(head)), own=own))


def _videos(run: RunData) -> str:
    parts = []
    for path in run.videos:
        if path.stat().st_size <= _EMBED_BYTES:
            label = f"Video of the robot: {path.stem}"
            parts.append(html.video(path.read_bytes(), label=label, caption=f"videos/{path.name}"))
        else:
            size = path.stat().st_size / 2**20
            parts.append(html.link(f"videos/{path.name}", f"videos/{path.name} ({size:.0f} MiB, beside this file)"))
    return html.section("Video", *parts)


def _system(run: RunData, picture: html.Picture) -> str:
    alt = (
        f"Four panels against robot steps: updates per step (target {number(run.utd_target)}), age of the acting "
        "weights, the critic's mean Q beside the return, peak contact force per episode."
    )
    rows = []
    for label, key, unit in (
        ("control rate, median", "rate_p50_hz", "Hz"),
        ("longest 1 % of control periods", "rate_p99_ms", "ms"),
        ("age of the acting weights", "staleness_s", "s"),
        ("versions behind", "staleness_versions", ""),
        ("peak force", "peak_force_n", "N"),
        ("policy, median of an episode", "policy_p50_ms", "ms"),
        ("policy, longest 1 %", "policy_p99_ms", "ms"),
        *_driver_timing(run),
    ):
        found = percentiles([line[key] for line in run.episodes if line.get(key) is not None])
        if found:
            rows.append((label, *(f"{value:.3g} {unit}".strip() for value in found.values())))
    overruns = sum(line.get("overruns") or 0 for line in run.episodes)
    safety = sum(line.get("safety_events") or 0 for line in run.episodes)
    restarts = run.results.get("restarts", run.status.get("restarts"))
    corrected = np.mean([line.get("interventions", 0.0) for line in run.episodes]) if run.episodes else None
    sums = [
        ("intervention rate, share of steps", percentage(None if corrected is None else float(corrected))),
        ("actions the safety layer altered", count(safety)),
        ("control periods that took too long (real time only)", count(overruns)),
        ("restarts of processes", count(restarts)),
        *_lost(run),
    ]
    return html.section(
        "Robot and machinery",
        html.figure(picture, alt=alt, caption="All against robot steps."),
        html.table(("over training episodes", "50 %", "90 %", "99 %"), rows, numeric=(1, 2, 3)),
        html.table(("in total", ""), sums, numeric=(1,)),
        _placement(run),
    )


def _driver_timing(run: RunData) -> list[tuple[str, str, str]]:
    """What drivers measure of themselves: (label, key, unit) of each ``timing_...`` in the metrics."""
    keys = dict.fromkeys(key for line in run.episodes for key in line if key.startswith("timing_"))
    found = []
    for key in keys:
        name, _, unit = key.removeprefix("timing_").rpartition("_")
        known = unit in ("ms", "us", "s", "hz")
        label = (name if known else key.removeprefix("timing_")).replace("_", " ")
        found.append((f"robot: {label}", key, unit.replace("hz", "Hz") if known else ""))
    return found


def _lost(run: RunData) -> list[tuple[str, str]]:
    gone = run.results.get("robots_lost", run.status.get("robots_lost")) or []
    return [("robots given up", ", ".join(gone))] if gone else []


def _placement(run: RunData) -> str:
    """Where the roles ran, at the end."""
    rows = run.results.get("placement", run.status.get("placement")) or []
    head = ("role", "resource", "where", "share")
    table = html.table(head, [tuple(row.get(key, _DASH) for key in head) for row in rows])
    return html.details("What ran where", table) if rows else ""


def _buffer(run: RunData) -> str:
    buffer = run.buffer
    if not buffer:
        return ""
    if "problem" in buffer:
        return html.section("Replay buffer", html.paragraph(buffer["problem"]))
    demo, total = buffer["demo_steps"], buffer["steps"]
    text = (
        f"{count(total)} steps in {count(buffer['episodes'])} episodes ({count(buffer['successes'])} successful), "
        f"{buffer['bytes'] / 2**20:.1f} MiB; {count(demo)} steps of demonstrations."
    )
    return html.section(
        "Replay buffer", html.paragraph(text), html.bars(list(buffer["steps_by_source"].items()), "steps by who acted")
    )


def _events(run: RunData) -> str:
    shown = run.events[-_EVENTS:]
    notable = [event for event in run.events if event.get("level") in ("warn", "error")]
    text = f"{count(len(run.events))} events, {count(len(notable))} of them warnings or errors."
    if not run.events:
        return ""
    title = f"The last {len(shown)}" if len(shown) < len(run.events) else "All"
    return html.section(
        "Events",
        html.paragraph(text),
        html.code("\n".join(event_line(event) for event in notable[-15:])),
        html.details(title, html.code("\n".join(event_line(event) for event in shown))),
    )


def _configuration(run: RunData) -> str:
    rows = [(key, value if value not in ("", None) else _DASH) for key, value in typed.flatten(run.config).items()]
    machine = typed.flatten(run.environment)
    return html.section(
        "How it was made",
        html.code(run.command),
        html.details("Configuration", html.table(("key", "value"), rows, code=True)),
        html.details("Machine and versions", html.table(("what", "value"), list(machine.items()), code=True)),
    )


def _with_unit(value: float | None, unit: str) -> str:
    return _DASH if value is None else f"{value:.1f} {unit}"
