"""From logits to probabilities that mean what they say, and to a threshold with known errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robolearn.core.errors import ConfigError
from robolearn.core.spec import Array

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999)
_NEWTON_STEPS = 100
_RIDGE = 1e-6


@dataclass(frozen=True)
class Calibration:
    """``p = sigmoid(scale * logit + offset)``."""

    scale: float = 1.0
    offset: float = 0.0

    def __call__(self, logits: Array) -> Array:
        """(N,) float64 probabilities of logits (N,)."""
        z = np.clip(self.scale * np.asarray(logits, np.float64) + self.offset, -500.0, 500.0)
        probabilities: Array = 1.0 / (1.0 + np.exp(-z))
        return probabilities


@dataclass(frozen=True)
class Point:
    """What a threshold does to labelled frames: counts of true and false positives and negatives."""

    threshold: float
    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int

    @property
    def false_positive_rate(self) -> float:
        """Share of the negatives that are taken for successes."""
        return self.false_positives / max(self.false_positives + self.true_negatives, 1)


def platt(logits: Array, labels: Array) -> Calibration:
    """The scale and offset under which labelled logits are most likely (Platt 1999), by Newton's method.

    Labels are softened to (N+ + 1)/(N+ + 2) and 1/(N- + 2), which keeps the result finite where a threshold separates
    the two exactly (eq. 24 of Platt; Lin, Lin and Weng 2007, "A Note on Platt's Probabilistic Outputs").

    Raises:
        ConfigError: higher logits do not mean success more often: the classifier has learned nothing that holds.
    """
    labels = np.asarray(labels, bool)
    positives, negatives = int(labels.sum()), int((~labels).sum())
    target = np.where(labels, (positives + 1.0) / (positives + 2.0), 1.0 / (negatives + 2.0))
    logits = np.asarray(logits, np.float64)
    centre, spread = float(logits.mean()), float(logits.std()) or 1.0
    x = np.stack([(logits - centre) / spread, np.ones(len(logits))], 1)
    w = np.array([0.0, math.log((positives + 1.0) / (negatives + 1.0))])
    loss = _loss(x, target, w)
    for _ in range(_NEWTON_STEPS):
        p = 1.0 / (1.0 + np.exp(-x @ w))
        gradient = x.T @ (p - target)
        hessian = (x * (p * (1.0 - p))[:, None]).T @ x + _RIDGE * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while (new := _loss(x, target, w - size * step)) > loss and size > 1e-10:
            size /= 2.0
        w, improved, loss = w - size * step, loss - new, min(new, loss)
        if improved < 1e-10:
            break
    if not w[0] > 0.0:
        raise ConfigError(
            "the classifier does not tell held-out successes from other frames; it needs more episodes, or other keys"
        )
    scale = float(w[0]) / spread
    return Calibration(scale, float(w[1]) - scale * centre)


def _loss(x: Array, target: Array, w: Array) -> float:
    z = x @ w
    return float(np.sum(np.logaddexp(0.0, z) - target * z))


def points(probabilities: Array, labels: Array, thresholds: Sequence[float] = THRESHOLDS) -> list[Point]:
    """What each threshold does; a frame is a success when its probability is above the threshold."""
    labels = np.asarray(labels, bool)
    found = []
    for threshold in thresholds:
        said = np.asarray(probabilities) > threshold
        found.append(
            Point(
                threshold,
                int((said & labels).sum()),
                int((said & ~labels).sum()),
                int((~said & ~labels).sum()),
                int((~said & labels).sum()),
            )
        )
    return found


def choose(found: Sequence[Point], false_positive_rate: float) -> tuple[Point, bool]:
    """The lowest threshold whose false-positive rate is within the target, and whether any is.

    Only thresholds that find a success count. Where none is within the target, the one with the lowest rate. Of
    thresholds that make the same errors the middle one is taken: it is farthest from both kinds.

    Raises:
        ConfigError: no threshold finds any success.
    """
    finding = [point for point in found if point.true_positives]
    if not finding:
        raise ConfigError("no held-out success is found at any threshold; it needs more episodes, or other keys")
    within = [point for point in finding if point.false_positive_rate <= false_positive_rate]
    if not within:
        return min(finding, key=lambda point: (point.false_positive_rate, point.threshold)), False
    first = within[0]
    same = [p for p in within if (p.true_positives, p.false_positives) == (first.true_positives, first.false_positives)]
    return same[(len(same) - 1) // 2], True


def expected_calibration_error(probabilities: Array, labels: Array, bins: int = 10) -> float:
    """Mean gap between what is said and what is, over bins of equal width weighted by their frames (Naeini et al.
    2015, "Obtaining Well Calibrated Probabilities Using Bayesian Binning")."""
    probabilities, labels = np.asarray(probabilities, np.float64), np.asarray(labels, np.float64)
    place = np.minimum((probabilities * bins).astype(int), bins - 1)
    gaps = [abs(float((probabilities - labels)[place == i].sum())) for i in range(bins)]
    return sum(gaps) / len(labels)


def separation(scores: Array, labels: Array) -> float:
    """Chance that a positive scores above a negative, ties counting half (area under the ROC curve)."""
    labels = np.asarray(labels, bool)
    negative = np.sort(np.asarray(scores)[~labels])
    positive = np.asarray(scores)[labels]
    below, up_to = (np.searchsorted(negative, positive, side=side) for side in ("left", "right"))
    return float((below + up_to).sum() / 2.0 / (len(positive) * len(negative)))
