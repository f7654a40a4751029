"""Rollouts: what one version of the weights did, in the order in which it happened, for learners on policy."""

from __future__ import annotations

from typing import Any

import numpy as np

from robolearn.buffer.filters import Filter
from robolearn.buffer.hot import HotTier
from robolearn.buffer.memory import Control, Positions
from robolearn.core.spec import Array
from robolearn.core.types import Rollouts

OWN = Filter.parse("!demo,source!=script,source!=human")
"""Steps in which the policy's own action was sent."""


def rollouts(hot: HotTier, version: int) -> Rollouts:
    """All steps that weights of the newest version took themselves; none for a version that others followed.

    Episodes need not be complete, nor made by these weights alone: a piece ends where another version, a person or the
    end of what is stored begins. Images stay where they are, only low-dimensional keys are given.
    """
    positions = _positions(hot, version)
    rows: Any = hot.memory.packed[: int(hot.memory.control[Control.ROWS])].view(hot.schema.sample)[:, 0]
    owner = hot.memory.owner[positions]
    goes_on = (np.diff(positions) == 1) & (owner[1:] == owner[:-1])

    def at(name: str, where: Positions) -> Array:
        return np.array(rows[name][where])

    return Rollouts(
        observation={key: at(f"observation/{key}", positions - 1) for key in hot.schema.low_dim},
        next_observation={key: at(f"observation/{key}", positions) for key in hot.schema.low_dim},
        action=at("action", positions),
        reward=at("reward", positions),
        discount=at("discount", positions),
        last=~np.append(goes_on, np.zeros(min(len(positions), 1), bool)),
    )


def _positions(hot: HotTier, version: int) -> Positions:
    """(T,) where the rows lie that the steps led to; an episode's follow each other."""
    found = hot.view(OWN, max_version_lag=0).positions
    positions: Positions = np.sort(found[hot.memory.policy[found] == version])
    return positions
