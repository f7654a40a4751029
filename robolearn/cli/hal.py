"""``robolearn hal``: robots and compute of this machine, and who has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from robolearn.cli.options import parse
from robolearn.cli.output import columns, print_json
from robolearn.core import plugins
from robolearn.core.errors import ConfigError, suggest
from robolearn.hal.lease_types import Status
from robolearn.hal.leases import LeaseTable
from robolearn.hal.resources import probe_cpu, probe_gpus

WHAT = """Robots and compute of this machine, and who has them.

  robolearn hal ls                            what there is, who holds it
  robolearn hal quarantine NAME --why TEXT    let nobody have it until it is cleared
  robolearn hal clear NAME                    it is checked and may be used again"""

_ACTIONS = ("ls", "quarantine", "clear")


@dataclass(frozen=True)
class HalOptions:
    """Options of hal.

    Attributes:
        action: ls, quarantine or clear.
        name: id of the resource, for quarantine and clear.
        why: the reason of a quarantine.
        json: print one JSON document.
    """

    action: tyro.conf.Positional[str]
    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[NAME]")] = ""
    why: str = ""
    json: bool = False


def main(arguments: Sequence[str]) -> int:
    """List, quarantine or clear."""
    options = parse(HalOptions, arguments, verb="hal", what=WHAT)
    if options.action not in _ACTIONS:
        raise ConfigError(f"unknown action '{options.action}' of hal{suggest(options.action, _ACTIONS)}")
    if options.action != "ls" and not options.name:
        raise ConfigError(f"hal {options.action}: which resource? robolearn hal ls lists them")
    if options.action == "quarantine" and not options.why:
        raise ConfigError("hal quarantine: say why, for whoever finds it: --why TEXT")
    with LeaseTable.default() as table:
        if options.action == "quarantine":
            table.quarantine(options.name, options.why)
        elif options.action == "clear":
            table.clear(options.name)
        statuses = table.status()
    _show(statuses, options.name, as_json=options.json)
    return 0


def _show(statuses: list[Status], name: str, *, as_json: bool) -> None:
    known = {status.resource.id for status in statuses}
    found = [*probe_cpu().resources, *probe_gpus().resources]
    free = [Status(resource, 0, None, ()) for resource in found if resource.id not in known]
    rows = [row(status) for status in (*statuses, *free) if not name or status.resource.id == name]
    if as_json:
        print_json({"resources": rows, "drivers": plugins.names("robot")})
        return
    cells = [[r["id"], r["kind"], r["state"], f"{r['free']:g} of {r['capacity']:g}", r["why"]] for r in rows]
    print(columns(cells, head=("resource", "kind", "state", "free", "")))
    print(f"robot drivers: {', '.join(plugins.names('robot'))}")


def row(status: Status) -> dict[str, Any]:
    """A resource and who has it, as JSON knows it."""
    resource = status.resource
    return {
        "id": resource.id,
        "kind": resource.kind,
        "labels": dict(resource.labels),
        "simulated": resource.simulated,
        "capacity": resource.capacity,
        "free": status.free,
        "state": status.state,
        "why": status.why,
        "holders": [hold.holder for hold in status.holds],
    }
