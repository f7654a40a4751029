"""EXPO: the rule that chooses, against a brute-force reference; the edit's loss; what stays with the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from robolearn.core.errors import ConfigError, ResumeError
from robolearn.core.protocols import Annotator, Learner, Policy
from robolearn.core.spec import Array, Observation
from robolearn.core.symmetry import SignedPermutation, Symmetry
from robolearn.core.types import Batch, TaskSpec
from robolearn.policies import expo
from robolearn.policies.expo import CANDIDATES, ExpoLearner, ExpoPolicy, stored
from robolearn.policies.parts import mlp, tanh_normal
from robolearn.policies.parts.observation import ObservationLayout

from .based_toy import ENV, NORMAL, biased_base, learn, success
from .helpers import ACTION, assert_resumes, learner, one_of, pixel_spec, state_spec
from .over_base import assert_its_base_is_known_and_ends_with_it, rows_over_base, some_base

COUNT = 3
CONFIG = expo.Config(
    actor_after=0,
    critics=4,
    hidden=16,
    batch=8,
    utd=3,
    candidates=COUNT,
    beta=0.4,
    image_channels=(4, 4),
    image_width=6,
    shift_pad=1,
)
SPEC = state_spec()
both = pytest.mark.parametrize("spec", [SPEC, pixel_spec()], ids=["state", "pixels"])


class Many:
    """A base with several ideas; it counts what it is asked."""

    def __init__(self) -> None:
        self.asked = self.resets = 0
        self.rng = np.random.default_rng(0)

    def reset(self) -> None:
        self.resets += 1

    def act(self, observation: Observation, *, explore: bool) -> Array:
        raise AssertionError("a base with candidates is asked for them")

    def candidates(self, observation: Observation, count: int) -> Array:
        self.asked += 1
        return self.rng.uniform(-1.0, 1.0, (count, ACTION))

    def load(self, weights: Any) -> None:
        raise AssertionError("the base is frozen")


def made(config: expo.Config, spec: TaskSpec, seed: int = 0) -> ExpoLearner:
    found: ExpoLearner = learner(expo, config, stored(config, spec), seed)
    return found


def rows_of(config: expo.Config, spec: TaskSpec, rows: int, seed: int = 0) -> Batch:
    return rows_over_base(stored(config, spec), CANDIDATES, rows, seed)


def trained(config: expo.Config, spec: TaskSpec) -> ExpoLearner:
    one = made(replace(config, actor_lr=0.02, critic_lr=0.02, tau=0.5), spec)
    for seed in range(6):
        one.update(rows_of(config, spec, one.batch_rows, seed))
    return one


def features(weights: Mapping[str, Array], observation: Mapping[str, Array]) -> Array:
    vector = ObservationLayout.of(SPEC).concatenate(observation)
    return np.clip((vector - weights["normaliser.mean"]) / weights["normaliser.std"], -10.0, 10.0)


def reference_q(weights: Mapping[str, Array], shape: mlp.MlpShape, member: int, x: Array, action: Array) -> float:
    """One target critic at one action, in the plainest way."""
    one = replace(shape, members=1)
    views = {name: torch.tensor(weights[f"target.{name}"][member : member + 1]) for name in one.parameters}
    return float(mlp.reference(one, views, torch.tensor(np.concatenate([x, action]))[None].float())[0, 0, 0])


def reference_edit(weights: Mapping[str, Array], prefix: str, x: Array, action: Array) -> tuple[Array, Array]:
    h = np.concatenate([x, action])
    for i in range(2):
        h = np.maximum(h @ weights[f"{prefix}actor.w{i}"] + weights[f"{prefix}actor.b{i}"], 0.0)
    raw = h @ weights[f"{prefix}actor.w2"] + weights[f"{prefix}actor.b2"]
    return raw[:ACTION], raw[ACTION:]


def agreeing(one: ExpoLearner) -> dict[str, Array]:
    """Its weights, with target critics that are almost of one mind."""
    return {k: v[:1] + 0.03 * (v - v[:1]) if k.startswith("target.") else v for k, v in one.snapshot().items()}


def reference_choice(
    one: ExpoLearner,
    weights: Mapping[str, Array],
    x: Array,
    edits: list[Array],
    offers: Array,
    judges: Sequence[int] = range(CONFIG.critics),
) -> tuple[Array, int]:
    """What acts, and its place among edits and offers: the first edit unless all judges put another above it."""
    shape, actions = one._critics.shape, [*edits, *offers]
    values = [[reference_q(weights, shape, m, x, a) for m in judges] for a in actions]
    best = max(range(len(actions)), key=lambda i: min(values[i]))
    surest = best if min(values[best]) > max(values[0]) else 0
    return actions[surest], surest


def reference_edits(weights: Mapping[str, Array], prefix: str, x: Array, offers: Array, noise: Array) -> list[Array]:
    """The edited action of each offer; ``noise`` (N, A) in standard deviations."""
    edits = []
    for offer, drawn in zip(offers, noise, strict=True):
        mean, log_std = reference_edit(weights, prefix, x, offer)
        wanted = np.tanh(mean + np.exp(np.clip(log_std, -20.0, 2.0)) * drawn)
        edits.append(np.clip(wanted, offer - CONFIG.beta, offer + CONFIG.beta))
    return edits


@pytest.mark.parametrize("explore", [False, True])
def test_an_edit_acts_unless_something_is_surely_better(explore: bool) -> None:
    one = trained(CONFIG, SPEC)
    policy = ExpoPolicy(CONFIG, SPEC, Many(), seed=0, device="cpu")
    weights = agreeing(one)
    policy.load(weights)
    chosen = set()
    for seed in range(120):
        policy.reset()
        observation = one_of(SPEC, seed)
        noted = {**observation, **policy.annotate(observation)}
        twin = np.random.default_rng()
        twin.bit_generator.state = policy._rng.bit_generator.state
        drawn = twin.standard_normal((COUNT, ACTION), dtype=np.float32) if explore else np.zeros((COUNT, ACTION))
        x, offers = features(weights, observation), noted[CANDIDATES].reshape(COUNT, ACTION)
        edits = reference_edits(weights, "" if explore else "average.", x, offers, policy._scale * drawn)
        expected, place = reference_choice(one, weights, x, edits, offers)
        chosen.add(place)
        np.testing.assert_allclose(policy.act(noted, explore=explore), expected, atol=1e-5)
    assert 0 in chosen
    assert len(chosen) > 2
    assert max(chosen) >= COUNT


def test_averaged_edits_see_through_the_averaged_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = pixel_spec()
    config = replace(CONFIG, critic_lr=0.02, actor_average=0.1)
    one, policy = made(config, spec), ExpoPolicy(config, spec, Many(), seed=0, device="cpu")
    for seed in range(2):
        one.update(rows_of(config, spec, one.batch_rows, seed))
    policy.load(one.snapshot())
    seen: list[Array] = []
    monkeypatch.setattr(policy, "_edited", lambda features, offers, explore: seen.append(features) or offers)
    observation = one_of(spec, 3)
    noted = {**observation, **policy.annotate(observation)}
    embeddings = []
    for explore, encoder in ((True, one._encoder), (False, one._actor._average.encoder)):
        policy.act(noted, explore=explore)
        assert encoder is not None
        with torch.no_grad():
            embedded = encoder({key: torch.from_numpy(observation[key])[None] for key in encoder.keys})[0].numpy()
        np.testing.assert_allclose(seen[-1][: encoder.size], embedded, atol=1e-6)
        embeddings.append(embedded)
    assert np.abs(embeddings[0] - embeddings[1]).max() > 1e-3


def test_targets_are_of_what_would_act() -> None:
    one = trained(CONFIG, SPEC)
    for view in one._critics.target.views.values():
        view.copy_(view[:1] + 0.03 * (view - view[:1]))  # almost of one mind
    data = rows_of(CONFIG, SPEC, one.batch_rows, 9)
    generator = torch.Generator()
    generator.set_state(one._rng.get_state())
    mini = next(one._minibatches(one._read(data), one._following))
    noise = torch.randn(one.batch_rows * COUNT, ACTION, generator=generator).numpy()
    judges = (2, 0)
    found = one._target_values(mini, torch.tensor(judges)).numpy()
    weights, chosen = one.snapshot(), set()
    for row in range(CONFIG.batch):
        after = {key: value[row] for key, value in data.next_observation.items()}
        x, offers = features(weights, after), after[CANDIDATES].reshape(COUNT, ACTION)
        edits = reference_edits(weights, "", x, offers, noise[row * COUNT : (row + 1) * COUNT])
        action, place = reference_choice(one, weights, x, edits, offers, judges)
        chosen.add(place)
        value = min(reference_q(weights, one._critics.shape, m, x, action) for m in judges)
        expected = data.reward[row] + CONFIG.gamma * data.discount[row] * value
        assert found[row] == pytest.approx(expected, abs=1e-4)
    assert len(chosen) > 2


def test_the_edits_gradient_is_autograds() -> None:
    """L = mean(alpha log pi(o|s, c) - mean_i Q_i(s, e)) + w |tanh(mu) - a|^2 on demonstrations; e is o where that is
    within reach, and what is not is only led back."""
    config = replace(CONFIG, bc_weight=0.4, init_temperature=0.3)
    one = trained(config, SPEC)
    mini = next(one._minibatches(one._read(rows_of(config, SPEC, one.batch_rows, 9)), one._following))
    generator = torch.Generator()
    generator.set_state(one._rng.get_state())
    chosen = torch.randint(COUNT, (config.batch,), generator=generator)
    edited = mini.proposals[torch.arange(config.batch), chosen]
    noise = torch.randn(config.batch, ACTION, generator=generator)
    views = {name: view.clone().requires_grad_() for name, view in one._actor.values.views.items()}
    raw = mlp.reference(one._actor.shape, views, torch.cat([mini.features, edited], -1))[0]
    mean, log_std = tanh_normal.split(raw, config.log_std_min, config.log_std_max)
    output, log_density = tanh_normal.sample(mean, log_std, noise)
    action = output.clamp(edited - config.beta, edited + config.beta).detach().requires_grad_()
    q = mlp.reference(one._critics.shape, one._critics.values.views, torch.cat([mini.features, action], -1))
    (climb,) = torch.autograd.grad(q.mean((0, 2)).sum(), action)
    high, low = output > edited + config.beta, output < edited - config.beta
    assert (high | low).any()
    assert not (high | low).all()
    led = torch.where(high, climb.clamp(max=0.0), torch.where(low, climb.clamp(min=0.0), climb))
    imitation = (mean.tanh() - mini.action).square().sum(-1)[mini.demo > 0].mean()
    entropy = one._actor.temperature * log_density
    loss = (entropy - (led * output).sum(-1)).mean() + config.bc_weight * imitation
    loss.backward()
    with torch.no_grad():
        one._update_actor(mini)
    for name, grad in one._actor._adam.grads.views.items():
        torch.testing.assert_close(grad, views[name].grad, rtol=1e-3, atol=1e-5, msg=name)


@both
def test_it_offers_what_its_base_does_and_acts_so_until_it_has_weights(spec: TaskSpec) -> None:
    base = Many()
    policy = ExpoPolicy(CONFIG, spec, base, seed=0, device="cpu")
    assert isinstance(policy, Policy)
    assert isinstance(policy, Annotator)
    policy.reset()
    observation = one_of(spec, 0)
    noted = {**observation, **policy.annotate(observation)}
    assert noted[CANDIDATES].shape == stored(CONFIG, spec).observation[CANDIDATES].shape
    offers = noted[CANDIDATES].reshape(COUNT, ACTION)
    np.testing.assert_array_equal(policy.act(noted, explore=False), offers[0])
    policy.load(made(CONFIG, spec).snapshot())
    greedy = policy.act(noted, explore=False)
    assert (np.abs(greedy - offers) <= CONFIG.beta + 1e-6).all(1).any(), "within reach of an offer"
    np.testing.assert_array_equal(greedy, policy.act(noted, explore=False))
    assert (base.asked, base.resets) == (1, 1)


def test_without_edits_it_only_chooses() -> None:
    config = replace(CONFIG, beta=0.0)
    one = trained(config, SPEC)
    policy = ExpoPolicy(config, SPEC, Many(), seed=0, device="cpu")
    policy.load(agreeing(one))
    chosen = set()
    for seed in range(120):
        observation = one_of(SPEC, seed)
        noted = {**observation, **policy.annotate(observation)}
        same = (policy.act(noted, explore=True) == noted[CANDIDATES].reshape(COUNT, ACTION)).all(1)
        assert same.sum() == 1
        chosen.add(int(same.argmax()))
    assert len(chosen) == COUNT


def test_views_turn_the_offers_with_the_action() -> None:
    turn = SignedPermutation((1, 2, 0), (1, -1, 1))
    spec = replace(SPEC, symmetries=(Symmetry({}, turn),))
    one = made(CONFIG, spec)
    data = rows_of(CONFIG, spec, one.batch_rows)
    data.observation[CANDIDATES][:] = np.tile(data.action, COUNT) * np.repeat([1.0, -1.0, 0.5], ACTION)
    rows = one._read(data)
    for i, factor in enumerate((1.0, -1.0, 0.5)):
        torch.testing.assert_close(rows.proposals[:, i], factor * rows.action)
    assert 0 < (rows.action.numpy() == turn(data.action)).all(1).sum() < one.batch_rows
    assert CANDIDATES not in dict(one._layout.vector)
    assert stored(CONFIG, stored(CONFIG, spec)) == stored(CONFIG, spec)


@both
def test_resume_is_bit_exact(spec: TaskSpec) -> None:
    one, other = made(CONFIG, spec, seed=1), made(CONFIG, spec, seed=2)
    assert isinstance(one, Learner)
    assert_resumes(one, other, lambda seed: rows_of(CONFIG, spec, one.batch_rows, seed))


def test_weights_of_another_network_are_refused() -> None:
    policy = ExpoPolicy(CONFIG, SPEC, Many(), seed=0, device="cpu")
    with pytest.raises(ResumeError, match=r"target\.w1 expected \(4, 16, 16\), got \(4, 12, 12\)"):
        policy.load(made(replace(CONFIG, hidden=12), SPEC).snapshot())


@pytest.mark.parametrize("change", [{"candidates": 0}, {"beta": -0.1}, {"backup_entropy": True}])
def test_bad_settings_are_named(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"expo\.{next(iter(change))}"):
        expo.Config(**change)


@pytest.mark.slow
def test_it_learns_what_neither_its_base_nor_noise_can() -> None:
    config = expo.Config(
        actor_after=0,
        beta=1.2,
        candidates=2,
        hidden=32,
        batch=64,
        utd=8,
        n_step=1,
        noise_scale=(1.0, 1.0),
        bc_weight=0.3,
        init_log_std=-1.5,
    )
    untrained = expo.build_policy(config, ENV.spec, seed=0, base=biased_base())
    fresh = expo.build_learner(config, stored(config, ENV.spec), seed=0, statistics=NORMAL)
    untrained.load(fresh.snapshot())
    for explore in (False, True):
        assert success(untrained, 99, 60, explore=explore) < 0.3
    policy, _, _ = learn(expo, config, 0, 1200)
    assert success(policy, 99, 60) > 0.6


def test_a_base_is_needed() -> None:
    with pytest.raises(ConfigError, match="expo starts from another policy"):
        expo.build_policy(CONFIG, SPEC, seed=0)
    policy = expo.build_policy(CONFIG, stored(CONFIG, SPEC), seed=0, base=some_base(SPEC))
    assert policy.annotate(one_of(SPEC, 0))[CANDIDATES].shape == (COUNT * ACTION,)


def test_how_its_base_plans_can_be_known_and_ends_with_it() -> None:
    assert_its_base_is_known_and_ends_with_it(lambda base: ExpoPolicy(CONFIG, SPEC, base, seed=0, device="cpu"))
