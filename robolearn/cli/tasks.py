"""``robolearn tasks``: what can be learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from robolearn.cli.options import parse
from robolearn.cli.output import columns, print_json
from robolearn.core import config as typed
from robolearn.core import plugins
from robolearn.core.errors import RobolearnError

WHAT = "List the tasks, and the tiers of each (robolearn train TASK:TIER)."


@dataclass(frozen=True)
class TasksOptions:
    """Options of tasks.

    Attributes:
        json: print one JSON document.
    """

    json: bool = False


def main(arguments: Sequence[str]) -> int:
    """List the tasks."""
    options = parse(TasksOptions, arguments, verb="tasks", what=WHAT)
    tasks = [describe(name) for name in plugins.names("task")]
    if options.json:
        print_json({"tasks": tasks})
    else:
        print(columns([[t["name"], ", ".join(t["tiers"]), t["about"]] for t in tasks], head=("task", "tiers", "")))
    return 0


def describe(name: str) -> dict[str, Any]:
    """Name, one line about it, and tiers with what sets them apart from the task's defaults."""
    try:
        module = plugins.load("task", name)
    except (ImportError, RobolearnError) as error:
        return {"name": name, "about": f"cannot be loaded: {error}", "tiers": {}}
    defaults = module.Config()
    tiers = {tier: typed.diff(defaults, config) for tier, config in module.TIERS.items()}
    return {"name": name, "about": first_line(module.__doc__), "tiers": tiers}


def first_line(doc: str | None) -> str:
    """First line of a docstring."""
    return (doc or "").strip().partition("\n")[0]
