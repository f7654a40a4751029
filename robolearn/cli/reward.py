"""``robolearn reward``: train a success classifier, look at its errors, judge stored episodes anew."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from robolearn.cli.buffer_look import PathArgument
from robolearn.cli.options import parse
from robolearn.cli.output import columns, print_json
from robolearn.core.errors import ConfigError, suggest


@dataclass(frozen=True)
class TrainOptions:
    """Options of reward train.

    Attributes:
        path: the buffer's directory, or a run directory.
        out: folder for the classifier.
        keys: observation keys it may look at; none for all.
        select: only episodes with a step that passes this filter.
        last: final frames of a successful episode that show the success.
        gap: frames before those that are not trained on: neither success nor none.
        most: frames without success that are used at most.
        false_positives: of 1000 frames without success, how many may be taken for one.
        held_out: share of the episodes that is held out.
        updates: gradient steps.
        seed: of the split, the network and the batches.
        json: print one JSON document.
    """

    path: PathArgument
    out: str
    keys: tuple[str, ...] = field(default=())
    select: str = ""
    last: int = 1
    gap: int = 2
    most: int = 20_000
    false_positives: float = 1.0
    held_out: float = 0.3
    updates: int = 1_500
    seed: int = 0
    json: bool = False


@dataclass(frozen=True)
class ReportOptions:
    """Options of reward report.

    Attributes:
        path: folder of the classifier.
        json: print one JSON document.
    """

    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    json: bool = False


@dataclass(frozen=True)
class ApplyOptions:
    """Options of reward apply.

    Attributes:
        path: the buffer's directory, or a run directory.
        out: the new buffer.
        reward: what a step is worth: task, intervention, classifier:DIR, task+0.5*intervention.
        select: only episodes with a step that passes this filter.
        json: print one JSON document.
    """

    path: PathArgument
    out: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    reward: str
    select: str = ""
    json: bool = False


def train(arguments: Sequence[str]) -> int:
    """Train a classifier."""
    what = (
        "Train a classifier of success from the frames of stored episodes: the final frames of successful ones (mark "
        "them with robolearn buffer tag) against all others. Held-out episodes calibrate it and count its errors."
    )
    options = parse(TrainOptions, arguments, verb="reward train", what=what)
    import torch

    from robolearn.rewards.parts.train import Config
    from robolearn.run.inventory import buffer_root
    from robolearn.run.labelled import Labelling, train_classifier

    torch.set_num_threads(1)
    config = Config(
        updates=options.updates,
        held_out=options.held_out,
        false_positives=options.false_positives,
        seed=options.seed,
    )
    labelling = Labelling(options.select, options.last, options.gap, options.most, options.seed)
    root = buffer_root(Path(options.path))
    made = train_classifier(
        root, Path(options.out), config, keys=options.keys, labelling=labelling, say=_progress(options.updates)
    )
    _tell(Path(options.out), made.report, as_json=options.json)
    return 0


def report(arguments: Sequence[str]) -> int:
    """Show the errors of a classifier."""
    options = parse(
        ReportOptions,
        arguments,
        verb="reward report",
        what="Show what each threshold of a success classifier does to frames of episodes it was not trained on.",
    )
    from robolearn.rewards.parts.saved import facts

    _tell(Path(options.path), facts(Path(options.path))["report"], as_json=options.json)
    return 0


def apply(arguments: Sequence[str]) -> int:
    """Judge stored episodes anew."""
    what = (
        "Write the episodes of a buffer into a new buffer, judged by another reward. Where it ends an episode, the "
        "episode ends there."
    )
    options = parse(ApplyOptions, arguments, verb="reward apply", what=what)
    from robolearn.run.inventory import buffer_root
    from robolearn.run.rejudge import rejudge

    done = rejudge(buffer_root(Path(options.path)), Path(options.out), options.reward, select=options.select)
    if options.json:
        print_json(asdict(done))
        return 0
    print(f"{done.target}: {done.episodes} episodes, {done.steps} steps, {done.shortened} end earlier")
    print(f"  successes {done.successes} -> {done.new_successes}, total reward {done.reward:g} -> {done.new_reward:g}")
    return 0


def _progress(updates: int) -> Any:
    """Tells a terminal how far it is, once a second."""
    if not sys.stderr.isatty():
        return lambda step: None
    began = last = time.monotonic()

    def say(step: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= 1.0 or step == updates:
            last, rate = now, step / max(now - began, 1e-9)
            end = "\n" if step == updates else ""
            print(f"\r  {step}/{updates} updates, {rate:.0f}/s, {(updates - step) / rate:.0f} s left ",
                  end=end, file=sys.stderr, flush=True)  # fmt: skip

    return say


def _tell(folder: Path, report: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json({"classifier": folder, **report})
        return
    seen, unseen = report["training"], report["held_out"]
    print(f"{folder}: a success when p > {report['threshold']:g}")
    for name, part in (("trained on", seen), ("held out", unseen)):
        print(f"  {name} {part['episodes']} episodes: {part['successes']} frames of success, {part['others']} others")
    print(
        f"  on held-out episodes: separation {report['separation']:.4f}, calibration error "
        f"{report['calibration_error']:.4f} ({report['calibration_error_before']:.4f} before calibration)"
    )
    whole = report["episodes"]
    early = f", {min(whole['early'])} to {max(whole['early'])} steps early" if whole["early"] else ""
    print(
        f"  of {whole['successes']} successful episodes {whole['found']} are found{early}; "
        f"of {whole['others']} others {whole['false']} are taken for one"
    )
    if not report["target_met"]:
        print(f"  no threshold has at most {report['target']:g} false positives per 1000 frames; this one has fewest")
    rows = [
        [f"{'*' if p['threshold'] == report['threshold'] else ' '}{p['threshold']:g}", _interval(p["precision"], 3),
         _interval(p["recall"], 3), _interval(p["false_positives_per_1000"], 1)]
        for p in report["points"]
    ]  # fmt: skip
    print(columns(rows, head=("threshold", "precision", "recall", "false positives per 1000"), indent="  "))


def _interval(share: list[float] | None, digits: int) -> str:
    if share is None:
        return "-"
    value, low, high = (f"{number:.{digits}f}" for number in share)
    return f"{value} ({low} to {high})"


ACTIONS = {
    "train": (train, "PATH --out DIR", "learn to see success, from labelled episodes"),
    "report": (report, "DIR", "what each threshold of a classifier does"),
    "apply": (apply, "PATH OUT --reward TEXT", "judge stored episodes anew, into a new buffer"),
}


def usage() -> str:
    """The text of ``robolearn reward --help``."""
    lines = [(f"robolearn reward {action} {given}", what) for action, (_, given, what) in ACTIONS.items()]
    width = max(len(line) for line, _ in lines)
    table = "\n".join(f"  {line:<{width}}  {what}" for line, what in lines)
    return (
        "usage: robolearn reward ACTION ... [OPTIONS]\n\n"
        "What a step is worth: learned classifiers of success, and other rewards for stored episodes.\n\n"
        f"{table}\n\n"
        "Rewards: task, intervention, keys, classifier:DIR, and sums such as task+0.5*intervention(reward=-1).\n"
        "keys (labels of a person) is for stored episodes only: no device gives labels yet, so train refuses it.\n"
        "All take --json. robolearn reward ACTION --help shows options.\n"
    )


def main(arguments: Sequence[str]) -> int:
    """Find the action and do it."""
    if not arguments:
        raise ConfigError(f"reward: which action? (have: {', '.join(ACTIONS)})")
    if arguments[0] in ("-h", "--help"):
        print(usage(), end="")
        raise SystemExit(0)
    if arguments[0] not in ACTIONS:
        raise ConfigError(f"unknown action '{arguments[0]}' of reward{suggest(arguments[0], ACTIONS)}")
    return ACTIONS[arguments[0]][0](arguments[1:])
