"""Statistics against definitions and published numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robolearn.run.stats import moving_average, percentiles, wilson


def test_wilson_as_published() -> None:
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3
    for successes, n, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)):
        assert wilson(successes, n, z=1.959964) == pytest.approx((low, high), abs=1e-4)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 4.0))
def test_wilson_bounds_solve_the_score_equation(counts: tuple[int, int], z: float) -> None:
    successes, n = counts
    low, high = wilson(successes, n, z)
    p = successes / n
    assert 0.0 <= low <= p <= high <= 1.0
    for bound in (low, high):
        if 0.0 < bound < 1.0:
            assert abs(p - bound) == pytest.approx(z * math.sqrt(bound * (1 - bound) / n), rel=1e-6, abs=1e-9)


def test_wilson_is_symmetric_and_knows_nothing_of_nothing() -> None:
    low, high = wilson(3, 10)
    assert wilson(7, 10) == pytest.approx((1 - high, 1 - low))
    assert wilson(0, 0) == (0.0, 1.0)
    for successes, n in ((3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="expected 0 <= successes <= n"):
            wilson(successes, n)


@given(st.lists(st.floats(-1e3, 1e3), max_size=30), st.integers(1, 12))
def test_a_moving_average_is_the_mean_of_the_last_values(values: list[float], window: int) -> None:
    expected = [np.mean(values[max(0, i + 1 - window) : i + 1]) for i in range(len(values))]
    np.testing.assert_allclose(moving_average(values, window), expected, atol=1e-9)


def test_a_window_holds_at_least_one_value() -> None:
    with pytest.raises(ValueError, match="window"):
        moving_average([1.0], 0)


def test_percentiles() -> None:
    assert percentiles(range(101)) == {"p50": 50.0, "p90": 90.0, "p99": 99.0}
    assert percentiles([]) == {}
