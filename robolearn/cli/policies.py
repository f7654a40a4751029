"""``robolearn policies``: what can learn."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from robolearn.cli.options import parse
from robolearn.cli.output import columns, print_json
from robolearn.cli.tasks import first_line
from robolearn.core import config as typed
from robolearn.core import plugins

WHAT = "List the algorithms (robolearn train --algo NAME); with --options, their hyperparameters and defaults."


@dataclass(frozen=True)
class PoliciesOptions:
    """Options of policies.

    Attributes:
        options: show hyperparameters as well (takes a moment: it loads torch).
        json: print one JSON document.
    """

    options: bool = False
    json: bool = False


def main(arguments: Sequence[str]) -> int:
    """List the algorithms."""
    options = parse(PoliciesOptions, arguments, verb="policies", what=WHAT)
    names = plugins.names("policy")
    found = {name: {"about": about(name)} for name in names}
    defaults = {name: typed.to_dict(plugins.load("policy", name).Config()) for name in names if options.options}
    if options.json:
        print_json(
            {"policies": [{"name": n, **found[n], **({"options": defaults[n]} if defaults else {})} for n in names]}
        )
        return 0
    if not options.options:
        print(columns([[name, found[name]["about"]] for name in names], head=("algorithm", "")))
        return 0
    for name in names:
        print(f"{name}  {found[name]['about']}")
        print(columns([[f"--policy.{k}", str(v)] for k, v in typed.flatten(defaults[name]).items()], indent="  "))
    return 0


def about(name: str) -> str:
    """First line of the module's docstring, read from its source: importing it would load torch."""
    spec = importlib.util.find_spec(plugins.locate("policy", name))
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return ""
    return first_line(ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))))
