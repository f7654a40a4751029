"""What every policy family must do, found by name: those of the tree and those of other distributions beside it.

Families are built with the configuration that a run takes, on a small task without images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from robolearn.core import plugins
from robolearn.core.errors import ResumeError
from robolearn.core.protocols import Annotator, Learner, Policy
from robolearn.core.spec import Array, ArraySpec, validate_all
from robolearn.core.types import Base, Batch, ChunkBatch, Rollouts, TaskSpec
from robolearn.policies import bc
from robolearn.run.config import TrainConfig
from robolearn.run.limiter import limiter_of

from .helpers import batch, observations, one_of, state_spec, statistics

NAMES = plugins.names("policy")
families = pytest.mark.parametrize("name", NAMES)
SPEC = state_spec()
OTHER = TaskSpec("other", {"tcp": ArraySpec("tcp", (4,))}, SPEC.action, 20, 10.0)
LARGEST = 10_000_000_000
"""Rows of one update call that no machine keeps."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Family:
    """A family as a run uses it."""

    def __init__(self, name: str, spec: TaskSpec = SPEC) -> None:
        self.module: ModuleType = plugins.load("policy", name)
        self.config: Any = self.module.Config()
        if hasattr(self.config, "actor_after"):  # one update has to show in what is done
            self.config = dataclasses.replace(self.config, actor_after=0)
        self.spec = spec
        stored = getattr(self.module, "stored", None)
        self.stored: TaskSpec = spec if stored is None else stored(self.config, spec)
        self.extra: dict[str, Any] = {}
        if getattr(self.module, "BASE", ""):
            own = bc.Config(hidden=8)
            made = bc.build_learner(own, spec, seed=0, statistics=statistics(spec))
            self.extra["base"] = Base("bc", own, made.snapshot()) if self.module.BASE == "wanted" else None

    def policy(self, seed: int = 0) -> Policy:
        made: Policy = self.module.build_policy(self.config, self.spec, seed=seed, device="cpu", **self.extra)
        return made

    def learner(self, seed: int = 0) -> Learner:
        known = statistics(self.stored)
        made: Learner = self.module.build_learner(
            self.config, self.stored, seed=seed, device="cpu", statistics=known, **self.extra
        )
        return made

    def batch(self, made: Learner, seed: int = 0) -> Batch | ChunkBatch | Rollouts:
        """Random rows as the replay gives them."""
        if getattr(made, "on_policy", 0):
            rows = batch(self.stored, made.batch_rows, seed)
            ends = np.arange(made.batch_rows) % 20 == 19
            ends |= rows.discount == 0.0
            return Rollouts(rows.observation, rows.next_observation, rows.action, rows.reward, rows.discount, ends)
        if not made.chunk:
            return batch(self.stored, made.batch_rows, seed)
        rng, rows = np.random.default_rng(seed), made.batch_rows
        flat = observations(self.stored, rows * made.history, rng)
        demo = rng.random((rows, made.chunk)) < 0.7
        demo[:, 0] = True
        return ChunkBatch(
            {key: value.reshape(rows, made.history, *value.shape[1:]) for key, value in flat.items()},
            rng.uniform(-1.0, 1.0, (rows, made.chunk, SPEC.action.size)).astype(np.float32),
            np.zeros((rows, made.history), bool),
            np.zeros((rows, made.chunk), bool),
            demo[:, 0],
            demo,
        )


def acted(policy: Policy, spec: TaskSpec, *, explore: bool, steps: int = 6, seed: int = 0) -> Array:
    """(steps, A) actions of an episode of random observations, each of them annotated as a run does."""
    policy.reset()
    seen = observations(spec, steps, np.random.default_rng(seed))
    found = []
    for t in range(steps):
        observation = {key: value[t] for key, value in seen.items()}
        if isinstance(policy, Annotator):
            observation = {**observation, **policy.annotate(observation)}
        found.append(policy.act(observation, explore=explore))
    return np.array(found)


