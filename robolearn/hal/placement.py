"""Which resources satisfy several requests at once."""

from __future__ import annotations

from collections.abc import Sequence

from robolearn.core.errors import suggest
from robolearn.hal.lease_types import Request, Status

_ROUNDING = 1e-9


def choose(requests: Sequence[Request], rows: Sequence[Status]) -> list[Status] | str:
    """One resource for each request, or the reason why they cannot all be met.

    Exclusive resources are matched by augmenting paths (Kuhn's algorithm), so a request that is content with any robot
    does not take the one another request needs. Shares are given first come, first served.
    """
    chosen: dict[int, Status] = {}
    taken: dict[str, int] = {}
    left = {row.resource.id: row.free for row in rows}
    for index, request in enumerate(requests):
        if not request.amount > 0:
            return f"cannot lease an amount of {request.amount} of a {request.kind}; ask for more than 0"
        known = [row for row in rows if _matches(request, row)]
        if not known:
            return _unknown(request, rows)
        if known[0].resource.exclusive:
            if not _augment(index, requests, rows, taken, set()):
                return _held(request, known)
            continue
        share = next((row for row in known if left[row.resource.id] + _ROUNDING >= request.amount), None)
        if share is None:
            return _too_much(request, known)
        left[share.resource.id] -= request.amount
        chosen[index] = share
    by_id = {row.resource.id: row for row in rows}
    chosen |= {index: by_id[name] for name, index in taken.items()}
    return [chosen[index] for index in range(len(requests))]


def _augment(
    index: int, requests: Sequence[Request], rows: Sequence[Status], taken: dict[str, int], tried: set[str]
) -> bool:
    """Give request ``index`` a free resource, moving earlier requests to others where needed."""
    for row in rows:
        name = row.resource.id
        if name in tried or row.free <= 0 or not _matches(requests[index], row):
            continue
        tried.add(name)
        if name not in taken or _augment(taken[name], requests, rows, taken, tried):
            taken[name] = index
            return True
    return False


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


def _held(request: Request, known: Sequence[Status]) -> str:
    reasons = [row.why for row in known if row.why]
    if not reasons:
        return f"there are not enough resources of kind {request.kind}: {len(known)} match, and more are asked for"
    return "; ".join(reasons)


def _too_much(request: Request, known: Sequence[Status]) -> str:
    most = max(row.resource.capacity for row in known)
    if request.amount > most:
        return f"{request.amount:g} of a {request.kind} is asked for, but the largest has {most:g}"
    return "; ".join(row.why or f"{row.resource.id} has {row.free:g} left" for row in known)
