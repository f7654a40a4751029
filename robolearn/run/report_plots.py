"""Pictures of a run. Figures are built without pyplot: no global state, no window, any thread."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from robolearn.run.report_data import Line, RunData
from robolearn.run.stats import moving_average

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WINDOW = 30
"""Training episodes in a moving average."""


@dataclass(frozen=True)
class Theme:
    """Colours of a picture: four series that differ in lightness too, so that they survive a grey print."""

    paper: str
    ink: str
    faint: str
    grid: str
    main: str
    second: str
    third: str
    fourth: str


LIGHT = Theme("#ffffff", "#1b1f24", "#5b6570", "#e4e7eb", "#0b5fa5", "#c2570c", "#3d7d3d", "#7b3f98")
DARK = Theme("#161a1f", "#e6e9ec", "#9aa5b1", "#2c333b", "#6db5f2", "#f2a65e", "#8fce8f", "#cfa3e8")


@dataclass(frozen=True)
class Style:
    """How a picture is drawn: colours, and whether it is for a narrow screen."""

    theme: Theme
    narrow: bool = False

    @property
    def dpi(self) -> int:
        """Pixels per inch; a narrow picture is shown smaller on a denser screen."""
        return 200 if self.narrow else 144


Draw = Callable[[RunData, Style], "Figure"]


def png(draw: Draw, run: RunData, style: Style) -> bytes:
    """The picture as PNG of few colours (a third of the size, no visible difference)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure, small = draw(run, style), io.BytesIO()
    figure.set_dpi(style.dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    image = Image.fromarray(pixels).convert("RGB")
    image.quantize(128, dither=Image.Dither.NONE).save(small, format="png")
    return small.getvalue()


def learning_curve(run: RunData, style: Style) -> Figure:
    """Success against robot steps and robot minutes: policy alone with its interval, while training, interventions."""
    theme = style.theme
    figure = _figure(theme, *((4.4, 4.6) if style.narrow else (9.0, 4.8)))
    axes = figure.subplots()
    _style(axes, theme)
    axes.set(ylim=(-3, 103), xlabel="robot steps", ylabel="%")
    if run.curve:
        steps = _column(run.curve, "steps")
        low, high = 100 * _column(run.curve, "wilson_low"), 100 * _column(run.curve, "wilson_high")
        axes.fill_between(steps, low, high, color=theme.main, alpha=0.18, lw=0)
        success = 100 * _column(run.curve, "success")
        axes.plot(steps, success, color=theme.main, lw=2, marker="o", ms=4, label="success, policy alone, 95 % band")
    if run.episodes:
        steps, interventions = _column(run.episodes, "steps"), _column(run.episodes, "interventions")
        unaided = _column(run.episodes, "success") * (interventions == 0)
        label = f"success while exploring, unaided (last {WINDOW})"
        axes.plot(steps, 100 * moving_average(unaided, WINDOW), color=theme.second, lw=1.4, ls="--", label=label)
        if interventions.any():
            rate = 100 * moving_average(interventions, WINDOW)
            axes.plot(steps, rate, color=theme.fourth, lw=1.4, ls=":", label="interventions, share of steps")
    for line in run.final[-1:]:
        low, high = 100 * line["wilson_low"], 100 * line["wilson_high"]
        value = 100 * line["success"]
        label = f"final: {value:.0f} % of {line['episodes']} unseen episodes"
        error = [[max(value - low, 0.0)], [max(high - value, 0.0)]]
        axes.errorbar(
            [line["steps"]],
            [value],
            yerr=error,
            color=theme.ink,
            marker="*",
            ms=11,
            capsize=4,
            lw=0,
            elinewidth=1.4,
            label=label,
        )
    for row in run.results.get("rows", []):
        if "blind" in str(row.get("policy")):
            axes.axhline(100 * row["success"], color=theme.faint, lw=1, ls=(0, (1, 2)))
            text = f"{row['policy']} {100 * row['success']:.0f} %"
            axes.annotate(
                text,
                (0.99, 100 * row["success"]),
                xycoords=("axes fraction", "data"),
                xytext=(0, 3),
                ha="right",
                textcoords="offset points",
                color=theme.faint,
                fontsize=8.5,
            )
    _finish(axes, run, theme, top=True, legend_below=style.narrow)
    return figure


def system(run: RunData, style: Style) -> Figure:
    """Whether the machinery kept up: updates per step, staleness, value against return, contact force."""
    theme = style.theme
    rows, columns = (4, 1) if style.narrow else (2, 2)
    figure = _figure(theme, *((4.4, 11.0) if style.narrow else (9.0, 6.6)))
    grid = figure.subplots(rows, columns)
    draw = (_updates, _staleness, _value, _force)
    for index, (axes, panel) in enumerate(zip(grid.flat, draw, strict=True)):
        _style(axes, theme)
        panel(axes, run, theme)
        if index >= 4 - columns:
            axes.set_xlabel("robot steps")
        _finish(axes, run, theme, top=False)
    return figure


def _updates(axes: Axes, run: RunData, theme: Theme) -> None:
    axes.set_title("updates per robot step")
    _line(axes, run.learner, "utd", color=theme.main, label="achieved")
    if run.utd_target is not None:
        axes.axhline(run.utd_target, color=theme.faint, ls="--", lw=1.2, label="target")
    axes.set_ylim(bottom=0)


def _staleness(axes: Axes, run: RunData, theme: Theme) -> None:
    axes.set_title(f"age of the acting weights (mean of {WINDOW} episodes)")
    for key, label, style, color in (
        ("staleness_versions", "versions behind", "-", theme.main),
        ("staleness_s", "seconds since they were taken", "--", theme.second),
    ):
        lines = [line for line in run.episodes if line.get(key) is not None]
        if lines:
            means = moving_average(_column(lines, key), WINDOW)
            axes.plot(_column(lines, "steps"), means, color=color, ls=style, lw=1.4, label=label)
    axes.set_ylim(bottom=0)


def _value(axes: Axes, run: RunData, theme: Theme) -> None:
    axes.set_title("what the critic expects, what came")
    _line(axes, run.learner, "q_mean", color=theme.main, label="mean Q")
    _line(axes, run.learner, "q_max", color=theme.third, ls=":", label="largest Q")
    if run.episodes:
        returns = moving_average(_column(run.episodes, "return"), WINDOW)
        label = f"return (last {WINDOW})"
        axes.plot(_column(run.episodes, "steps"), returns, color=theme.second, ls="--", lw=1.4, label=label)


def _force(axes: Axes, run: RunData, theme: Theme) -> None:
    axes.set_title("peak contact force of an episode [N]")
    lines = [line for line in run.episodes if line.get("peak_force_n") is not None]
    if lines:
        steps, force = _column(lines, "steps"), _column(lines, "peak_force_n")
        axes.scatter(steps, force, s=5, color=theme.faint, alpha=0.5, lw=0, label="episode")
        median = [float(np.median(force[max(0, i - WINDOW + 1) : i + 1])) for i in range(len(force))]
        axes.plot(steps, median, color=theme.main, lw=1.8, label=f"median (last {WINDOW})")
        axes.set_ylim(0, max(1.0, 1.15 * float(np.percentile(force, 98))))
    altered = [line for line in run.episodes if line.get("safety_events")]
    if altered:
        axes.plot(
            _column(altered, "steps"),
            [0.0] * len(altered),
            color=theme.second,
            marker="|",
            ls="",
            label="safety layer acted",
        )


def _line(axes: Axes, lines: Sequence[Line], key: str, **style: Any) -> None:
    found = [line for line in lines if line.get(key) is not None]
    if found:
        axes.plot(_column(found, "steps"), _column(found, key), lw=1.4, **style)


def _column(lines: Sequence[Line], key: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(N,) values of a key, NaN where there is none."""
    return np.array([np.nan if line.get(key) is None else float(line[key]) for line in lines], dtype=np.float64)


def _figure(theme: Theme, width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor=theme.paper)
    figure.get_layout_engine().set(h_pad=0.08, hspace=0.04)  # type: ignore[union-attr,call-arg]
    return figure


def _style(axes: Axes, theme: Theme) -> None:
    axes.set_facecolor(theme.paper)
    axes.grid(visible=True, color=theme.grid, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=theme.faint, labelsize=9, length=0)
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom")
        spine.set_color(theme.faint)


def _finish(axes: Axes, run: RunData, theme: Theme, *, top: bool, legend_below: bool = False) -> None:
    """Titles, x range, thousands, legend, and robot minutes above."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.title.set(color=theme.ink, fontsize=10.5)
    axes.xaxis.label.set_color(theme.faint)
    axes.yaxis.label.set_color(theme.faint)
    steps = [line["steps"] for line in (*run.episodes, *run.learner, *run.curve, *run.final)]
    if steps:
        axes.set_xlim(0, 1.02 * max(1, *steps))
    axes.xaxis.set_major_locator(MaxNLocator(6 if top else 4, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    rate = run.seconds_per_step
    if top and rate:
        minutes = axes.secondary_xaxis(
            "top", functions=(partial(np.multiply, rate / 60), partial(np.multiply, 60 / rate))
        )
        minutes.set_xlabel("robot minutes", color=theme.faint)
        minutes.tick_params(colors=theme.faint, labelsize=9, length=0)
        minutes.spines["top"].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        look = {"fontsize": 8.5, "framealpha": 0.85, "facecolor": theme.paper, "edgecolor": "none"}
        below = axes.get_figure(root=True) if legend_below else None
        if below is not None:
            legend = below.legend(handles, labels, loc="outside lower left", **look)
        else:
            legend = axes.legend(handles, labels, loc="best", **look)
        for text in legend.get_texts():
            text.set_color(theme.ink)
    else:
        axes.text(
            0.5, 0.5, "nothing measured yet", color=theme.faint, ha="center", va="center", transform=axes.transAxes
        )
