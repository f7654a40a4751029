"""An imperfect person, for scripted experts of the skill ``WEAK``.

People who teleoperate do not see exactly where things are, move at their own pace, tremble, look again when something
does not go in, and are sometimes wrong for a while. How much of each is set by hand so that a task is solved in 60 to
80 % of the episodes; none of it is fitted to people.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from robolearn.core.spec import Array

PACE = (0.5, 0.85)
"""Slowest and fastest pace, as a share of the informed expert's."""
PATIENCE = 25
"""Steps after which, on average, the person looks again and aims anew."""
LAPSE_EVERY, LAPSE = 80, (5, 15)
"""A lapse begins every so many steps, on average, and lasts so many."""
LAPSE_SIZE = 2.5
"""Aim during a lapse, in standard deviations, in a random direction."""
TREMOR, TREMOR_STEPS = 0.12, 3.0
"""Standard deviation and correlation time of the action noise."""


class Person:
    """What one person gets wrong in one episode.

    Args:
        rng: source of this person's errors.
        spread: standard deviation of the aim along each axis that it can be wrong about.
        size: of the action.

    Attributes:
        pace: factor of speeds, of the episode.
        aim: what is wrong about the goal now, in the units of ``spread``.
        tremor: (size,) what is added to the action now.
    """

    def __init__(self, rng: np.random.Generator, spread: Sequence[float], size: int) -> None:
        self._spread = np.array(spread, dtype=np.float64)
        self.pace = float(rng.uniform(*PACE))
        self._judged = self._glance(rng)
        self._lapse, self._lapse_left = np.zeros_like(self._judged), 0
        self.aim = self._judged
        self.tremor = np.zeros(size)

    def step(self, rng: np.random.Generator) -> None:
        """One control step passes."""
        if rng.random() < 1.0 / PATIENCE:
            self._judged = self._glance(rng)
        if self._lapse_left == 0 and rng.random() < 1.0 / LAPSE_EVERY:
            self._lapse_left = int(rng.integers(*LAPSE, endpoint=True))
            way = rng.normal(size=self._spread.size)
            self._lapse = LAPSE_SIZE * self._spread * way / max(float(np.linalg.norm(way)), 1e-9)
        self.aim = self._lapse if self._lapse_left else self._judged
        self._lapse_left = max(0, self._lapse_left - 1)
        kept = math.exp(-1.0 / TREMOR_STEPS)
        fresh = rng.normal(0.0, TREMOR * math.sqrt(1.0 - kept * kept), self.tremor.size)
        self.tremor = kept * self.tremor + fresh

    def _glance(self, rng: np.random.Generator) -> Array:
        return np.asarray(rng.normal(0.0, 1.0, self._spread.size) * self._spread)
