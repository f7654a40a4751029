"""``robolearn doctor``: is this machine ready?"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from robolearn.cli.options import parse
from robolearn.cli.output import print_json
from robolearn.run.doctor import Check, examine

WHAT = "Check this machine and say how to mend what is wrong. Exit status 1 if robolearn cannot run here."

_COLOURS = {"pass": "32", "warn": "33", "fail": "31;1"}


@dataclass(frozen=True)
class DoctorOptions:
    """Options of doctor.

    Attributes:
        dir: where runs would be written (its disk is measured).
        json: print one JSON document.
    """

    dir: str = "."
    json: bool = False


def main(arguments: Sequence[str]) -> int:
    """Check, show each finding as it comes, and sum up."""
    options = parse(DoctorOptions, arguments, verb="doctor", what=WHAT)
    found = []
    for check in examine(Path(options.dir)):
        found.append(check)
        if not options.json:
            show(check, colour=sys.stdout.isatty())
    levels = [check.level for check in found]
    ok = "fail" not in levels
    if options.json:
        print_json({"ok": ok, "checks": [asdict(check) for check in found]})
    else:
        verdict = "robolearn can run here" if ok else "robolearn cannot run here"
        print(f"\n{verdict}: {levels.count('fail')} failures, {levels.count('warn')} warnings")
    return 0 if ok else 1


def show(check: Check, *, colour: bool) -> None:
    """One finding: level, name, what was seen, and below it what to do."""
    level = f"\x1b[{_COLOURS[check.level]}m{check.level}\x1b[0m" if colour else check.level
    print(f"{level}  {check.name:<16} {check.found}", flush=True)
    if check.fix:
        print(f"      {'':<16} -> {check.fix}", flush=True)
