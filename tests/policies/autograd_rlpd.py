"""RLPD's update in plain autograd and float64, one network at a time, to hold the fast one against."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from robolearn.core.spec import Array
from robolearn.policies.rlpd import Config

Parameters = dict[str, Tensor]
LIMIT = 1.0 - 1e-5


class AutogradRlpd:
    """Takes its parameters from a learner's state and is fed the random numbers the learner draws."""

    def __init__(self, config: Config, state: Mapping[str, Array]) -> None:
        self.config, self.actions = config, state["actor.b2"].shape[0] // 2

        def parameters(prefix: str) -> Parameters:
            names = [name for name in state if name.startswith(f"{prefix}.")]
            return {
                n.removeprefix(f"{prefix}."): torch.tensor(state[n], dtype=torch.float64).requires_grad_()
                for n in names
            }

        self.critic, self.target, self.actor = parameters("critic"), parameters("target"), parameters("actor")
        self.log_temperature = torch.tensor(state["log_temperature"], dtype=torch.float64).requires_grad_()
        self.mean, self.std = (
            torch.tensor(state[f"normaliser.{name}"], dtype=torch.float64) for name in ("mean", "std")
        )
        self.critic_adam = torch.optim.Adam(self.critic.values(), lr=config.critic_lr)
        self.actor_adam = torch.optim.Adam(self.actor.values(), lr=config.actor_lr)
        self.temperature_adam = torch.optim.Adam([self.log_temperature], lr=config.temperature_lr)

    def standardise(self, x: Tensor) -> Tensor:
        return ((x - self.mean) / self.std).clamp(-self.config.observation_clip, self.config.observation_clip)

    def q(self, networks: Parameters, member: int, x: Tensor) -> Tensor:
        h = x
        for i in range(self.config.layers):
            h = F.linear(h, networks[f"w{i}"][member].T, networks[f"b{i}"][member, 0])
            if self.config.layer_norm:
                gain, offset = networks[f"gain{i}"][member, 0], networks[f"offset{i}"][member, 0]
                h = F.layer_norm(h, h.shape[-1:], gain, offset, eps=1e-6)
            h = F.relu(h)
        last = self.config.layers
        return F.linear(h, networks[f"w{last}"][member].T, networks[f"b{last}"][member, 0])[:, 0]

    def act(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        h = x
        for i in range(self.config.layers):
            h = F.relu(h @ self.actor[f"w{i}"] + self.actor[f"b{i}"])
        raw = h @ self.actor[f"w{self.config.layers}"] + self.actor[f"b{self.config.layers}"]
        mean, log_std = raw.split(self.actions, -1)
        normal = torch.distributions.Normal(mean, log_std.clamp(self.config.log_std_min, self.config.log_std_max).exp())
        u = mean + normal.scale * noise
        log_slope = -2.0 * (torch.logaddexp(u, -u) - math.log(2.0))  # 1 - tanh^2 = cosh^-2
        log_density = (normal.log_prob(u) - log_slope).sum(-1)
        return u.tanh().clamp(-LIMIT, LIMIT), log_density

    def critic_update(self, rows: dict[str, Tensor], noise: Tensor, subset: list[int]) -> float:
        config = self.config
        with torch.no_grad():
            after = self.standardise(rows["next_observation"])
            action, log_density = self.act(after, noise)
            following = torch.cat([after, action], -1)
            value = torch.stack([self.q(self.target, member, following) for member in subset]).min(0).values
            if config.backup_entropy:
                value = value - self.log_temperature.exp() * log_density
            y = rows["reward"] + config.gamma * rows["discount"] * value
        inputs = torch.cat([self.standardise(rows["observation"]), rows["action"].clamp(-LIMIT, LIMIT)], -1)
        q = torch.stack([self.q(self.critic, member, inputs) for member in range(config.critics)])
        loss = (q - y).square().mean()
        self.critic_adam.zero_grad()
        loss.backward()
        self.critic_adam.step()
        with torch.no_grad():
            for name, value in self.target.items():
                value.mul_(1.0 - config.tau).add_(self.critic[name], alpha=config.tau)
        return loss.item()

    def actor_update(self, rows: dict[str, Tensor], noise: Tensor) -> None:
        config, x = self.config, self.standardise(rows["observation"])
        action, log_density = self.act(x, noise)
        inputs = torch.cat([x, action], -1)
        q = torch.stack([self.q(self.critic, member, inputs) for member in range(config.critics)]).mean(0)
        loss = (self.log_temperature.exp().detach() * log_density - q).mean()
        if config.bc_weight:
            greedy, demo = self.act(x, torch.zeros_like(noise))[0], rows["demo"] > 0
            error = (greedy - rows["action"].clamp(-LIMIT, LIMIT)).square().sum(-1)
            loss = loss + config.bc_weight * error[demo].mean()
        self.actor_adam.zero_grad()
        loss.backward()
        self.actor_adam.step()
        entropy = -log_density.detach().mean()
        self.temperature_adam.zero_grad()
        temperature_loss = self.log_temperature.exp() * (entropy - config.target_entropy_per_dim * self.actions)
        temperature_loss.sum().backward()
        self.temperature_adam.step()
