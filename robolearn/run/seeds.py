"""Independent random streams: every episode of every role has its own, whatever ran before."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """Who draws. Training never shares an episode with evaluation or demonstrations."""

    TRAIN = 1
    DEMO = 2
    EVAL = 3
    CURVE = 4
    LEARNER = 5
    ROLLOUT = 6
    HUMAN = 7


def stream(seed: int, who: Stream, *key: int) -> np.random.Generator:
    """A generator for (seed, role, key...), independent of all others (numpy SeedSequence spawn keys)."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(int(who), *key)))
