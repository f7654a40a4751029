"""A toy that a policy can learn in seconds: a point that has to reach a goal, rewarded only when it is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from robolearn.core.protocols import Learner, Policy
from robolearn.core.spec import Array, ArraySpec
from robolearn.core.types import Batch, TaskSpec

Row = tuple[Array, Array, float, float, Array]
"""Observation, action, reward, discount, next observation."""
Act = Callable[[Array], Array]


@dataclass(frozen=True)
class Reach:
    """A point moves by ``speed`` per unit of action until it is within ``radius`` of a goal near the origin.

    The state is (position, goal); reward 1 ends the episode, the time-out after ``steps`` is no terminal state.
    """

    speed: float = 0.1
    radius: float = 0.06
    goal: float = 0.2
    steps: int = 30

    @property
    def spec(self) -> TaskSpec:
        return TaskSpec(
            "reach",
            {"position": ArraySpec("position", (2,)), "goal": ArraySpec("goal", (2,))},
            ArraySpec("action", (2,), low=-1.0, high=1.0),
            self.steps,
            10.0,
        )

    def start(self, rng: np.random.Generator) -> Array:
        return (rng.uniform(-1.0, 1.0, 4) * [1.0, 1.0, self.goal, self.goal]).astype(np.float32)

    def step(self, state: Array, action: Array) -> tuple[Array, float]:
        after = state.copy()
        after[:2] = np.clip(state[:2] + self.speed * np.clip(action, -1.0, 1.0), -1.0, 1.0)
        return after, float(np.linalg.norm(after[:2] - after[2:]) < self.radius)

    def expert(self, state: Array, rng: np.random.Generator) -> Array:
        wanted = (state[2:] - state[:2]) / self.speed + rng.normal(0.0, 0.3, 2)
        return np.clip(wanted, -1.0, 1.0).astype(np.float32)

    def episode(self, act: Act, rng: np.random.Generator) -> list[Row]:
        state, rows = self.start(rng), []
        for _ in range(self.steps):
            action = act(state)
            after, reward = self.step(state, action)
            rows.append((state, action, reward, 1.0 - reward, after))
            state = after
            if reward:
                break
        return rows

    def success(self, policy: Policy, seed: int, episodes: int) -> float:
        rng = np.random.default_rng(seed)

        def act(state: Array) -> Array:
            return policy.act(observe(state), explore=False)

        return float(np.mean([self.episode(act, rng)[-1][2] for _ in range(episodes)]))


def observe(state: Array) -> dict[str, Array]:
    """Observation of one state (4,) or a batch (B, 4)."""
    return {"position": state[..., :2], "goal": state[..., 2:]}


def stack(rows: list[Row], demo: Array) -> Batch:
    """A batch from rows."""
    state, action, reward, discount, after = (np.array(column, dtype=np.float32) for column in zip(*rows, strict=True))
    return Batch(observe(state), action, reward, discount, observe(after), demo)


def draw(learner: Learner, demos: list[Row], online: list[Row], rng: np.random.Generator) -> Batch:
    """Rows for one update call, demonstrations and experience interleaved."""
    demo = np.arange(learner.batch_rows) % 2 == 0 if learner.demo_fraction < 1.0 else np.ones(learner.batch_rows, bool)
    rows = [(demos if is_demo else online) for is_demo in demo]
    return stack([source[rng.integers(len(source))] for source in rows], demo)


def statistics(demos: list[Row]) -> Mapping[str, tuple[Array, Array]]:
    """Mean and standard deviation per key."""
    states = observe(np.array([row[0] for row in demos]))
    return {key: (values.mean(0), values.std(0)) for key, values in states.items()}
