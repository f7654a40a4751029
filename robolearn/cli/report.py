"""``robolearn report``: one HTML file that says how a run went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from robolearn.cli.options import RunArgument, parse
from robolearn.cli.output import print_json

WHAT = "Write report.html of a run, finished or not: curves, numbers, video, configuration, in one file."


@dataclass(frozen=True)
class ReportOptions:
    """Options of report.

    Attributes:
        run: run directory.
        json: print one JSON document.
    """

    run: RunArgument
    json: bool = False


def main(arguments: Sequence[str]) -> int:
    """Write the report and say where it is."""
    options = parse(ReportOptions, arguments, verb="report", what=WHAT)
    from robolearn.run.report import write_report

    path = write_report(Path(options.run))
    if options.json:
        print_json({"run": options.run, "report": path})
    else:
        print(path)
    return 0
