"""The fast update computes what plain autograd computes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from robolearn.core.types import Batch
from robolearn.policies import rlpd
from robolearn.policies.rlpd import Config

from .autograd_rlpd import AutogradRlpd
from .helpers import ACTION, batch, learner, state_spec

SMALL = Config(critics=3, target_critics=2, hidden=16, batch=8, utd=3, bc_weight=0.0, critic_lr=1e-3, actor_lr=1e-3)
VARIANTS = {
    "default": SMALL,
    "entropy backup": replace(SMALL, backup_entropy=True, init_temperature=0.7),
    "imitation": replace(SMALL, bc_weight=0.3),
    "no layer norm": replace(SMALL, layer_norm=False),
    "clipped log std": replace(SMALL, log_std_min=-0.05, log_std_max=0.05),
}


def rows_of(data: Batch) -> dict[str, torch.Tensor]:
    def vector(observation: dict[str, np.ndarray]) -> torch.Tensor:  # keys in alphabetical order
        return torch.tensor(np.concatenate([observation["force"], observation["tcp"]], 1))

    return {
        "observation": vector(dict(data.observation)),
        "next_observation": vector(dict(data.next_observation)),
        "action": torch.tensor(data.action),
        "reward": torch.tensor(data.reward),
        "discount": torch.tensor(data.discount),
        "demo": torch.tensor(data.demo.astype(np.float32)),
    }


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())
def test_updates_follow_plain_autograd(config: Config) -> None:
    spec = state_spec()
    fast = learner(rlpd, config, spec, seed=3)
    slow = AutogradRlpd(config, fast.state())
    for call in range(4):
        data = batch(spec, fast.batch_rows, seed=call)
        generator = torch.Generator()
        generator.set_state(torch.tensor(fast.state()["rng"]))
        subsets = torch.rand(config.utd, config.critics, generator=generator).topk(config.target_critics).indices
        noise = torch.randn(fast.batch_rows, ACTION, generator=generator)
        actor_noise = torch.randn(config.batch, ACTION, generator=generator)
        losses = []
        for k in range(config.utd):
            part = slice(k * config.batch, (k + 1) * config.batch)
            mini = {key: value[part].double() for key, value in rows_of(data).items()}
            losses.append(slow.critic_update(mini, noise[part].double(), subsets[k].tolist()))
        slow.actor_update(mini, actor_noise.double())
        metrics = fast.update(data)
        assert metrics["critic_loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    state = fast.state()
    for prefix, networks in {"critic": slow.critic, "target": slow.target, "actor": slow.actor}.items():
        for name, value in networks.items():
            np.testing.assert_allclose(state[f"{prefix}.{name}"], value.detach(), rtol=1e-3, atol=3e-5, err_msg=name)
    np.testing.assert_allclose(state["log_temperature"], slow.log_temperature.detach(), rtol=1e-4)