@families
def test_the_module_exports_what_a_run_asks_for(name: str) -> None:
    family = Family(name)
    assert family.module.Config.__dataclass_params__.frozen
    assert isinstance(family.module.ONLINE, bool)
    assert getattr(family.module, "BASE", "") in ("", "wanted", "optional")
    assert isinstance(getattr(family.module, "HUMAN", False), bool)
    assert getattr(family.module, "REWARD", "task") in plugins.names("reward")
    if not family.module.ONLINE:
        assert family.config.updates > 0, "a run ends after so many"
    assert int(getattr(family.config, "pretrain", 0)) >= 0


@families
def test_the_learner_can_keep_up_with_its_robot(name: str) -> None:
    family = Family(name)
    made = family.learner()
    assert isinstance(made, Learner)
    assert made.online == family.module.ONLINE
    assert 0 < made.batch_rows < LARGEST
    assert made.updates_per_call >= 1
    assert 0.0 <= made.demo_fraction <= 1.0
    assert made.horizon >= 1
    assert 0.0 < made.gamma <= 1.0
    assert made.history >= 1
    assert made.chunk >= 0
    weights = [weight for _, weight in getattr(made, "mixture", None) or ()]
    assert all(weight >= 0.0 for weight in weights)
    if made.online:
        limiter_of(TrainConfig(policy=family.config)).check(made.updates_per_call)


@families
def test_actions_are_normalised_and_the_same_for_the_same_seed(name: str) -> None:
    family = Family(name)
    weights = family.learner().snapshot()
    policy, twin = family.policy(seed=3), family.policy(seed=3)
    for made in (policy, twin):
        made.load(weights)
    for explore in (True, False):
        actions = acted(policy, SPEC, explore=explore)
        np.testing.assert_array_equal(actions, acted(twin, SPEC, explore=explore))
        assert actions.shape == (6, SPEC.action.size)
        assert actions.dtype == np.float32
        assert np.isfinite(actions).all()
        assert np.abs(actions).max() <= 1.0


@families
def test_a_policy_says_no_more_and_no_less_than_is_stored(name: str) -> None:
    family = Family(name)
    policy = family.policy()
    observation = one_of(SPEC)
    added = policy.annotate(observation) if isinstance(policy, Annotator) else {}
    validate_all(family.stored.observation, {**observation, **added})


@families
def test_learning_changes_what_is_done_but_not_what_was_published(name: str) -> None:
    family = Family(name)
    made, policy, twin = family.learner(), family.policy(), family.policy()
    before = made.snapshot()
    kept = {key: value.copy() for key, value in before.items()}
    metrics = made.update(family.batch(made))
    assert all(isinstance(value, float) for value in metrics.values())
    for key, value in before.items():
        np.testing.assert_array_equal(value, kept[key], err_msg=key)
    after = made.snapshot()
    assert any(not np.array_equal(after[key], kept[key]) for key in kept)
    policy.load(after)
    twin.load({key: value.copy() for key, value in after.items()})
    for value in after.values():
        value[...] = 0
    np.testing.assert_array_equal(acted(policy, SPEC, explore=False), acted(twin, SPEC, explore=False))


@families
def test_it_goes_on_from_where_it_was_saved(name: str) -> None:
    family = Family(name)
    first, second = family.learner(seed=1), family.learner(seed=2)
    first.update(family.batch(first, seed=1))
    second.restore(load(save(dict(first.state()))))
    for made in (first, second):
        made.update(family.batch(made, seed=2))
    theirs = second.state()
    for key, value in first.state().items():
        np.testing.assert_array_equal(value, theirs[key], err_msg=key)


@families
def test_weights_and_state_of_another_task_are_refused(name: str) -> None:
    family, other = Family(name), Family(name, OTHER)
    made, theirs = family.learner(), other.learner()
    with pytest.raises(ResumeError):
        family.policy().load(theirs.snapshot())
    with pytest.raises(ResumeError):
        made.restore(theirs.state())
