"""The sealer process: turns the closed logs of a run's buffer into segments, and keeps the buffer within its budget."""

from __future__ import annotations

import time

from robolearn.buffer.retain import prune
from robolearn.buffer.seal import seal
from robolearn.core.errors import StoreError
from robolearn.run.process import Process

_EVERY_S, _POLL_S = 10.0, 0.2


class Sealer:
    """Seals and prunes; what cannot be done is reported once, and tried again.

    Args:
        process: of the run.
        disk_bytes: budget of the buffer; 0 for none.
    """

    def __init__(self, process: Process, disk_bytes: int) -> None:
        self._process, self._disk_bytes = process, disk_bytes
        self._problem = ""

    def along(self) -> None:
        """Do what there is to do now and then, until the run stops. A disk that is full now may have room later."""
        due = time.monotonic() + _EVERY_S
        while not self._process.stopping():
            if time.monotonic() >= due:
                self.once(everything=False)
                due = time.monotonic() + _EVERY_S
            time.sleep(_POLL_S)

    def once(self, *, everything: bool) -> None:
        """Seal what is large enough, or all closed logs, and prune. What cannot be sealed stays a log, which is as safe
        and as readable."""
        try:
            for segment in seal(self._process.paths.buffer, everything=everything):
                self._process.event("sealed", segment=segment)
            self._report(self._prune())
        except StoreError as error:
            self._report(str(error))

    def _prune(self) -> str:
        """Keep to the budget; why that cannot be done, or empty."""
        if not self._disk_bytes:
            return ""
        done = prune(self._process.paths.buffer, max_bytes=self._disk_bytes)
        for dropped in done.dropped:
            self._process.event("pruned", segment=dropped.segment, bytes=dropped.bytes, episodes=dropped.episodes)
        if done.within:
            return ""
        kept = "; ".join(f"{name} {why}" for name, why in sorted(done.kept.items()))
        reason = f"segments that stay: {kept}" if kept else "the rest is in logs, or is the index"
        return f"buffer is larger than disk_gb ({self._disk_bytes / 1e9:g} GB); {reason}"

    def _report(self, problem: str) -> None:
        if problem and problem != self._problem:
            self._process.event("not sealed or pruned", "warn", problem=problem)
        self._problem = problem
