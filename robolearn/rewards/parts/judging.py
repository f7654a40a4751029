"""What rewards that decide by themselves make of a task's judgement."""

from __future__ import annotations

from dataclasses import replace

from robolearn.core.types import Judgement, Kind


def decided(judgement: Judgement, success: bool, reward: float) -> Judgement:
    """A judgement in which ``success`` is decided by somebody else than the task: terminal, and worth ``reward``.

    Without success it goes on where the task alone thought that it had succeeded (a task that cannot go on is truncated
    by the loop), and ends where the task ends for another reason.
    """
    if success:
        return replace(judgement, reward=reward, kind=Kind.TERMINATED, success=True)
    kind = Kind.MID if judgement.success else judgement.kind
    return replace(judgement, reward=0.0, kind=kind, success=False)
