"""Statistics as LeRobot keeps them: per episode and feature, and merged over episodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from robolearn.core.spec import Array

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
_FRAMES, _PIXELS = 32, 4096

Stats = dict[str, Array]


def number_stats(values: Array) -> Stats:
    """Statistics over frames of (T, *shape) numbers; arrays of ``shape``, (1,) for scalars."""
    numbers = values.astype(np.float64)
    return _over_first_axis(numbers[:, None] if numbers.ndim == 1 else numbers) | {"count": np.array([len(values)])}


def image_stats(frames: Array) -> Stats:
    """Statistics per channel of (T, H, W, C) uint8, scaled to [0, 1]: arrays (C, 1, 1).

    Taken from at most 32 frames and about 4,096 pixels of each.
    """
    chosen = frames[np.unique(np.linspace(0, len(frames) - 1, min(len(frames), _FRAMES)).astype(int))]
    step = max(1, int(np.sqrt(chosen.shape[1] * chosen.shape[2] / _PIXELS)))
    pixels = chosen[:, ::step, ::step].reshape(-1, chosen.shape[-1]) / 255.0
    per_channel = {k: v.reshape(-1, 1, 1) for k, v in _over_first_axis(pixels).items()}
    return per_channel | {"count": np.array([len(chosen)])}


def merge(left: Stats | None, right: Stats) -> Stats:
    """Statistics of both together: exact, but quantiles are weighted means (as LeRobot merges them)."""
    if left is None:
        return right
    n, m = int(left["count"][0]), int(right["count"][0])
    share = m / (n + m)
    mean = left["mean"] + (right["mean"] - left["mean"]) * share
    variance = (left["std"] ** 2 + (left["mean"] - mean) ** 2) * (1 - share)
    variance += (right["std"] ** 2 + (right["mean"] - mean) ** 2) * share
    return {
        "min": np.minimum(left["min"], right["min"]),
        "max": np.maximum(left["max"], right["max"]),
        "mean": mean,
        "std": np.sqrt(variance),
        "count": np.array([n + m]),
        **{q: left[q] * (1 - share) + right[q] * share for q in QUANTILES},
    }


def to_json(stats: Mapping[str, Stats]) -> dict[str, Any]:
    """Nested lists, as ``stats.json`` holds them."""
    return {key: {name: value.tolist() for name, value in entry.items()} for key, entry in stats.items()}


def _over_first_axis(values: Array) -> Stats:
    quantiles = np.quantile(values, list(QUANTILES.values()), axis=0)
    return {
        "min": values.min(0),
        "max": values.max(0),
        "mean": values.mean(0),
        "std": values.std(0),
        **dict(zip(QUANTILES, quantiles, strict=True)),
    }
