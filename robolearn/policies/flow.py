"""Flow matching: chunks of actions generated along a learned velocity field, cloned from demonstrations.

    x_t = (1 - t) x_0 + t a,  x_0 ~ N(0, I),  t ~ U(0, 1)          (Lipman et al. 2023, optimal-transport path)
    L   = |v(x_t, t, o) - (a - x_0)|^2
    act: x <- x + v(x, t, o) / K  for t = 0, 1/K, ..., (K - 1)/K

Guided by a chunk a' that is already planned, with weights W (real-time chunking, Black et al. 2025, eq. 2-4):

    x_1 = x + (1 - t) v,  g = (d x_1 / d x)^T W (a' - x_1),  v <- v + min(limit, (t^2 + (1 - t)^2) / (t (1 - t))) g

and, beyond that paper, v <- (a' - x) / (1 - t) where W = 1: actions that will be executed whatever is generated are
held, which keeps far more plans in the mode that was begun. Here t = 0 is noise and t = 1 data.
Train: ``robolearn train peg_insert --algo flow``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from robolearn.core.spec import Array
from robolearn.core.types import Base, TaskSpec
from robolearn.policies.parts.chunk_config import ChunkConfig
from robolearn.policies.parts.chunk_learner import ChunkLearner, check_base
from robolearn.policies.parts.chunking import ChunkPolicy
from robolearn.policies.parts.generation import Network, Steering
from robolearn.policies.parts.planner import GenerativePlanner

ONLINE = False
"""Learns from stored demonstrations alone; a run needs no acting robot."""
BASE = "optional"
"""May start from the weights of another flow run."""


@dataclass(frozen=True)
class Config(ChunkConfig):
    """Hyperparameters; ``inference_steps`` is K. The rest are those of every chunked policy."""


def build_policy(
    config: Config, spec: TaskSpec, *, seed: int, device: str = "cpu", base: Base | None = None
) -> ChunkPolicy:
    """A policy that acts zero, or as its base does, until it is given weights."""
    policy = ChunkPolicy(build_planner(config, spec, seed=seed, device=device), spec, config.execution)
    check_base("flow", config, base)
    if base is not None:
        policy.load(base.weights)
    return policy


def build_planner(config: Config, spec: TaskSpec, *, seed: int, device: str = "cpu") -> GenerativePlanner:
    """What makes the policy's plans."""
    return GenerativePlanner(config, spec, FlowProcess(config.inference_steps), seed=seed, device=device)


def build_learner(
    config: Config,
    spec: TaskSpec,
    *,
    seed: int,
    device: str = "cpu",
    statistics: Mapping[str, tuple[Array, Array]],
    base: Base | None = None,
    online: bool = False,
) -> ChunkLearner:
    """A learner for a task; ``statistics`` holds (mean, std) of the demonstrations per low-dimensional key."""
    check_base("flow", config, base)
    return ChunkLearner(
        config, spec, FlowProcess(config.inference_steps),
        seed=seed, device=device, statistics=statistics, base=base, online=online,
    )  # fmt: skip


class FlowProcess:
    """See the module's docstring.

    Args:
        steps: K, Euler steps.

    Attributes:
        times: (K,) 0, 1/K, ..., (K - 1)/K.
    """

    def __init__(self, steps: int) -> None:
        self._steps, self.times = steps, torch.arange(steps) / steps

    def corrupt(self, action: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """x_t, t and the velocity a - x_0."""
        noise = torch.randn(action.shape, generator=rng).to(action.device)
        time = torch.rand(len(action), generator=rng).to(action.device)
        velocity = action - noise
        return torch.addcmul(noise, time[:, None, None], velocity), time, velocity

    def generate(self, network: Network, noise: Tensor, steering: Steering | None) -> Tensor:
        """Euler's method from noise (N, H, A)."""
        x = noise
        for k in range(self._steps):
            velocity = network(x, k) if steering is None else self._steered(network, x, k, steering)
            x = x + velocity / self._steps
        return x

    def _steered(self, network: Network, x: Tensor, k: int, steering: Steering) -> Tensor:
        t = k / self._steps
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            velocity = network(x, k)
            pull = steering.pull(x + (1.0 - t) * velocity, x)
        weight = min(steering.limit, (t**2 + (1.0 - t) ** 2) / (t * (1.0 - t))) if k else steering.limit
        straight = (steering.previous - x.detach()) / (1.0 - t)
        return steering.hold(velocity.detach() + weight * pull, straight)
