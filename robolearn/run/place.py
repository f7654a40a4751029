"""Where the roles of a run go: resources are leased for them, and processes started on them.

``Scheduler`` is what a run needs of a pool of machines; ``LocalScheduler`` is this machine and its lease table.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Protocol

from robolearn.core.errors import LeaseError, RobolearnError
from robolearn.hal import placement as matching
from robolearn.hal.heartbeat import Heartbeat
from robolearn.hal.lease_types import Lease, Request, Status
from robolearn.hal.leases import LeaseTable
from robolearn.hal.liveness import is_dead
from robolearn.run.config import RunPaths
from robolearn.run.guard import Grant
from robolearn.run.mend import mend, unsound
from robolearn.run.process import GRANT, PARENT, STARTED, worker_environment
from robolearn.run.robots import equal_labels
from robolearn.run.roles import Plan

SHARED_TTL_S, TTL_S = 2.0, 10.0


@dataclass(frozen=True)
class Place:
    """What a role got.

    Attributes:
        role: name of the role.
        resource: id of the resource; empty for a role that needs none.
        host: where its process runs.
        amount, capacity: share of the resource.
        grant: the robot, where the resource is one.
    """

    role: str
    resource: str
    host: str
    amount: float = 0.0
    capacity: float = 0.0
    grant: Grant | None = None

    @property
    def share(self) -> str:
        """``whole``, ``1 of 8``, or a dash."""
        if not self.resource:
            return "-"
        return "whole" if self.amount >= self.capacity else f"{self.amount:g} of {self.capacity:g}"

    def row(self) -> dict[str, str]:
        """For tables, events and status files."""
        return {"role": self.role, "resource": self.resource or "-", "where": self.host, "share": self.share}


@dataclass(frozen=True)
class Outlook:
    """What would become of one need: a resource that is free now, or why there is none."""

    role: str
    wanted: str
    resource: str
    why: str


class Handle(Protocol):
    """A started process, here or elsewhere (``subprocess.Popen`` is one)."""

    @property
    def returncode(self) -> Any:
        """Exit status; None while it runs."""

    def poll(self) -> int | None:
        """Exit status, or None while it runs."""

    def terminate(self) -> None:
        """Ask it to end."""

    def kill(self) -> None:
        """End it at once."""

    def wait(self) -> int:
        """Wait for its end; return its exit status."""


class Scheduler(Protocol):
    """A pool of robots and machines, as a run sees it."""

    def outlook(self) -> list[Outlook]:
        """What placing the plan's roles would give now; nothing is leased."""

    def place(self, *, wait_s: float = 0.0) -> list[Place]:
        """Lease what the plan's roles need, all or nothing.

        Raises:
            LeaseError: not to be had; the message says who holds what.
        """

    def places(self) -> list[Place]:
        """Where the roles are now."""

    def start(self, name: str, arguments: Sequence[str], *, robot_of: str = "", started_ns: int = 0) -> Handle:
        """Start a worker process.

        Args:
            name: of the worker.
            arguments: its role and what that takes.
            robot_of: role whose robot it drives; empty for none.
            started_ns: monotonic time at which the run began [ns].
        """

    def lost(self) -> dict[str, str]:
        """Role -> why its lease is no longer held."""

    def replace(self, role: str, why: str, *, quarantine: bool) -> Place | None:
        """Give up a role's robot, quarantine it if asked, and lease an equal one; None when there is none."""

    def close(self) -> None:
        """Give everything back."""


