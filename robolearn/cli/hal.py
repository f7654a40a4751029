"""``robolearn hal``: robots, GPUs, cameras and devices of this machine and its site, their health, and who has them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import tyro

from robolearn.cli.options import parse
from robolearn.cli.output import columns, print_json
from robolearn.core import plugins
from robolearn.core.clock import Clock, MonotonicClock
from robolearn.core.errors import ConfigError, suggest
from robolearn.core.jsonable import jsonable
from robolearn.hal.check import Finding, check, failures, passed
from robolearn.hal.discovery import Inventory, discover
from robolearn.hal.lease_types import Status, Ticket, duration
from robolearn.hal.leases import LeaseTable
from robolearn.hal.resources import Resource

WHAT = """Robots, GPUs, cameras and devices of this machine and its site, their health, and who has them.

  robolearn hal ls [NAME]                     what there is, who holds it, why it cannot be used
  robolearn hal watch                         the same, again and again, until Ctrl-C
  robolearn hal check NAME                    look at it closely; exit status 1 if something is wrong
  robolearn hal quarantine NAME --why TEXT    let nobody have it until it is cleared
  robolearn hal clear NAME                    a person looked at it, and it may be used again

NAME is an id as ls shows it, or a name of the site file."""

_ACTIONS = ("ls", "watch", "check", "quarantine", "clear")
_PROBE_EVERY_S = 10.0
"""How often ``watch`` looks for hardware; leases are read every time."""
_VERDICTS = {True: "ok", False: "WRONG", None: "unknown"}


@dataclass(frozen=True)
class HalOptions:
    """Options of hal.

    Attributes:
        action: ls, watch, check, quarantine or clear.
        name: id of the resource.
        why: the reason of a quarantine.
        clear: with check: a simulated robot or compute share that passes may be used again.
        seconds: with check: how long to watch what takes time [s].
        interval: with watch: time between two looks [s].
        count: with watch: how many looks; 0 goes on until Ctrl-C.
        json: print JSON; with watch one line a look.
    """

    action: tyro.conf.Positional[str]
    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[NAME]")] = ""
    why: str = ""
    clear: bool = False
    seconds: float = 2.0
    interval: float = 1.0
    count: int = 0
    json: bool = False


@dataclass(frozen=True)
class View:
    """Everything there is at one moment."""

    rows: tuple[Status, ...]
    queue: tuple[Ticket, ...]
    problems: tuple[tuple[str, str], ...]


def main(arguments: Sequence[str]) -> int:
    """Do one of the actions."""
    options = parse(HalOptions, arguments, verb="hal", what=WHAT)
    _refuse(options)
    with LeaseTable.default() as table:
        if options.action == "watch":
            return watch(table, options)
        if options.action == "ls":
            view = look(table, discover(), options.name)
            if options.name and not view.rows:
                raise ConfigError(f"unknown resource '{options.name}'; robolearn hal ls lists all")
            _show(view, as_json=options.json)
            return 0
        if options.action == "check":
            return _check(table, find(table, options.name), options)
        known = next((row for row in table.status() if row.resource.id == options.name), None)
        status = known or find(table, options.name)
        if options.action == "quarantine":
            if status.resource.id not in {row.resource.id for row in table.status()}:
                table.register(status.resource)  # nobody has leased it yet
            table.quarantine(status.resource.id, options.why)
        else:
            table.clear(status.resource.id)
        _show(look(table, Inventory((), ()), status.resource.id), as_json=options.json)
    return 0


def look(table: LeaseTable, inventory: Inventory, name: str = "") -> View:
    """The lease table and what probes found, put together; with a name, only that resource."""
    found = {resource.id: resource for resource in inventory.resources}
    rows = []
    for row in table.status():
        seen = found.pop(row.resource.id, None)
        rows.append(row if seen is None else replace(row, resource=_fresh(row.resource, seen)))
    rows += [Status(resource, 0, None, ()) for resource in found.values()]
    rows.sort(key=lambda row: (row.resource.kind, row.resource.id))
    chosen = tuple(row for row in rows if not name or name in _names(row.resource))
    return View(chosen, tuple(table.queue()), inventory.problems)


def _fresh(known: Resource, seen: Resource) -> Resource:
    """What the table knows of a resource, with what was seen of it just now."""
    return replace(known, labels={**known.labels, **seen.labels}, health=seen.health, unusable=seen.unusable)


def find(table: LeaseTable, name: str) -> Status:
    """One resource by id or by its name in the site file.

    Raises:
        ConfigError: there is none; the message names the nearest.
    """
    view = look(table, discover())
    for row in view.rows:
        if name in _names(row.resource):
            return row
    raise ConfigError(f"unknown resource '{name}'{suggest(name, (row.resource.id for row in view.rows))}")


def watch(table: LeaseTable, options: HalOptions, clock: Clock | None = None) -> int:
    """Show everything every ``interval`` seconds, in place on a terminal; ends with 0 on Ctrl-C."""
    clock = clock or MonotonicClock()
    try:
        if sys.stdout.isatty() and not options.json:
            from rich.live import Live
            from rich.text import Text

            with Live(screen=False, auto_refresh=False) as live:
                for view in _views(table, options, clock):
                    live.update(Text(text(view)), refresh=True)
        else:
            for view in _views(table, options, clock):
                print(json.dumps(jsonable(document(view)), ensure_ascii=False) if options.json else text(view))
                sys.stdout.flush()
    except KeyboardInterrupt:
        pass
    return 0


def _views(table: LeaseTable, options: HalOptions, clock: Clock) -> Any:
    inventory, asked_ns = discover(), clock.now_ns()
    due, looks = clock.now_ns(), 0
    while True:
        yield look(table, inventory, options.name)
        looks += 1
        if looks == options.count:
            return
        due = max(due + int(options.interval * 1e9), clock.now_ns())
        clock.sleep_until_ns(due)
        if clock.now_ns() - asked_ns > _PROBE_EVERY_S * 1e9:
            inventory, asked_ns = discover(), clock.now_ns()


def text(view: View) -> str:
    """Tables for people."""
    cells = [
        [
            row.resource.id,
            row.resource.labels.get("name", ""),
            row.resource.kind + (" (simulated)" if row.resource.simulated else ""),
            row.state,
            f"{row.free:g} of {row.resource.capacity:g}",
            row.resource.health,
            row.why,
        ]
        for row in view.rows
    ]
    lines = [columns(cells, head=("resource", "name", "kind", "state", "free", "health", ""))]
    for ticket in view.queue:
        wishes = ", ".join(_wish(request) for request in ticket.requests)
        lines.append(f"waiting: {ticket.holder} (pid {ticket.process.pid}) for {wishes}, {duration(ticket.waited_s)}")
    lines += [f"not looked for ({probe}): {problem}" for probe, problem in view.problems]
    return "\n".join(lines)


def document(view: View) -> dict[str, Any]:
    """The same as JSON knows it."""
    return {
        "resources": [row(status) for status in view.rows],
        "waiting": [
            {
                "holder": ticket.holder,
                "pid": ticket.process.pid,
                "waited_s": ticket.waited_s,
                "for": [_wish(request) for request in ticket.requests],
            }
            for ticket in view.queue
        ],
        "problems": dict(view.problems),
        "drivers": plugins.names("robot"),
    }


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
        "health": resource.health,
        "why": status.why,
        "epoch": status.epoch,
        "holders": [hold.holder for hold in status.holds],
    }


def _refuse(options: HalOptions) -> None:
    action = options.action
    if action not in _ACTIONS:
        raise ConfigError(f"unknown action '{action}' of hal{suggest(action, _ACTIONS)}")
    if action not in ("ls", "watch") and not options.name:
        raise ConfigError(f"hal {action}: which resource? robolearn hal ls lists them")
    if action == "quarantine" and not options.why:
        raise ConfigError("hal quarantine: say why, for whoever finds it: --why TEXT")
    if options.clear and action != "check":
        raise ConfigError(f"hal {action}: --clear goes with check")
    for name, value in (("interval", options.interval), ("seconds", options.seconds)):
        if not 0 < value < float("inf"):
            raise ConfigError(f"hal: --{name} must be above 0 s, got {value}")


def _check(table: LeaseTable, status: Status, options: HalOptions) -> int:
    """Findings of a resource; 1 when one is wrong."""
    resource = status.resource
    findings = check(resource, seconds=options.seconds)
    if resource.kind == "gpu" and not resource.unusable:
        findings.append(allocate(resource))
    wrong = failures(findings)
    held_up = status.state in ("suspect", "quarantined")
    cleared = False
    if options.clear and held_up and not wrong:
        table.clear_checked(resource.id, findings)
        cleared = True
    if options.json:
        print_json({"id": resource.id, "ok": not wrong, "cleared": cleared, "findings": [vars(f) for f in findings]})
        return int(bool(wrong))
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        print(f"{_VERDICTS[finding.ok]:<7}  {finding.name:<{width}}  {finding.value}")
        expected = f"expected: {finding.expected}" if finding.expected else ""
        if finding.ok is not True and (expected or finding.hint):
            print(" " * (width + 11) + "; ".join(filter(None, (expected, finding.hint))))
    if cleared:
        print(f"{resource.id} may be used again")
    elif held_up:
        print(_advice(status, findings))
    return int(bool(wrong))


def _advice(status: Status, findings: list[Finding]) -> str:
    """What to do about a suspect or quarantined resource after its check."""
    name = status.resource.id
    if not passed(findings):
        return f"{name} stays {status.state}"
    if status.resource.simulated or not status.resource.exclusive:
        return f"{name} is {status.state} and passed; to use it again: robolearn hal check {name} --clear"
    return f"{name} is {status.state}; the check passed. Look at it yourself, then: robolearn hal clear {name}"


def allocate(gpu: Resource) -> Finding:
    """Whether torch can use a GPU: a small sum on it."""
    try:
        import torch
    except ImportError:
        return Finding("allocation", None, "torch is not installed", "a small sum is right", "pip install torch")
    if not torch.cuda.is_available():
        return Finding("allocation", None, f"torch {torch.__version__} sees no GPU", "a small sum is right",
                       "install torch with CUDA")  # fmt: skip
    for index in range(torch.cuda.device_count()):
        if gpu.id.removeprefix("gpu:").removeprefix("GPU-") == str(torch.cuda.get_device_properties(index).uuid):
            try:
                total = float(torch.ones(1 << 18, device=f"cuda:{index}").sum())
            except RuntimeError as error:
                return Finding("allocation", False, " ".join(str(error).split())[:200], "a small sum is right")
            return Finding("allocation", total == 1 << 18, f"1 MiB, sum {total:g}", f"{1 << 18}")
    return Finding("allocation", None, "torch does not list this GPU", "a small sum is right")


def _names(resource: Resource) -> tuple[str, ...]:
    """What a person may call it: cameras and GPUs have product names, which do not count."""
    name = resource.labels.get("name", "")
    return (resource.id, name) if resource.kind == "robot" or resource.id.endswith(f":{name}") else (resource.id,)


def _wish(request: Any) -> str:
    if request.id:
        return str(request.id)
    return " ".join([request.kind, *(f"{key}={value}" for key, value in request.labels.items())])


def _show(view: View, *, as_json: bool) -> None:
    if as_json:
        print_json(document(view))
    else:
        print(text(view))
        print(f"robot drivers: {', '.join(plugins.names('robot'))}")
