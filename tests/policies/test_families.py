"""What every policy family must do: act, load, learn, resume."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from robolearn.core.errors import ConfigError, ResumeError, SpecError
from robolearn.core.protocols import Learner, Policy
from robolearn.core.types import Batch, TaskSpec
from robolearn.policies import bc, rlpd

from .helpers import ACTION, assert_resumes, batch, learner, one_of, pixel_spec, state_spec

RLPD = rlpd.Config(critics=3, hidden=16, batch=8, utd=3, dropout=0.1, image_channels=(4, 4), image_width=6, shift_pad=1)
BC = bc.Config(hidden=16, batch=8, updates_per_call=3, image_channels=(4, 4), image_width=6, shift_pad=1)
CASES = {
    "rlpd state": (rlpd, RLPD, state_spec()),
    "rlpd pixels": (rlpd, RLPD, pixel_spec()),
    "bc state": (bc, BC, state_spec()),
    "bc pixels": (bc, BC, pixel_spec()),
}
families = pytest.mark.parametrize(("family", "config", "spec"), CASES.values(), ids=CASES.keys())


@families
def test_protocols_and_rates(family: ModuleType, config: Any, spec: TaskSpec) -> None:
    made = learner(family, config, spec)
    assert isinstance(made, Learner)
    assert isinstance(family.build_policy(config, spec, seed=0), Policy)
    assert (made.batch_rows, made.updates_per_call) == (24, 3)
    assert (made.online, made.demo_fraction) == ((True, 0.5) if family is rlpd else (False, 1.0))


@families
def test_actions_stay_in_bounds_and_greedy_ones_repeat(family: ModuleType, config: Any, spec: TaskSpec) -> None:
    made, policy = learner(family, config, spec), family.build_policy(config, spec, seed=0)
    weights = {name: value * 20.0 if name.startswith("actor") else value for name, value in made.snapshot().items()}
    policy.load(weights)
    observation = one_of(spec)
    for explore in (True, False):
        action = policy.act(observation, explore=explore)
        assert action.shape == (ACTION,)
        assert action.dtype == np.float32
        assert np.abs(action).max() < 1.0
    np.testing.assert_array_equal(policy.act(observation, explore=False), policy.act(observation, explore=False))


def test_exploration_follows_its_seed() -> None:
    spec = state_spec()
    a, b, c = (rlpd.build_policy(RLPD, spec, seed=seed) for seed in (1, 1, 2))
    first = [policy.act(one_of(spec), explore=True) for policy in (a, b, c)]
    np.testing.assert_array_equal(first[0], first[1])
    assert np.abs(first[0] - first[2]).max() > 1e-3
    assert np.abs(first[0] - a.act(one_of(spec), explore=True)).max() > 1e-3


@families
def test_policy_acts_as_the_learner_thinks(family: ModuleType, config: Any, spec: TaskSpec) -> None:
    """The numpy forward pass with the snapshot's own normaliser gives the network's action."""
    made, policy = learner(family, config, spec), family.build_policy(config, spec, seed=0)
    made.update(batch(spec, made.batch_rows))
    weights = made.snapshot()
    policy.load(weights)
    observation = one_of(spec)
    keys = sorted(key for key in observation if observation[key].dtype != np.uint8)
    vector = np.concatenate([observation[key] for key in keys])
    x = np.clip((vector - weights["normaliser.mean"]) / weights["normaliser.std"], -10.0, 10.0)
    if made._encoder is not None:
        with torch.no_grad():
            images = {key: torch.from_numpy(observation[key])[None] for key in made._encoder.keys}
            x = np.concatenate([made._encoder(images)[0].numpy(), x])
    h = np.maximum(x @ weights["actor.w0"] + weights["actor.b0"], 0.0)
    h = np.maximum(h @ weights["actor.w1"] + weights["actor.b1"], 0.0)
    raw = h @ weights["actor.w2"] + weights["actor.b2"]
    expected = np.tanh(raw[:ACTION]) if family is rlpd else np.clip(raw, -1.0, 1.0)
    np.testing.assert_allclose(policy.act(observation, explore=False), expected, rtol=1e-4, atol=1e-4)


@families
def test_normaliser_is_floored_and_travels_with_the_weights(family: ModuleType, config: Any, spec: TaskSpec) -> None:
    weights = learner(family, replace(config, std_floor=0.25), spec).snapshot()
    assert weights["normaliser.std"].min() == np.float32(0.25)
    policy = family.build_policy(config, spec, seed=0)
    policy.load(weights)
    before = policy.act(one_of(spec), explore=False)
    policy.load({**weights, "normaliser.mean": weights["normaliser.mean"] + 1.0})
    assert np.abs(before - policy.act(one_of(spec), explore=False)).max() > 1e-4


@families
def test_snapshot_is_a_copy(family: ModuleType, config: Any, spec: TaskSpec) -> None:
    made = learner(family, config, spec)
    policy = family.build_policy(config, spec, seed=0)
    weights = made.snapshot()
    policy.load(weights)
    kept, action = {name: value.copy() for name, value in weights.items()}, policy.act(one_of(spec), explore=False)
    made.update(batch(spec, made.batch_rows))
    for name, value in weights.items():
        np.testing.assert_array_equal(value, kept[name])
    for value in weights.values():
        value += 1.0
    np.testing.assert_array_equal(policy.act(one_of(spec), explore=False), action)
    moved = made.snapshot()
    assert any(np.abs(moved[name] - kept[name]).max() > 0.0 for name in kept if name.startswith("actor"))


@families
def test_resume_is_bit_exact(family: ModuleType, config: Any, spec: TaskSpec) -> None:
    made, other = learner(family, config, spec, seed=1), learner(family, config, spec, seed=2)
    assert_resumes(made, other, lambda seed: batch(spec, made.batch_rows, seed))


@families
def test_restore_names_every_difference(family: ModuleType, config: Any, spec: TaskSpec) -> None:
    made = learner(family, config, spec)
    state = dict(learner(family, replace(config, hidden=12), spec).state())
    before = made.state()
    with pytest.raises(ResumeError, match=r"actor.w1 expected \(16, 16\), got \(12, 12\)"):
        made.restore(state)
    state = dict(before)
    state["extra"] = state.pop("actor.b0")
    with pytest.raises(ResumeError, match=r"missing actor.b0 \(16,\); unexpected extra"):
        made.restore(state)
    for name, value in made.state().items():
        np.testing.assert_array_equal(value, before[name])


@families
def test_policy_refuses_other_weights_and_keeps_its_own(family: ModuleType, config: Any, spec: TaskSpec) -> None:
    policy = family.build_policy(config, spec, seed=0)
    policy.load(learner(family, config, spec).snapshot())
    action = policy.act(one_of(spec), explore=False)
    with pytest.raises(ResumeError, match=r"actor\.w1"):
        policy.load(learner(family, replace(config, hidden=12), spec).snapshot())
    np.testing.assert_array_equal(policy.act(one_of(spec), explore=False), action)


@families
def test_wrong_batch_size_is_refused(family: ModuleType, config: Any, spec: TaskSpec) -> None:
    with pytest.raises(SpecError, match="expected a batch of 24 rows, got 8"):
        learner(family, config, spec).update(batch(spec, 8))


@families
def test_missing_statistics_are_named(family: ModuleType, config: Any, spec: TaskSpec) -> None:
    with pytest.raises(ConfigError, match="'tcp'"):
        family.build_learner(config, spec, seed=0, device="cpu", statistics={"force": (np.zeros(2), np.ones(2))})


@pytest.mark.parametrize(
    ("family", "change"),
    [
        (rlpd, {"target_critics": 9}),
        (rlpd, {"utd": 0}),
        (rlpd, {"gamma": 1.5}),
        (rlpd, {"precision": "fp8"}),
        (bc, {"dropout": 1.0}),
        (bc, {"updates": 0}),
    ],
)
def test_bad_hyperparameters_are_named(family: ModuleType, change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        family.Config(**change)


def fixed_values(config: rlpd.Config, reward: float, discount: float) -> float:
    """Mean of Q at constant rows after many updates."""
    spec = state_spec()
    made = learner(rlpd, config, spec)
    data = batch(spec, made.batch_rows)
    rows = np.ones(made.batch_rows, np.float32)
    data = Batch(data.observation, data.action, reward * rows, discount * rows, data.observation, data.demo)
    for _ in range(80):
        metrics = made.update(data)
    return metrics["q_mean"]


def test_a_terminal_row_does_not_bootstrap_and_a_truncated_one_does() -> None:
    config = rlpd.Config(critics=2, hidden=16, batch=16, utd=8, gamma=0.5, tau=0.1, critic_lr=3e-3, bc_weight=0.0)
    assert fixed_values(config, 1.0, 0.0) == pytest.approx(1.0, abs=0.05)
    assert fixed_values(config, 1.0, 1.0) == pytest.approx(2.0, abs=0.15)  # 1 / (1 - gamma)


def test_targets_use_distinct_critics_and_all_of_them_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = state_spec()
    made = learner(rlpd, replace(RLPD, critics=4, utd=20, batch=4), spec)
    seen: list[tuple[int, ...]] = []
    target = made._target_values

    def watch(mini: Any, subset: Any) -> Any:
        seen.append(tuple(subset.tolist()))
        return target(mini, subset)

    monkeypatch.setattr(made, "_target_values", watch)
    made.update(batch(spec, made.batch_rows))
    assert len(seen) == 20
    assert all(len(set(members)) == 2 for members in seen)
    assert {member for members in seen for member in members} == {0, 1, 2, 3}


def test_cloning_stops_at_its_budget() -> None:
    spec = state_spec()
    made = learner(bc, replace(BC, updates=4), spec)
    for _ in range(2):
        made.update(batch(spec, made.batch_rows))
    assert made.updates == made.total_updates == 4
    weights = made.snapshot()
    made.update(batch(spec, made.batch_rows))
    for name, value in made.snapshot().items():
        np.testing.assert_array_equal(value, weights[name])
