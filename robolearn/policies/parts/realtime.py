"""Real-time chunking: plan while the robot moves, and join the new plan to the one that is being executed.

A plan of H actions that is started at step t becomes available d steps later, when d of its actions have already been
replaced by those of the previous plan. The previous plan, shifted to the present, guides the new one:

    W_i = 1                          for i < d          (they will be executed whatever the new plan says)
    W_i = c_i (e^{c_i} - 1)/(e - 1)  for d <= i < H-s   with c_i = (H-s-i) / (H-s-d+1)
    W_i = 0                          for i >= H-s       (the previous plan says nothing of them)

where s is the number of steps between the starts of the two plans (Black, Galliker and Levine 2025, "Real-Time
Execution of Action Chunking Flow Policies", eq. 5). What a planner does with the weights is eq. 2 of the same paper.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from robolearn.core.spec import Array

RECENT = 10
"""Delays that are remembered: the largest of them is expected of the next plan."""


@dataclass(frozen=True)
class Guide:
    """What a new plan should agree with.

    Attributes:
        previous: (H, A) float32 actions already planned, shifted to the present; zeros where nothing was planned.
        weights: (H,) float32 in [0, 1], how much each of them counts; 1 for those that will be executed anyway.
        limit: largest guidance weight (beta in the paper).
    """

    previous: Array
    weights: Array
    limit: float


def guide_weights(horizon: int, delay: int, gone: int) -> Array:
    """(H,) float32 weights of the previous plan, see the module's docstring.

    Args:
        horizon: H, actions of a plan.
        delay: d, steps until the new plan is available; at most ``horizon - gone`` of them can be held.
        gone: s, steps between the starts of the two plans.
    """
    end = max(horizon - gone, 0)
    held = min(delay, end)
    index = np.arange(horizon)
    share = np.clip((end - index) / (end - held + 1), 0.0, 1.0)
    weights = np.where(index < held, 1.0, share * np.expm1(share) / np.expm1(1.0))
    return np.where(index < end, weights, 0.0).astype(np.float32)


def make_guide(plan: Array, gone: int, delay: int, limit: float) -> Guide | None:
    """The guide by a plan (H, A) that was started ``gone`` steps ago; None when nothing of it is left."""
    horizon = len(plan)
    if gone >= horizon:
        return None
    previous = np.zeros_like(plan)
    previous[: horizon - gone] = plan[gone:]
    return Guide(previous, guide_weights(horizon, delay, gone), limit)


class Worker:
    """One thread that makes plans, one at a time. It is there from the first plan until ``close``."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None

    def start(self, make: Callable[[], Array]) -> Future[Array]:
        """Make a plan in the thread."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="planner")
        return self._pool.submit(make)

    def close(self) -> None:
        """Wait for the plan being made, if any, and end the thread; idempotent."""
        if self._pool is not None:
            self._pool.shutdown(wait=True)
            self._pool = None


class Delays:
    """Steps between the observation of a plan and the first action given out of it, measured.

    Args:
        expected: what is expected as long as nothing has been measured.
    """

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._recent: deque[int] = deque(maxlen=RECENT)

    def measured(self, steps: int) -> None:
        """One more plan was available after so many steps."""
        self._recent.append(steps)

    @property
    def expected(self) -> int:
        """What to expect of the next plan: the longest of the recent ones."""
        return max(self._recent, default=self._expected)
