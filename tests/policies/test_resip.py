"""Residual PPO: what it must keep, compute and learn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from robolearn.core.errors import ConfigError, SpecError
from robolearn.core.protocols import Annotator, Learner, Policy
from robolearn.core.spec import Array
from robolearn.core.types import Rollouts
from robolearn.policies import bc, resip
from robolearn.policies.parts import ppo
from robolearn.policies.resip import NOISE, PROPOSAL, ResipLearner, ResipPolicy, stored

from .based_toy import ENV, NORMAL, Row, biased_base, play, success
from .helpers import assert_resumes, each, learner, pixel_spec, state_spec
from .over_base import CLONE, some_base

CONFIG = resip.Config(hidden=16, on_policy=64, epochs=3, minibatches=2)
SPEC = state_spec()


def made(config: resip.Config = CONFIG, seed: int = 0) -> ResipLearner:
    one: ResipLearner = learner(resip, config, stored(config, SPEC), seed)
    return one


def rollouts(policy: ResipPolicy, steps: int, seed: int = 0) -> Rollouts:
    """Random observations, what the policy does with them, and random rewards."""
    rng = np.random.default_rng(seed)
    noted = [{**observation, **policy.annotate(observation)} for observation in each(SPEC, steps + 1, seed)]
    columns = {key: np.array([observation[key] for observation in noted]) for key in noted[0]}
    last = rng.random(steps) < 0.1
    last[-1] = True
    return Rollouts(
        {key: value[:-1] for key, value in columns.items()},
        {key: value[1:] for key, value in columns.items()},
        np.array([policy.act(observation, explore=True) for observation in noted[:-1]]),
        rng.standard_normal(steps).astype(np.float32),
        np.where(last & (rng.random(steps) < 0.5), 0.0, 1.0).astype(np.float32),
        last,
    )


def test_the_first_greedy_action_is_the_bases_exactly_and_with_scale_zero_every_one() -> None:
    for scale in (0.1, 0.0):
        config = replace(CONFIG, scale=scale)
        policy = resip.build_policy(config, SPEC, seed=0, base=some_base(SPEC))
        assert isinstance(policy, Policy)
        assert isinstance(policy, Annotator)
        alone = bc.build_policy(CLONE, SPEC, seed=0)
        alone.load(some_base(SPEC).weights)
        one = made(config)
        for step in range(2):
            policy.load(one.snapshot())
            for observation in each(SPEC, 5):
                noted = {**observation, **policy.annotate(observation)}
                expected = alone.act(observation, explore=False)
                same = [np.array_equal(policy.act(noted, explore=e), expected) for e in (False, True)]
                assert same == ([True, True] if scale == 0.0 else [step == 0, False])
            one.update(rollouts(policy, 64))


def test_the_learner_knows_what_the_actor_drew_and_how_likely_it_was() -> None:
    one, policy = made(replace(CONFIG, actor_lr=0.01)), resip.build_policy(CONFIG, SPEC, seed=3, base=some_base(SPEC))
    for _ in range(3):  # the first update begins at mean 0
        policy.load(one.snapshot())
        batch = rollouts(policy, 64)
        steps, metrics = one._read(batch)
        assert metrics["action_mismatch"] == 0.0
        again = resip.corrected(batch.observation[PROPOSAL], steps.delta.numpy(), CONFIG.scale)
        np.testing.assert_allclose(again, batch.action, atol=1e-6)
        mean = one._actor(steps.vector)
        ratio = ppo.log_prob(steps.delta, mean, CONFIG.log_std) - ppo.log_prob(
            steps.delta, steps.old_mean, CONFIG.log_std
        )
        assert not ratio.any()
        noise = (steps.delta - steps.old_mean) / np.exp(CONFIG.log_std)
        np.testing.assert_allclose(noise.numpy(), batch.observation[NOISE], atol=1e-5)
        assert one.update(batch)["kl"] > 0.0
    policy.load(one.snapshot())
    stale = rollouts(policy, 64)
    one.update(stale)
    assert one._read(stale)[1]["action_mismatch"] > 0.5, "these are not the newest weights' any more"


def test_an_update_ends_when_the_policy_has_moved_too_far() -> None:
    policy = resip.build_policy(CONFIG, SPEC, seed=0, base=some_base(SPEC))
    free, held = (made(replace(CONFIG, epochs=20, actor_lr=1e-3, target_kl=kl)) for kl in (1e9, 0.01))
    batch = rollouts(policy, 64)
    far, near = free.update(batch), held.update(batch)
    assert far["gradient_steps"] == 40.0
    assert 1.0 < near["gradient_steps"] < 40.0
    assert 0.005 < near["kl"] < far["kl"], "it is measured on a minibatch"


def test_likely_becomes_what_was_better_than_expected() -> None:
    config = replace(CONFIG, epochs=10, on_policy=512, gamma=0.0)
    one, policy = made(config), resip.build_policy(config, SPEC, seed=0, base=some_base(SPEC))
    batch = rollouts(policy, 512)
    better = replace(batch, reward=np.array(batch.observation[NOISE][:, 0] > 0.0, np.float32))
    one.update(better)
    mean = one._actor(one._vectors(batch.observation)).detach()
    assert float(mean[:, 0].mean()) > 0.05
    assert float(mean[:, 1:].mean(0).abs().max()) < 0.5 * float(mean[:, 0].mean())


def test_resume_is_bit_exact() -> None:
    one, other = made(seed=1), made(seed=2)
    assert isinstance(one, Learner)
    policy = resip.build_policy(CONFIG, SPEC, seed=0, base=some_base(SPEC))

    def rows(seed: int) -> Rollouts:
        policy.load(one.snapshot())
        return rollouts(policy, 60 + seed, seed)

    assert_resumes(one, other, rows)


def test_what_is_stored_is_the_task_and_two_keys_once() -> None:
    full = stored(CONFIG, SPEC)
    assert set(full.observation) == {*SPEC.observation, PROPOSAL, NOISE}
    assert stored(CONFIG, full) is full
    full.observation[NOISE].validate(np.full(3, -5.0, np.float32))


def test_bad_settings_are_named() -> None:
    with pytest.raises(ConfigError, match=r"resip\.scale is 3"):
        resip.Config(scale=3.0)
    with pytest.raises(ConfigError, match=r"resip\.on_policy is 7; 4 minibatches need 8"):
        resip.Config(on_policy=7)
    with pytest.raises(ConfigError, match="--base RUN"):
        resip.build_policy(CONFIG, SPEC, seed=0)
    with pytest.raises(ConfigError, match=r"vectors alone.*side, wrist"):
        learner(resip, CONFIG, stored(CONFIG, pixel_spec()))
    policy = resip.build_policy(CONFIG, SPEC, seed=0, base=some_base(SPEC))
    with pytest.raises(SpecError, match="expected 4 steps or more to learn from, got 3"):
        made().update(rollouts(policy, 3))


def collected(policy: Policy, rng: np.random.Generator, least: int) -> Rollouts:
    """Whole episodes; the time-out of one is not terminal."""
    episodes: list[list[Row]] = []
    while sum(map(len, episodes)) < least:
        episodes.append(play(policy, rng, explore=True))
    rows = [row for episode in episodes for row in episode]

    def column(name: str) -> Array:
        return np.array([row[name] for row in rows], np.float32)

    def columns(name: str) -> dict[str, Array]:
        return {key: np.array([row[name][key] for row in rows], np.float32) for key in rows[0][name]}

    last = np.array([t + 1 == len(episode) for episode in episodes for t in range(len(episode))])
    return Rollouts(columns("s"), columns("n"), column("a"), column("r"), column("d"), last)


def test_it_learns_what_neither_its_base_nor_noise_can() -> None:
    torch.set_num_threads(1)
    config = resip.Config(scale=1.2, hidden=32, on_policy=512, gamma=0.95, actor_lr=1e-3, target_kl=0.05)
    rng = np.random.default_rng(0)
    policy = resip.build_policy(config, ENV.spec, seed=0, base=biased_base())
    one = resip.build_learner(config, stored(config, ENV.spec), seed=0, statistics=NORMAL)
    policy.load(one.snapshot())
    assert success(policy, 99, 60) < 0.3
    assert success(policy, 99, 60, explore=True) < 0.4
    for _ in range(20):
        metrics = one.update(collected(policy, rng, config.on_policy))
        assert metrics["action_mismatch"] == 0.0
        policy.load(one.snapshot())
    assert success(policy, 99, 60) > 0.6
