"""Noticing early that training has diverged, before a robot acts on what came of it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from robolearn.core.errors import TrainingDivergedError
from robolearn.core.spec import Array

_FACTOR = 10.0
_LEAST_SHARE = 1e-3


class DivergenceGuard:
    """Watches the metrics of update calls.

    A loss (any metric) that is not finite never comes back: the optimiser has taken it into every parameter. A critic
    is lost when its values leave, by a factor of ten, what rewards allow: |Q| <= max |R| / (1 - gamma * max discount),
    with the returns R and discounts of the rows seen so far, and R at least 1. A few such calls may happen; many in a
    row are no accident.

    Args:
        family: named in the message.
        gamma: discount; with 1 the bound is that of episodes of 1000 steps.
        patience: calls in a row with impossible values before an error is raised.
        nan_patience: the same for metrics that are not finite.
    """

    def __init__(self, family: str, *, gamma: float = 0.0, patience: int = 50, nan_patience: int = 3) -> None:
        self._family, self._gamma = family, gamma
        self._patience, self._nan_patience = patience, nan_patience
        self._highest_reward, self._longest = 1.0, 0.0
        self._calls = self._strange = self._nan = 0

    @property
    def bound(self) -> float:
        """Largest |Q| that the rows seen so far allow."""
        return self._highest_reward / max(1.0 - self._gamma * self._longest, _LEAST_SHARE)

    def saw(self, reward: Array, discount: Array, *, entropy: float = 0.0) -> None:
        """Take note of a batch.

        Args:
            reward, discount: (B,) as in ``Batch``.
            entropy: weight times size of an entropy that counts as reward.
        """
        found = float(np.abs(reward).max(initial=0.0)) + abs(entropy)
        if math.isfinite(found):
            self._highest_reward = max(self._highest_reward, found)
        self._longest = max(self._longest, float(discount.max(initial=0.0)))

    def check(self, metrics: Mapping[str, float]) -> None:
        """Judge the metrics of one update call; ``q_mean``, ``q_max`` and the like are values of critics.

        Raises:
            TrainingDivergedError: says what went wrong, since when, and what to change.
        """
        self._calls += 1
        broken = [name for name, value in metrics.items() if not math.isfinite(value)]
        self._nan = self._nan + 1 if broken else 0
        if self._nan >= self._nan_patience:
            self._raise(f"{', '.join(broken)} {'is' if len(broken) == 1 else 'are'} not finite", self._nan)
        limit = _FACTOR * self.bound
        values = {name: value for name, value in metrics.items() if name.startswith("q_")}
        worst = max(values, key=lambda name: abs(values[name]), default="")
        outside = bool(worst) and abs(values[worst]) > limit
        self._strange = self._strange + 1 if outside else 0
        if self._strange >= self._patience:
            self._raise(
                f"{worst} is {values[worst]:.4g}, though rewards and gamma {self._gamma:g} allow no more than "
                f"{self.bound:.4g}",
                self._strange,
            )

    def _raise(self, what: str, calls: int) -> None:
        first = self._calls - calls + 1
        raise TrainingDivergedError(
            f"{self._family}: training has diverged: {what}, since update call {first} ({calls} calls in a row). "
            "Go back to a checkpoint from before, and try a lower learning rate, a limit on the gradient (grad_clip), "
            "layer_norm in the critics, more target_critics, a smaller utd, or look for wrong rewards in the data"
        )
