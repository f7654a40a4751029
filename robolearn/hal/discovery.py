"""Everything this machine and its site have: all probes at once, and their answers put together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from robolearn.core import plugins
from robolearn.core.errors import LeaseError
from robolearn.hal.leases import LeaseTable
from robolearn.hal.resources import HEALTHY, Found, Resource

LIMIT_S = 3.0
"""How long a probe may take [s]."""
_SITE = "site_file"
_GRAPH = "graph"

Probe = Callable[[], Found]


@dataclass(frozen=True)
class Inventory:
    """What there is.

    Attributes:
        resources: every resource once, in the order of kind and id.
        problems: (probe, why it could not look), one for each probe that could not.
    """

    resources: tuple[Resource, ...]
    problems: tuple[tuple[str, str], ...]


def discover(*, limit_s: float = LIMIT_S, probes: Mapping[str, Probe] | None = None) -> Inventory:
    """Ask all probes at once.

    Args:
        limit_s: how long to wait for them, all together [s]; one that takes longer is left behind.
        probes: name -> probe; without it all plug-ins of the group ``probe``.
    """
    asked = installed() if probes is None else probes
    found = ask(asked, limit_s)
    problems = tuple((name, answer.problem) for name, answer in sorted(found.items()) if answer.problem)
    return Inventory(combine(found), problems)


def installed() -> dict[str, Probe]:
    """All probes of this installation; their modules are imported when they are called."""
    return {name: partial(_call, name) for name in plugins.names("probe")}


def ask(probes: Mapping[str, Probe], limit_s: float) -> dict[str, Found]:
    """The answer of each probe; one that raises or takes too long gives a problem. Each has a thread of its own."""
    answers: dict[str, Found] = {}
    over = threading.Semaphore(0)

    def run(name: str, probe: Probe) -> None:
        try:
            answers[name] = probe()
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one probe, the others go on
            answers[name] = Found(problem=f"failed: {type(error).__name__}: {' '.join(str(error).split())}")
        finally:
            over.release()

    def give_up() -> None:
        over.release(len(probes))

    if not probes:
        return {}
    for name, probe in probes.items():
        threading.Thread(target=run, args=(name, probe), name=f"probe-{name}", daemon=True).start()
    deadline = threading.Timer(limit_s, give_up)
    deadline.daemon = True
    deadline.start()
    for _ in probes:
        over.acquire()
    deadline.cancel()
    late = Found(problem=f"did not answer within {limit_s:g} s")
    return {name: answers.get(name, late) for name in probes}


def combine(found: Mapping[str, Found]) -> tuple[Resource, ...]:
    """Every resource once. What the site file declares is joined with what was found of it, by id, topic or
    device node."""
    site = found.get(_SITE, Found()).resources
    rest: dict[str, Resource] = {}
    for name, answer in found.items():
        if name != _SITE:
            for resource in answer.resources:
                rest[resource.id] = join(rest[resource.id], resource) if resource.id in rest else resource
    devices = {_node(r): key for key, r in rest.items() if r.labels.get("device")}
    result: dict[str, Resource] = {}
    for declared in site:
        names = (declared.id, f"{declared.kind}:{declared.labels.get('topic')}", devices.get(_node(declared), ""))
        key = next((name for name in names if name in rest), "")
        seen = rest.pop(key, None)
        result[declared.id] = _absent(declared, found) if seen is None else join(declared, seen)
    return tuple(sorted((result | rest).values(), key=lambda resource: (resource.kind, resource.id)))


def enroll(table: LeaseTable, resources: Iterable[Resource]) -> list[str]:
    """Register resources, so that they can be asked for by label; returns what could not be, one line each."""
    problems = []
    for resource in resources:
        try:
            table.register(resource)
        except LeaseError as error:
            problems.append(str(error))
    return problems


def _call(name: str) -> Found:
    found: Found = plugins.load("probe", name).probe()
    return found


def join(declared: Resource, seen: Resource) -> Resource:
    """One resource of two answers: the first one's labels win, it is real if either says so, its health the worse."""
    return replace(
        declared,
        labels={**seen.labels, **declared.labels},
        simulated=declared.simulated and seen.simulated,
        health=seen.health if declared.health == HEALTHY else declared.health,
        unusable="; ".join(filter(None, (declared.unusable, seen.unusable))),
        seen_epoch=max(declared.seen_epoch, seen.seen_epoch),
    )


def _absent(declared: Resource, found: Mapping[str, Found]) -> Resource:
    """Something that was declared and not found: unusable when it surely is not there, else as it was declared."""
    device = declared.labels.get("device")
    if device and not Path(device).exists():
        return replace(declared, health="absent", unusable=f"there is no {device}; plug it in")
    graph = found.get(_GRAPH)
    if declared.kind == "robot" and declared.labels.get("driver") == "ros2" and graph and not graph.problem:
        # The graph may just not be known yet, so this does not keep anybody from trying.
        return replace(declared, health="absent")
    return declared


def _node(resource: Resource) -> str:
    device = resource.labels.get("device", "")
    return str(Path(device).resolve()) if device else resource.id
