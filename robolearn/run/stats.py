"""Small statistics that results are read with."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def wilson(successes: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927, JASA 22:209, eq. for p in closed form).

        centre = (p + z^2 / 2n) / (1 + z^2 / n)
        half   = z / (1 + z^2 / n) * sqrt(p (1 - p) / n + z^2 / 4n^2),    p = successes / n

    Unlike p +- z sqrt(p(1-p)/n) it stays within [0, 1] and says something sensible at 0 and n successes.

    Args:
        z: normal quantile; 1.96 gives 95 %.

    Returns:
        (low, high); (0, 1) when nothing was tried.

    Raises:
        ValueError: not 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"expected 0 <= successes <= n, got {successes} of {n}")
    if n == 0:
        return 0.0, 1.0
    p, scale = successes / n, 1.0 + z * z / n
    centre = (p + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def moving_average(values: Sequence[float] | NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """(N,) mean of the last ``window`` values at each place; of as many as there are before that.

    Raises:
        ValueError: window < 1.
    """
    if window < 1:
        raise ValueError(f"window: expected at least 1, got {window}")
    array = np.asarray(values, dtype=np.float64)
    sums = np.concatenate([[0.0], np.cumsum(array)])
    ends = np.arange(1, len(array) + 1)
    starts = np.maximum(ends - window, 0)
    means: NDArray[np.float64] = (sums[ends] - sums[starts]) / (ends - starts)
    return means


def percentiles(values: Sequence[float], at: Sequence[float] = (50.0, 90.0, 99.0)) -> dict[str, float]:
    """``{"p50": ..., ...}`` with linear interpolation; empty without values."""
    if not len(values):
        return {}
    found = np.percentile(np.asarray(values, dtype=np.float64), at)
    return {f"p{q:g}": float(value) for q, value in zip(at, found, strict=True)}
