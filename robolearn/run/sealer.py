"""The sealer process: turns the closed logs of a run's buffer into segments while the run goes on."""

from __future__ import annotations

import time

from robolearn.buffer.seal import seal
from robolearn.core.errors import StoreError
from robolearn.run.process import Process

_EVERY_S, _POLL_S = 10.0, 0.2


def seal_along(process: Process) -> None:
    """Seal what has become large enough, until the run stops. A disk that is full now may have room later."""
    due, problem = time.monotonic() + _EVERY_S, ""
    while not process.stopping():
        if time.monotonic() >= due:
            problem = _seal(process, problem, everything=False)
            due = time.monotonic() + _EVERY_S
        time.sleep(_POLL_S)


def seal_rest(process: Process) -> None:
    """Seal all closed logs. What cannot be sealed stays a log, which is as safe and as readable."""
    _seal(process, "", everything=True)


def _seal(process: Process, problem: str, *, everything: bool) -> str:
    """Seal once; returns what went wrong, if anything, which is reported when it is new."""
    try:
        for segment in seal(process.paths.buffer, everything=everything):
            process.event("sealed", segment=segment)
    except StoreError as error:
        if str(error) != problem:
            process.event("not sealed", "warn", problem=str(error))
        return str(error)
    return ""
