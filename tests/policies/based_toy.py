"""The toy of ``toy.py`` with a base that always misses the goal to the same side, for policies that improve on one."""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from robolearn.core.protocols import Learner, Policy
from robolearn.core.spec import Array
from robolearn.core.types import Base, Batch
from robolearn.policies import bc

from .toy import Reach, draw, observe, statistics

ENV = Reach()
BIAS = np.array([1.0, -1.0], np.float32)
"""What the base adds to the right action; it comes to rest 0.14 from the goal, which counts within 0.06, so far that
noise does not bring it there."""

NORMAL = {key: (np.zeros(2, np.float32), np.full(2, 0.5, np.float32)) for key in ENV.spec.observation}
"""Mean and deviation of what is observed, by guess."""
Row = dict[str, Any]


@cache
def biased_base() -> Base:
    """Clones an expert whose every action is displaced."""
    rng = np.random.default_rng(0)

    def act(state: Array) -> Array:
        return np.clip(ENV.expert(state, rng) + BIAS, -1.0, 1.0).astype(np.float32)

    rows = [row for _ in range(30) for row in ENV.episode(act, rng)]
    config = bc.Config(hidden=32, updates=400, dropout=0.0)
    made = bc.build_learner(config, ENV.spec, seed=0, statistics=statistics(rows))
    while made.updates < made.total_updates:
        made.update(draw(made, rows, rows, rng))
    return Base("bc", config, made.snapshot())


def noted(policy: Policy, state: Array) -> dict[str, Array]:
    """Observation with what the policy adds to it."""
    observation = observe(state)
    return {**observation, **getattr(policy, "annotate", lambda _: {})(observation)}


def play(policy: Policy, rng: np.random.Generator, *, explore: bool, expert: bool = False) -> list[Row]:
    """One episode of the policy, or of the expert under the policy's eyes."""
    state, rows = ENV.start(rng), []
    policy.reset()
    observation = noted(policy, state)
    for _ in range(ENV.steps):
        action = ENV.expert(state, rng) if expert else policy.act(observation, explore=explore)
        state, reward = ENV.step(state, action)
        after = noted(policy, state)
        rows.append({"s": observation, "a": action, "r": reward, "d": 1.0 - reward, "n": after})
        observation = after
        if reward:
            break
    return rows


def success(policy: Policy, seed: int, episodes: int, *, explore: bool = False) -> float:
    """Share of episodes that reach the goal."""
    rng = np.random.default_rng(seed)
    return float(np.mean([play(policy, rng, explore=explore)[-1]["r"] for _ in range(episodes)]))


def sample(learner: Learner, demos: list[Row], online: list[Row], rng: np.random.Generator) -> Batch:
    """Rows for one update call, demonstrations and experience interleaved."""
    demo = np.arange(learner.batch_rows) % 2 == 0
    rows = [source[rng.integers(len(source))] for source in (demos if is_demo else online for is_demo in demo)]

    def column(name: str) -> Array:
        return np.array([row[name] for row in rows], np.float32)

    def observations(name: str) -> dict[str, Array]:
        return {key: np.array([row[name][key] for row in rows], np.float32) for key in rows[0][name]}

    return Batch(observations("s"), column("a"), column("r"), column("d"), observations("n"), demo)


def learn(family: ModuleType, config: Any, seed: int, steps: int) -> tuple[Policy, Learner, list[Row]]:
    """Train a family on the toy for some steps of the point; its policy with the final weights."""
    rng, base = np.random.default_rng(seed), biased_base()
    policy: Policy = family.build_policy(config, ENV.spec, seed=seed, base=base)
    demos = [row for _ in range(10) for row in play(policy, rng, explore=False, expert=True)]
    learner: Learner = family.build_learner(
        config, family.stored(config, ENV.spec), seed=seed, statistics=NORMAL, base=base
    )
    policy.load(learner.snapshot())
    online: list[Row] = []
    done = 0
    while done < steps:
        episode = play(policy, rng, explore=True)
        online += episode
        done += len(episode)
        for _ in range(0, len(episode), 2):
            learner.update(sample(learner, demos, online, rng))
        policy.load(learner.snapshot())
    return policy, learner, online
