"""Residual RL: what a correction of a frozen base must keep, compute and learn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from robolearn.core.errors import ConfigError
from robolearn.core.protocols import Annotator, Learner, Policy
from robolearn.core.spec import Array, Observation
from robolearn.core.symmetry import SignedPermutation, Symmetry
from robolearn.core.types import Batch, TaskSpec
from robolearn.policies import bc, residual, rlpd
from robolearn.policies.parts.acting import NetworkPolicy
from robolearn.policies.residual import PROPOSAL, ResidualPolicy, stored

from .based_toy import ENV, NORMAL, biased_base, learn, success
from .helpers import ACTION, assert_resumes, each, learner, pixel_spec, state_spec
from .over_base import CLONE, assert_its_base_is_known_and_ends_with_it, rows_over_base, some_base

CONFIG = residual.Config(
    actor_after=0,
    critics=3,
    hidden=16,
    batch=8,
    utd=3,
    image_channels=(4, 4),
    image_width=6,
    shift_pad=1,
)
SPECS = {"state": state_spec(), "pixels": pixel_spec()}
both = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())


def rows_of(config: residual.Config, spec: TaskSpec, rows: int, seed: int = 0) -> Batch:
    return rows_over_base(stored(config, spec), PROPOSAL, rows, seed)


def policy_and_base(config: residual.Config, spec: TaskSpec) -> tuple[ResidualPolicy, Policy]:
    policy = residual.build_policy(config, spec, seed=0, base=some_base(spec))
    alone = bc.build_policy(CLONE, spec, seed=0)
    alone.load(some_base(spec).weights)
    return policy, alone


def made(config: residual.Config, spec: TaskSpec, seed: int = 0) -> rlpd.RlpdLearner:
    return learner(residual, config, stored(config, spec), seed)


@both
def test_the_first_greedy_action_is_the_bases_exactly(spec: TaskSpec) -> None:
    policy, alone = policy_and_base(CONFIG, spec)
    assert isinstance(policy, Policy)
    assert isinstance(policy, Annotator)
    first, again = made(CONFIG, spec), made(CONFIG, spec, seed=1)
    again.restore(load(save(dict(first.state()))))
    for weights in (first.snapshot(), again.snapshot()):
        policy.load(weights)
        for observation in each(spec, 6):
            noted = {**observation, **policy.annotate(observation)}
            expected = alone.act(observation, explore=False)
            assert np.abs(expected).max() > 0.05
            np.testing.assert_array_equal(policy.act(noted, explore=False), expected)
            assert not np.array_equal(policy.act(noted, explore=True), expected)
    first.update(rows_of(CONFIG, spec, first.batch_rows))
    policy.load(first.snapshot())
    noted = {**observation, **policy.annotate(observation)}
    assert not np.array_equal(policy.act(noted, explore=False), expected)


def test_with_scale_zero_it_stays_with_its_base() -> None:
    config, spec = replace(CONFIG, scale=0.0), state_spec()
    policy, alone = policy_and_base(config, spec)
    one = made(config, spec)
    for seed in range(3):
        one.update(rows_of(config, spec, one.batch_rows, seed))
    policy.load(one.snapshot())
    for observation in each(spec, 10):
        noted = {**observation, **policy.annotate(observation)}
        for explore in (False, True):
            np.testing.assert_array_equal(policy.act(noted, explore=explore), alone.act(observation, explore=False))


def test_the_base_is_asked_by_annotate_alone() -> None:
    class Counted:
        asked = resets = 0

        def reset(self) -> None:
            self.resets += 1

        def act(self, observation: Observation, *, explore: bool) -> Array:
            assert not explore
            self.asked += 1
            return np.full(ACTION, 2.0)

        def load(self, weights: Any) -> None:
            raise AssertionError("the base is frozen")

    base, spec = Counted(), state_spec()
    full = stored(CONFIG, spec)
    shape = replace(rlpd.actor_shape(CONFIG, spec), proposal=PROPOSAL)
    policy = ResidualPolicy(CONFIG, base, NetworkPolicy(shape, spec, seed=0))
    policy.load(made(CONFIG, spec).snapshot())
    policy.reset()
    observation = each(spec, 1)[0]
    noted = {**observation, **policy.annotate(observation)}
    for explore in (True, False, True):
        assert np.abs(policy.act(noted, explore=explore)).max() <= 1.0
    assert (base.asked, base.resets) == (1, 1)
    full.observation[PROPOSAL].validate(noted[PROPOSAL])


def test_views_turn_the_proposal_with_the_action() -> None:
    turn, swap = SignedPermutation((1, 2, 0), (1, -1, 1)), SignedPermutation((1, 0), (-1, 1))
    spec = replace(state_spec(), symmetries=(Symmetry({"force": swap}, turn),))
    full = stored(CONFIG, spec)
    assert stored(CONFIG, full) is full
    one = made(CONFIG, spec)
    data = rows_of(CONFIG, spec, one.batch_rows)
    data = Batch({**data.observation, PROPOSAL: data.action}, *(getattr(data, k) for k in ("action", "reward")),
                 data.discount, {**data.next_observation, PROPOSAL: -data.action}, data.demo)  # fmt: skip
    rows = one._read(data)
    torch.testing.assert_close(rows.proposals[:, 0], rows.action)
    torch.testing.assert_close(rows.next_proposals[:, 0], -rows.action)
    assert rows.vector.shape[1] == one._layout.size == sum(k.size for k in spec.observation.values())
    turned = turn(data.action)
    seen = (rows.action.numpy() == turned).all(1)
    assert 0 < seen.sum() < len(seen)


def test_a_residual_of_nothing_that_reaches_everywhere_is_rlpd() -> None:
    """With a base that proposes 0 and scale 1, an update is RLPD's but for the actor's inputs that are 0."""
    spec = state_spec()
    config = replace(CONFIG, scale=1.0, dropout=0.0, spread=0.0)
    plain_config = rlpd.Config(**{name: getattr(config, name) for name in rlpd.Config.__dataclass_fields__})
    ours, plain = made(config, spec), learner(rlpd, plain_config, spec)
    state, theirs = dict(ours.state()), dict(plain.state())
    for name, value in theirs.items():
        if state[name].shape == value.shape and "adam" not in name:
            state[name] = value
        elif name.endswith("actor.w0"):  # the proposal comes last
            state[name] = np.zeros_like(state[name])
            state[name][..., :-ACTION, :] = value
    ours.restore(state)
    for seed in range(3):
        data = rows_of(config, spec, ours.batch_rows, seed)
        for observation in (data.observation, data.next_observation):
            observation[PROPOSAL][:] = 0.0
        without = [{k: v for k, v in o.items() if k != PROPOSAL} for o in (data.observation, data.next_observation)]
        expected = plain.update(Batch(without[0], data.action, data.reward, data.discount, without[1], data.demo))
        assert ours.update(data) == pytest.approx(expected, rel=1e-3, abs=1e-5)
    ends, theirs = ours.state(), plain.state()
    np.testing.assert_allclose(ends["critic.w0"], theirs["critic.w0"], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(ends["actor.w0"][:-ACTION], theirs["actor.w0"], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(ends["actor.w2"], theirs["actor.w2"], rtol=1e-3, atol=1e-4)


def test_targets_use_the_proposal_of_the_next_row() -> None:
    spec = state_spec()
    one = made(replace(CONFIG, symmetry=False, init_log_std=-15.0), spec)
    data = rows_of(CONFIG, spec, one.batch_rows)
    mini = next(one._minibatches(one._read(data), one._following))
    found = mini.next_inputs[:, -ACTION:].numpy()
    np.testing.assert_allclose(found, data.next_observation[PROPOSAL][: len(found)], atol=1e-4)
    assert np.abs(found - data.observation[PROPOSAL][: len(found)]).max() > 0.1


@both
def test_resume_is_bit_exact(spec: TaskSpec) -> None:
    one, other = made(CONFIG, spec, seed=1), made(CONFIG, spec, seed=2)
    assert isinstance(one, Learner)
    assert_resumes(one, other, lambda seed: rows_of(CONFIG, spec, one.batch_rows, seed))


def test_the_actor_may_wait_for_the_critics() -> None:
    config, spec = replace(CONFIG, actor_after=3, actor_every=2), state_spec()
    one, other = made(config, spec), made(config, spec, seed=1)

    def moved(call: int) -> set[str]:
        before, _ = one.state(), one.update(rows_of(config, spec, one.batch_rows, call))
        return {
            name.partition(".")[0] for name, value in one.state().items() if not np.array_equal(value, before[name])
        }

    for call in range(2):
        assert moved(call) == {"critic", "target", "critic_adam", "rng", "waited"}
    other.restore(load(save(dict(one.state()))))
    for call in range(2, 5):
        data = rows_of(config, spec, one.batch_rows, call)
        assert one.update(data) == other.update(data)
    assert {"actor", "average", "log_temperature"} < moved(5)
    assert int(one.state()["actor_adam.step"][0]) == 3 * 2  # after the second of three critic updates, and the last


def test_bad_settings_are_named() -> None:
    with pytest.raises(ConfigError, match=r"residual\.scale is 3"):
        residual.Config(scale=3.0)
    with pytest.raises(ConfigError, match=r"residual\.utd is 0"):
        residual.Config(utd=0)
    with pytest.raises(ConfigError, match=r"residual\.spread is -1"):
        residual.Config(spread=-1.0)
    with pytest.raises(ConfigError, match="--base RUN"):
        residual.build_policy(CONFIG, state_spec(), seed=0)


def test_it_learns_what_neither_its_base_nor_noise_can() -> None:
    config = residual.Config(
        actor_after=0, scale=1.2, hidden=32, batch=64, utd=8, critics=2, n_step=1, noise_scale=(1.0, 1.0)
    )
    alone = bc.build_policy(biased_base().config, ENV.spec, seed=0)
    alone.load(biased_base().weights)
    untrained = residual.build_policy(config, ENV.spec, seed=0, base=biased_base())
    fresh = residual.build_learner(config, stored(config, ENV.spec), seed=0, statistics=NORMAL)
    untrained.load(fresh.snapshot())
    start = success(alone, 99, 60)
    assert success(untrained, 99, 60) == start < 0.3
    assert success(untrained, 99, 60, explore=True) < 0.3
    policy, _, _ = learn(residual, config, 0, 1200)
    assert success(policy, 99, 60) > 0.6


def test_how_its_base_plans_can_be_known_and_ends_with_it() -> None:
    network = policy_and_base(CONFIG, state_spec())[0]._network
    assert_its_base_is_known_and_ends_with_it(lambda base: ResidualPolicy(CONFIG, base, network))


@both
def test_the_actor_sees_what_the_base_proposes_and_critics_do_not(spec: TaskSpec) -> None:
    policy, _ = policy_and_base(CONFIG, spec)
    trained = made(CONFIG, spec)
    for seed in range(2):
        trained.update(rows_of(CONFIG, spec, trained.batch_rows, seed))
    policy.load(trained.snapshot())
    (observation,) = each(spec, 1)
    low, high = ({**observation, PROPOSAL: np.full(ACTION, value, np.float32)} for value in (-0.2, 0.2))
    difference = policy.act(high, explore=False) - policy.act(low, explore=False)
    assert not np.allclose(difference, 0.4, atol=1e-5)  # not the same correction of both
    data = rows_of(CONFIG, spec, trained.batch_rows)
    rows = trained._read(data)
    seen = trained._seen(rows.vector, trained._start(rows.proposals))
    np.testing.assert_array_equal(seen[:, -ACTION:], rows.proposals[:, 0])
    critics = trained.state()["critic.w0"].shape[1]
    assert critics == trained.state()["actor.w0"].shape[0]  # features and A: the action here, the proposal there
