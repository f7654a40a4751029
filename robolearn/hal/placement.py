"""Which resources satisfy several requests at once, and what those who wait longer have a claim to.

First come, first served, without idling what nobody in the queue can use: resources are set aside for everybody who has
waited longer, as far as what is free goes, and a request is met from the rest. So a large request collects what becomes
free, small ones do not overtake it where they collide, and those that do not collide pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from robolearn.core.errors import suggest
from robolearn.hal.lease_types import Request, Status, Ticket, duration

_ROUNDING = 1e-9


def choose(requests: Sequence[Request], rows: Sequence[Status], queue: Sequence[Ticket] = ()) -> list[Status] | str:
    """One resource for each request, or the reason why they cannot all be met now.

    Args:
        rows: all resources.
        queue: who has waited longer, first come first. Those whom no lease that ends can help (they wait for a person)
            have no claim.
    """
    plan = _Plan(rows)
    for ticket in queue:
        if not isinstance(choose(ticket.requests, [_given_back(row) for row in rows]), str):
            plan.set_aside(ticket)
    return plan.place(requests)


def never(requests: Sequence[Request], rows: Sequence[Status]) -> str:
    """Why no waiting whatever can help: an unknown resource, or more than there is; empty when it can."""
    sound = [
        replace(row, resource=replace(row.resource, health="ok", unusable=""), quarantine=None, holds=())
        for row in rows
    ]
    chosen = choose(requests, sound)
    return chosen if isinstance(chosen, str) else ""


def wanted(ticket: Ticket, resource: Status) -> bool:
    """Whether a resource is among those that a ticket may get."""
    return any(_matches(request, resource) for request in ticket.requests)


def _given_back(row: Status) -> Status:
    """The row as it will be when everybody who holds it in order gives it back."""
    return replace(row, holds=tuple(hold for hold in row.holds if hold.suspect))


class _Plan:
    """What goes to whom while requests are served one after another.

    Exclusive resources are matched by augmenting paths (Kuhn's algorithm), so a request that is content with any robot
    does not take the one another request needs; whoever was matched stays matched, perhaps with another robot.
    """

    def __init__(self, rows: Sequence[Status]) -> None:
        self._rows = rows
        self._by_id = {row.resource.id: row for row in rows}
        self._left = {row.resource.id: row.free for row in rows}
        self._wants: list[Request] = []
        self._who: list[Ticket | None] = []
        self._taken: dict[str, int] = {}
        self._shares: list[tuple[str, Ticket]] = []

    def set_aside(self, ticket: Ticket) -> None:
        """Reserve for somebody who waits: all of it, or what there is of it."""
        for request in ticket.requests:
            index = self._add(request, ticket)
            known = self._known(request)
            if not known:
                continue
            if known[0].resource.exclusive:
                self._augment(index, set())
                continue
            # Of several shared ones that would do, the one with most left: it only ever fills up, so the time comes.
            able = [row for row in known if _given_back(row).free + _ROUNDING >= request.amount]
            if able:
                best = max(able, key=lambda row: self._left[row.resource.id]).resource.id
                self._left[best] = max(0.0, self._left[best] - request.amount)
                self._shares.append((best, ticket))

    def place(self, requests: Sequence[Request]) -> list[Status] | str:
        """A resource for each request from what is left, or why not."""
        first = len(self._wants)
        shares: dict[int, Status] = {}
        for request in requests:
            index = self._add(request, None)
            if not request.amount > 0:
                return f"cannot lease an amount of {request.amount} of a {request.kind}; ask for more than 0"
            known = self._known(request)
            if not known:
                return _unknown(request, self._rows)
            if known[0].resource.exclusive:
                if not self._augment(index, set()):
                    return self._held(request, known)
                continue
            share = next((row for row in known if self._left[row.resource.id] + _ROUNDING >= request.amount), None)
            if share is None:
                return self._too_much(request, known)
            self._left[share.resource.id] -= request.amount
            shares[index] = share
        exclusive = {index: self._by_id[name] for name, index in self._taken.items()}
        return [(exclusive | shares)[first + number] for number in range(len(requests))]

    def _add(self, request: Request, ticket: Ticket | None) -> int:
        self._wants.append(request)
        self._who.append(ticket)
        return len(self._wants) - 1

    def _known(self, request: Request) -> list[Status]:
        return [row for row in self._rows if _matches(request, row)]

    def _augment(self, index: int, tried: set[str]) -> bool:
        """Give request ``index`` a free resource, moving earlier requests to others where needed."""
        for row in self._rows:
            name = row.resource.id
            if name in tried or row.free <= 0 or not _matches(self._wants[index], row):
                continue
            tried.add(name)
            if name not in self._taken or self._augment(self._taken[name], tried):
                self._taken[name] = index
                return True
        return False

    def _claims(self, known: Sequence[Status]) -> list[str]:
        """Who has waited longer for these, in words."""
        names = [row.resource.id for row in known]
        claims = {name: self._who[index] for name, index in self._taken.items() if name in names}
        claims |= {name: ticket for name, ticket in self._shares if name in names}
        return [
            f"{name} is promised to {ticket.holder} (pid {ticket.process.pid}), who has waited for "
            f"{duration(ticket.waited_s)}; wait for it with --wait SECONDS"
            for name, ticket in claims.items()
            if ticket is not None
        ]

    def _held(self, request: Request, known: Sequence[Status]) -> str:
        reasons = [row.why for row in known if row.why] + self._claims(known)
        if not reasons:
            return f"there are not enough resources of kind {request.kind}: {len(known)} match, and more are asked for"
        return "; ".join(reasons)

    def _too_much(self, request: Request, known: Sequence[Status]) -> str:
        most = max(row.resource.capacity for row in known)
        if request.amount > most:
            return f"{request.amount:g} of a {request.kind} is asked for, but the largest has {most:g}"
        reasons = [row.why or f"{row.resource.id} has {row.free:g} left" for row in known]
        return "; ".join(reasons + self._claims(known))


def _matches(request: Request, row: Status) -> bool:
    resource = row.resource
    return (
        resource.kind == request.kind
        and request.id in ("", resource.id)
        and all(resource.labels.get(key) == value for key, value in request.labels.items())
    )


def _unknown(request: Request, rows: Sequence[Status]) -> str:
    if request.id:
        return f"no {request.kind} '{request.id}' is known{suggest(request.id, (row.resource.id for row in rows))}"
    have = [f"{r.resource.id} {dict(r.resource.labels)}" for r in rows if r.resource.kind == request.kind]
    return f"no {request.kind} with labels {dict(request.labels)} is known (have: {', '.join(have) or 'none'})"
