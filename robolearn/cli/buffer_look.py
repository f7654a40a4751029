"""``robolearn buffer info`` and ``verify``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import tyro

from robolearn.cli.options import parse
from robolearn.cli.output import columns, print_json

PathArgument = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
"""A positional buffer or run directory."""


@dataclass(frozen=True)
class InfoOptions:
    """Options of buffer info.

    Attributes:
        path: the buffer's directory, or a run directory.
        json: print one JSON document.
    """

    path: PathArgument
    json: bool = False


@dataclass(frozen=True)
class VerifyOptions:
    """Options of buffer verify.

    Attributes:
        path: the buffer's directory, or a run directory.
        repair: keep what is sound, and set damaged files aside in its folder ``damaged``.
        json: print one JSON document.
    """

    path: PathArgument
    repair: bool = False
    json: bool = False


def info(arguments: Sequence[str]) -> int:
    """Print what is in a buffer."""
    options = parse(InfoOptions, arguments, verb="buffer info", what="What is in a replay buffer.")
    from robolearn.run.inventory import inventory

    found = inventory(Path(options.path))
    if options.json:
        print_json(found)
    else:
        print(found["buffer"])
        print(columns(_facts(found), indent="  "))
        if found["composition"]:
            print(columns(_composition(found), head=_HEAD, indent="  "))
    return 0


def verify(arguments: Sequence[str]) -> int:
    """Read every byte, say what is wrong, repair it if asked to."""
    what = "Read every byte of a replay buffer and say what is wrong; exit status 1 if anything is, and stays so."
    options = parse(VerifyOptions, arguments, verb="buffer verify", what=what)
    from robolearn.buffer.verify import verify as check
    from robolearn.run.inventory import buffer_root

    root, done = buffer_root(Path(options.path)), list[str]()
    found = check(root)
    problems = found.problems
    if options.repair and problems:
        from robolearn.buffer.repair import repair

        done = repair(root)
        found = check(root)
    if options.json:
        print_json(
            {
                "buffer": root, "ok": found.ok, "rows": found.rows, "episodes": found.episodes,
                "problems": found.problems, "repaired": done,
            }
        )  # fmt: skip
        return 0 if found.ok else 1
    for line in done:
        print(f"  repair: {line}")
    print(f"{root}: {found.rows} rows of {found.episodes} episodes are sound")
    for problem in found.problems:
        print(f"  problem: {problem}")
    return 0 if found.ok else 1


_HEAD = ("robot", "task", "source", "episodes", "successful", "demos", "steps", "by a human", "policy versions")


def _composition(found: dict[str, Any]) -> list[list[str]]:
    return [
        [
            c["robot"], c["task"], c["source"], f"{c['episodes']}", f"{c['successes']}", f"{c['demos']}",
            f"{c['steps']}", f"{c['intervention_steps']}", _range(c["policy_versions"]),
        ]
        for c in found["composition"]
    ]  # fmt: skip


def _facts(found: dict[str, Any]) -> list[list[str]]:
    dropped = f", {found['dropped_episodes']} dropped" if found["dropped_episodes"] else ""
    rows = [
        ["episodes", f"{found['episodes']} ({found['successes']} successful, {found['open_episodes']} open{dropped})"],
        ["steps", f"{found['steps']} ({found['demo_steps']} of demonstrations)"],
        ["size", f"{size(found['bytes'])} on disk"],
        ["sealed", f"{found['segments']} segments, {size(found['segment_bytes'])}"],
        ["not sealed", f"{found['logs']} logs, {size(found['log_bytes'])}"],
        ["pinned", _pinned(found)],
        ["oldest", when(found["oldest_unix_ns"])],
        ["newest", when(found["newest_unix_ns"])],
        ["policy versions", _range(found["policy_versions"])],
        *([f"steps by {s}", f"{n}"] for s, n in found["steps_by_source"].items()),
        *([f"steps of {r}", f"{n}"] for r, n in found["steps_by_robot"].items()),
        *([f"observes {k}", " x ".join(map(str, shape)) or "number"] for k, shape in found["observation"].items()),
        ["action", " x ".join(map(str, found["action"]))],
    ]
    if found["damaged_bytes"]:
        rows.insert(5, ["set aside by repair", size(found["damaged_bytes"])])
    return rows


def _pinned(found: dict[str, Any]) -> str:
    share = found["pinned_steps"] / max(found["steps"], 1)
    where = f", in segments of {size(found['pinned_bytes'])}" if found["pinned_segments"] else ""
    return f"{found['pinned_episodes']} episodes, {share:.0%} of the steps{where}"


def _range(versions: list[int] | None) -> str:
    if versions is None:
        return "-"
    low, high = versions
    return f"{low}" if low == high else f"{low} to {high}"


def when(unix_ns: int | None) -> str:
    """Date and age."""
    if unix_ns is None:
        return "-"
    date = datetime.fromtimestamp(unix_ns * 1e-9, UTC)
    return f"{date:%Y-%m-%d %H:%M} UTC, {_age((time.time_ns() - unix_ns) * 1e-9)}"


def _age(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def size(count: int) -> str:
    """Bytes for people."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


ACTIONS = {"info": info, "verify": verify}