class LocalScheduler:
    """This machine. A context manager; use from one thread."""

    def __init__(self, plan: Plan, *, holder: str, paths: RunPaths | None = None) -> None:
        """Prepare; nothing is leased yet.

        Args:
            holder: who asks, for people to read.
            paths: of the run whose processes are started.
        """
        self.plan, self.holder, self.paths = plan, holder, paths
        self._host = socket.gethostname()
        self._stack = ExitStack()
        self._table = self._stack.enter_context(LeaseTable.default())
        self._leases: dict[str, Lease] = {}
        self._places: dict[str, Place] = {}

    def __enter__(self) -> LocalScheduler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def outlook(self) -> list[Outlook]:
        """What placing would give now; see ``Scheduler``."""
        pairs = [(role, need) for role in self.plan.roles for need in role.needs]
        try:
            rows = self._expected()
        except RobolearnError as error:
            return [Outlook(role.name, need.id or need.kind, "", str(error)) for role, need in pairs]
        chosen = matching.choose([need for _, need in pairs], rows)
        found = []
        for index, (role, need) in enumerate(pairs):
            wanted = need.id or f"{need.kind} {' '.join(f'{k}={v}' for k, v in need.labels.items())}"
            if isinstance(chosen, str):
                alone = matching.choose([need], rows)
                name, why = ("", alone) if isinstance(alone, str) else (alone[0].resource.id, "")
            else:
                name, why = chosen[index].resource.id, ""
            found.append(Outlook(role.name, wanted, name, why))
        if isinstance(chosen, str) and not any(entry.why for entry in found):
            found = [replace(entry, why=chosen) for entry in found]
        return found

    def place(self, *, wait_s: float = 0.0) -> list[Place]:
        """Lease what the roles need; see ``Scheduler``."""
        plan, table = self.plan, self._table
        for resource in plan.choice.resources(plan.root, table.status()):
            table.register(resource, transient=plan.choice.private)
        if plan.compute is not None:
            table.register(plan.compute)
        if not plan.choice.private:
            mend(table, plan.choice)
        needs = [(role, need) for role in plan.roles for need in role.needs]
        leases = self._acquire([need for _, need in needs], wait_s)
        for (role, need), lease in zip(needs, leases, strict=True):
            self._take(role.name, need, lease)
        for role in plan.roles:
            self._places.setdefault(role.name, Place(role.name, "", self._host))
        return self.places()

    def places(self) -> list[Place]:
        """Where the roles are now, in the plan's order."""
        return [self._places[role.name] for role in self.plan.roles if role.name in self._places]

    def grants(self) -> list[Grant]:
        """The robots that are held now."""
        return [place.grant for place in self.places() if place.grant and not self._leases[place.role].lost]

    def start(self, name: str, arguments: Sequence[str], *, robot_of: str = "", started_ns: int = 0) -> Handle:
        """Start a worker of the run in a session of its own (a terminal's Ctrl-C reaches only the supervisor)."""
        if self.paths is None:
            raise LeaseError("a plan without a run starts no processes")
        place = self._places.get(robot_of)
        grant = place.grant.to_json() if place is not None and place.grant is not None else ""
        environment = worker_environment(**{PARENT: str(os.getpid()), STARTED: str(started_ns), GRANT: grant})
        command = [sys.executable, "-m", "robolearn.run.worker", str(self.paths.root), *arguments]
        with open(self.paths.logs / f"{name}.log", "ab") as log:
            return subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def lost(self) -> dict[str, str]:
        """Role -> why its lease is no longer held."""
        return {role: lease.lost for role, lease in self._leases.items() if lease.lost}

    def replace(self, role: str, why: str, *, quarantine: bool) -> Place | None:
        """Another robot for a role; see ``Scheduler``.

        A robot whose lease was lost is not quarantined: it is suspect already, or somebody else's. A simulated one
        whose check is sound is taken again.
        """
        old = self._leases.pop(role)
        self._places.pop(role)
        held, old.lost = not old.lost, old.lost or why  # its heartbeat ends
        if quarantine and held:
            self._table.quarantine(old.resource, why)
        need = next(need for entry in self.plan.roles if entry.name == role for need in entry.needs)
        mend(self._table, self.plan.choice, may_raise=False)
        for name in self._spares(old.resource):
            try:
                request = Request("robot", name)
                (lease,) = self._acquire([request])
            except LeaseError:
                continue  # somebody was faster
            self._take(role, replace(need, id=name), lease)
            return self._places[role]
        return None

    def close(self) -> None:
        """Release what is held and end the heartbeats."""
        self._stack.close()

    def _acquire(self, requests: Sequence[Request], wait_s: float = 0.0) -> list[Lease]:
        """Leases that are given back at the end, whatever happens."""
        leases = self._table.acquire_all(requests, holder=self.holder, ttl_s=TTL_S, wait_s=wait_s)
        for lease in leases:
            self._stack.callback(self._release, lease)
        return leases

    def _take(self, role: str, need: Request, lease: Lease) -> None:
        """Keep a lease alive until the end, and note where the role is."""
        shared = need.kind == "robot" and not self.plan.choice.private
        if shared:
            lease.ttl_s = SHARED_TTL_S
            self._table.beat(lease)
        path, busy_s = self._table.path, lease.ttl_s / 4  # a blocked table is noticed before the lease is over
        self._stack.enter_context(Heartbeat(lambda: LeaseTable(path, busy_s=busy_s), [lease]))
        grant = None
        if need.kind == "robot":
            name = lease.resource if shared else self.plan.choice.named[0].name
            grant = Grant(name, lease.resource, lease.epoch, lease.ttl_s, shared)
        capacity = self.plan.compute.capacity if grant is None and self.plan.compute else 1.0
        self._leases[role] = lease
        self._places[role] = Place(role, lease.resource, self._host, lease.amount, capacity, grant)

    def _release(self, lease: Lease) -> None:
        if not lease.lost:
            try:
                self._table.release(lease)
            except LeaseError as error:
                lease.lost = str(error)

    def _expected(self) -> list[Status]:
        """The table as a request would find it: our resources in it, and what dead processes held given back."""
        rows = {row.resource.id: row for row in self._table.status()}
        plan = self.plan
        wanted = [*plan.choice.resources(plan.root, list(rows.values())), *([plan.compute] if plan.compute else [])]
        for resource in wanted:
            rows.setdefault(resource.id, Status(resource, 0, None, ()))
        return [_without_dead(row) for row in rows.values()]

    def _spares(self, failed: str) -> list[str]:
        """Free robots that can stand in for one, the best first.

        Named spares and those with the labels asked for come as they are. Beyond them only simulated robots are taken:
        a real arm that nobody asked for does not begin to move.
        """
        rows = {row.resource.id: row for row in self._table.status() if row.resource.kind == "robot"}
        choice, taken, old = self.plan.choice, {lease.resource for lease in self._leases.values()}, rows[failed]
        order = [ref.name for ref in choice.named]
        found = []
        for name, row in rows.items():
            labels = row.resource.labels
            if row.state != "free" or name in taken or "private" in labels:
                continue
            alike = row.resource.simulated and old.resource.simulated and equal_labels(labels, old.resource.labels)
            asked = not order and all(labels.get(key) == value for key, value in choice.labels.items())
            if (name in order or asked or (order and alike)) and not unsound(name):
                found.append(name)
        return sorted(found, key=lambda name: (order.index(name) if name in order else len(order), name))


def _without_dead(row: Status) -> Status:
    if row.quarantine is not None or not (row.resource.simulated or not row.resource.exclusive):
        return row
    return replace(row, holds=tuple(hold for hold in row.holds if not (hold.suspect and is_dead(hold.process))))
