"""Calibration and thresholds, against numbers computed in another way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from robolearn.core.errors import ConfigError
from robolearn.rewards.parts import calibrate
from robolearn.rewards.parts.calibrate import Point


def drawn(seed: int, count: int = 400) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = rng.random(count) < 0.2
    return 30.0 + 5.0 * rng.normal(size=count) + 6.0 * label, label


@pytest.mark.parametrize("seed", range(3))
def test_platt_finds_the_most_likely_line(seed: int) -> None:
    logits, label = drawn(seed)
    n, m = label.sum(), (~label).sum()
    target = np.where(label, (n + 1) / (n + 2), 1 / (m + 2))

    def loss(w: np.ndarray) -> float:
        z = w[0] * (logits - 30.0) + w[1]
        return float(np.sum(np.logaddexp(0.0, z) - target * z))

    best = minimize(loss, np.zeros(2), tol=1e-12).x
    found = calibrate.platt(logits, label)
    assert found.scale == pytest.approx(best[0], rel=1e-3)
    assert found.offset == pytest.approx(best[1] - 30.0 * best[0], rel=1e-3)
    assert found(logits).mean() == pytest.approx(target.mean(), rel=1e-3)  # the intercept's condition


def test_calibration_undoes_a_scale_and_a_prior() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(-1.0, 2.0, 20_000)
    label = rng.random(20_000) < 1.0 / (1.0 + np.exp(-z))
    found = calibrate.platt(4.0 * z + 3.0, label)
    assert found.scale == pytest.approx(0.25, rel=0.05)
    assert found.offset == pytest.approx(-0.75, rel=0.1)
    before = calibrate.expected_calibration_error(calibrate.Calibration()(4.0 * z + 3.0), label)
    assert calibrate.expected_calibration_error(found(4.0 * z + 3.0), label) < 0.02 < before


def test_separable_logits_give_finite_probabilities() -> None:
    label = np.arange(40) >= 30
    found = calibrate.platt(np.where(label, 50.0, -50.0), label)
    probabilities = found(np.array([-50.0, 50.0]))
    assert probabilities == pytest.approx([1.0 / 32.0, 11.0 / 12.0], rel=1e-3)


def test_logits_that_mean_the_opposite_are_refused() -> None:
    logits, label = drawn(0)
    with pytest.raises(ConfigError, match="does not tell held-out successes from other frames"):
        calibrate.platt(-logits, label)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0.0, 1.0), st.booleans()), min_size=1, max_size=60))
def test_points_count_every_frame_once(frames: list[tuple[float, bool]]) -> None:
    probabilities, label = np.array([p for p, _ in frames]), np.array([s for _, s in frames])
    for point in calibrate.points(probabilities, label):
        counted = {(True, True): 0, (True, False): 0, (False, False): 0, (False, True): 0}
        for p, success in frames:
            counted[bool(p > point.threshold), success] += 1
        assert list(counted.values()) == [
            point.true_positives, point.false_positives, point.true_negatives, point.false_negatives,
        ]  # fmt: skip


def test_the_lowest_threshold_within_the_target_is_chosen_and_the_middle_of_equals() -> None:
    found = [
        Point(0.2, 10, 5, 95, 0), Point(0.4, 9, 1, 99, 1), Point(0.5, 9, 1, 99, 1), Point(0.6, 9, 1, 99, 1),
        Point(0.9, 2, 0, 100, 8), Point(0.95, 0, 0, 100, 10),
    ]  # fmt: skip
    assert calibrate.choose(found, 0.05) == (found[0], True)
    assert calibrate.choose(found, 0.01) == (found[2], True)
    assert calibrate.choose(found, 0.001) == (found[4], True)
    assert calibrate.choose(found[:4], 0.001) == (found[1], False)
    with pytest.raises(ConfigError, match="no held-out success is found at any threshold"):
        calibrate.choose(found[5:], 0.5)


def test_separation_is_the_share_of_pairs_in_order() -> None:
    rng = np.random.default_rng(1)
    scores, label = rng.integers(0, 8, 60).astype(float), rng.random(60) < 0.4
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[label] for n in scores[~label]]
    assert calibrate.separation(scores, label) == pytest.approx(np.mean(pairs))
