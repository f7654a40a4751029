"""What a base may be, and what is said when it may not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from robolearn.core.errors import ConfigError
from robolearn.core.spec import Array, ArraySpec, Observation
from robolearn.core.symmetry import SignedPermutation, Symmetry
from robolearn.core.types import Base
from robolearn.policies import bc
from robolearn.policies.parts.base import candidates, load_base
from robolearn.policies.parts.stored import with_actions, without

from .helpers import learner, one_of, state_spec

SPEC = state_spec()
CONFIG = bc.Config(hidden=16)


def base() -> Base:
    return Base("bc", CONFIG, learner(bc, CONFIG, SPEC).snapshot())


def test_a_base_acts_as_it_did() -> None:
    made = load_base(base(), SPEC, seed=0)
    policy = bc.build_policy(CONFIG, SPEC, seed=1)
    policy.load(base().weights)
    observation = one_of(SPEC)
    action = made.act(observation, explore=False)
    np.testing.assert_array_equal(action, policy.act(observation, explore=False))
    assert np.abs(action).max() > 0.0
    offers = candidates(made, observation, 3)
    np.testing.assert_array_equal(offers, np.stack([action] * 3))
    assert offers.dtype == np.float32


def test_a_base_with_candidates_is_asked_for_them() -> None:
    class Many:
        def candidates(self, observation: Observation, count: int) -> Array:
            return np.arange(2.0 * count).reshape(count, 2)

    np.testing.assert_array_equal(candidates(Many(), {}, 3), [[0, 1], [2, 3], [4, 5]])  # type: ignore[arg-type]


def test_no_base_is_an_error_with_a_remedy() -> None:
    with pytest.raises(ConfigError, match=r"residual starts from another policy.*--base RUN"):
        load_base(None, SPEC, seed=0, who="residual")


def test_a_base_of_another_task_is_refused() -> None:
    other = replace(SPEC, observation={"tcp": SPEC.observation["tcp"]})
    with pytest.raises(ConfigError, match=r"does not fit task 'test'.*expected \(5, 16\), got \(7, 16\)"):
        load_base(base(), other, seed=0)


def test_a_base_that_needs_a_base_is_refused() -> None:
    with pytest.raises(ConfigError, match="'residual', which needs a base itself"):
        load_base(replace(base(), algo="residual"), SPEC, seed=0)


def test_added_actions_are_changed_by_symmetries_like_actions() -> None:
    turn, other = SignedPermutation((1, 2, 0), (1, -1, 1)), SignedPermutation((1, 0), (-1, 1))
    spec = replace(SPEC, symmetries=(Symmetry({"force": other}, turn),))
    stored = with_actions(spec, "offers", 2)
    assert stored.observation["offers"] == ArraySpec(
        "offers", (6,), "float32", stored.observation["offers"].unit, -1.0, 1.0
    )
    change = stored.symmetries[0].observation
    actions = np.arange(1.0, 7.0)
    np.testing.assert_array_equal(change["offers"](actions), np.concatenate([turn(actions[:3]), turn(actions[3:])]))
    assert change["force"] == other
    assert without(stored, "offers") == spec
    assert without(spec, "offers") == spec
