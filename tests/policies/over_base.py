"""For the tests of policies that improve on a frozen one: bases, rows as they are stored, what is passed on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from robolearn.core.types import Base, Batch, TaskSpec
from robolearn.policies import bc

from .helpers import batch, learner

CLONE = bc.Config(hidden=16, image_channels=(4, 4), image_width=6)


def some_base(spec: TaskSpec) -> Base:
    """Some policy of family ``bc``, configured as ``CLONE``, far from zero."""
    weights = learner(bc, CLONE, spec).snapshot()
    return Base("bc", CLONE, {k: v * 3.0 if k.startswith("actor.w") else v for k, v in weights.items()})


def rows_over_base(stored: TaskSpec, key: str, rows: int, seed: int = 0) -> Batch:
    """A batch of a task as it is stored, with a base's actions, at ``key``, within the limits."""
    data = batch(stored, rows, seed)
    before, after = ({**o, key: np.tanh(o[key]).astype(np.float32)} for o in (data.observation, data.next_observation))
    return Batch(before, data.action, data.reward, data.discount, after, data.demo)


class Planning:
    """As much of a base that plans as shows how it does, and that it has ended."""

    closed = False

    def timing(self) -> dict[str, float]:
        return {"plan_p50_ms": 3.0}

    def close(self) -> None:
        self.closed = True


def assert_its_base_is_known_and_ends_with_it(over: Callable[[Any], Any]) -> None:
    """How the base plans can be read from the policy that ``over`` puts over it; both end together."""
    base = Planning()
    policy = over(base)
    assert policy.timing() == {"plan_p50_ms": 3.0}
    policy.close()
    assert base.closed
    plain = over(object())  # a base that plans nothing
    assert plain.timing() == {}
    plain.close()
