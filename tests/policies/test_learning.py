"""Both families learn the toy."""

from __future__ import annotations

import numpy as np
import pytest

from robolearn.core.types import Batch
from robolearn.policies import bc, rlpd

from .toy import Reach, Row, draw, observe, statistics


def demonstrations(env: Reach, rng: np.random.Generator) -> list[Row]:
    return [row for _ in range(20) for row in env.episode(lambda state: env.expert(state, rng), rng)]


def test_cloning_reaches() -> None:
    env, rng = Reach(), np.random.default_rng(0)
    demos = demonstrations(env, rng)
    config = bc.Config(hidden=64, updates=1200)
    made = bc.build_learner(config, env.spec, seed=0, device="cpu", statistics=statistics(demos))
    policy = bc.build_policy(config, env.spec, seed=0)
    untrained = env.success(policy, 99, 50)
    first = made.update(draw(made, demos, demos, rng))["bc_loss"]
    while made.updates < made.total_updates:
        last = made.update(draw(made, demos, demos, rng))["bc_loss"]
    policy.load(made.snapshot())
    assert last < 0.3 * first
    assert untrained < 0.2
    assert env.success(policy, 99, 50) > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rlpd_learns_without_imitation(seed: int) -> None:
    env, rng = Reach(), np.random.default_rng(seed)
    demos = demonstrations(env, rng)
    config = rlpd.Config(bc_weight=0.0)
    made = rlpd.build_learner(config, env.spec, seed=seed, device="cpu", statistics=statistics(demos))
    policy = rlpd.build_policy(config, env.spec, seed=seed)
    online: list[Row] = []
    steps = 0
    while steps < 2500:
        episode = env.episode(lambda state: policy.act(observe(state), explore=True), rng)
        online += episode
        for _ in episode:
            steps += 1
            made.update(draw(made, demos, online, rng))
            if steps % 10 == 0:
                policy.load(made.snapshot())
    assert env.success(policy, 99, 100) > 0.8


def test_actor_climbs_a_known_value() -> None:
    """One-step problem: the reward is highest at one action; critic and actor must find it."""
    env, rng, best = Reach(), np.random.default_rng(0), np.array([0.5, -0.3])
    config = rlpd.Config(
        critics=2, hidden=64, batch=64, utd=4, actor_lr=3e-3, critic_lr=3e-3, bc_weight=0.0, actor_average=1.0
    )
    normal = {key: (np.zeros(2), np.ones(2)) for key in ("position", "goal")}
    made = rlpd.build_learner(config, env.spec, seed=0, device="cpu", statistics=normal)
    policy = rlpd.build_policy(config, env.spec, seed=0)
    for _ in range(250):
        state = rng.uniform(-1.0, 1.0, (made.batch_rows, 4)).astype(np.float32)
        action = rng.uniform(-1.0, 1.0, (made.batch_rows, 2)).astype(np.float32)
        reward = -np.square(action - best).sum(1).astype(np.float32)
        made.update(Batch(observe(state), action, reward, np.zeros_like(reward), observe(state), reward > 0.0))
    policy.load(made.snapshot())
    actions = [policy.act(observe(state[i]), explore=False) for i in range(20)]
    np.testing.assert_allclose(actions, np.tile(best, (20, 1)), atol=0.15)
