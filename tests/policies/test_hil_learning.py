"""Learning from corrections on a toy: a point, a scripted person who watches it, and the three families."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from robolearn.core.protocols import Policy
from robolearn.core.spec import Array, Observation
from robolearn.core.types import Moment, Skill, TaskSpec
from robolearn.policies import bc, hg_dagger, hil_rlpd, rlif
from robolearn.teleop import scripted

from .toy import Reach, Row, draw, observe, statistics

ENV = Reach()


class Shown:
    """The toy as a scripted person sees it; the weak expert is slow and trembles."""

    def __init__(self) -> None:
        self.spec: TaskSpec = replace(ENV.spec, skills=(Skill.INFORMED, Skill.WEAK))

    def expert(self, raw: Observation, rng: np.random.Generator, *, skill: Skill) -> Array:
        state = raw["state"]
        wanted = np.clip((state[2:] - state[:2]) / ENV.speed, -1.0, 1.0)
        if skill is Skill.WEAK:
            return np.clip(0.3 * wanted + 0.45 * rng.standard_normal(2), -1.0, 1.0)
        return wanted


class Corrected:
    """Episodes of a policy that a person corrects.

    Attributes:
        online: all rows; with ``takeovers`` the reward is -1 before each and 0 elsewhere.
        corrections: the person's rows.
        interventions: per episode, steps driven by the person and steps in all.
    """

    def __init__(self, human: scripted.Config, *, takeovers: bool, seed: int) -> None:
        self.human = scripted.build(human, Shown(), np.random.default_rng(seed))  # type: ignore[arg-type]
        self.takeovers, self.rng = takeovers, np.random.default_rng([seed, 1])
        self.online: list[Row] = []
        self.corrections: list[Row] = []
        self.interventions: list[tuple[int, int]] = []

    def episode(self, policy: Policy) -> int:
        policy.reset()
        self.human.reset()
        state, rows, who = ENV.start(self.rng), [], []
        for step in range(ENV.steps):
            proposed = policy.act(observe(state), explore=True)
            moved = self.human.correct(Moment(step, {"state": state}, observe(state), proposed))
            who.append(moved is not None)
            action = proposed if moved is None else moved
            after, reward = ENV.step(state, action)
            rows.append((state, action, 0.0 if self.takeovers else reward, 1.0 - reward, after))
            state = after
            if reward:
                break
        if self.takeovers:
            for i in range(len(rows) - 1):
                if who[i + 1] and not who[i]:
                    rows[i] = (*rows[i][:2], -1.0, *rows[i][3:])
        self.online += rows
        self.corrections += [row for row, human in zip(rows, who, strict=True) if human]
        self.interventions.append((sum(who), len(who)))
        return len(rows)

    def rate(self, part: slice) -> float:
        """Share of steps that the person drove."""
        driven, steps = np.array(self.interventions)[part].sum(0)
        return float(driven / steps)


def demonstrations(
    count: int, rng: np.random.Generator, *, reward: bool = True, skill: Skill = Skill.INFORMED
) -> list[Row]:
    shown = Shown()
    rows = [
        row for _ in range(count) for row in ENV.episode(lambda s: shown.expert({"state": s}, rng, skill=skill), rng)
    ]
    return rows if reward else [(*row[:2], 0.0, *row[3:]) for row in rows]


def train(family: Any, config: Any, world: Corrected, demos: list[Row], *, episodes: int, seed: int) -> Policy:
    """Pretrain, then an episode and its updates in turn."""
    made = family.build_learner(config, ENV.spec, seed=seed, statistics=statistics(demos))
    policy: Policy = family.build_policy(config, ENV.spec, seed=seed)
    rng = np.random.default_rng([seed, 2])
    updates = steps = 0
    for _ in range(config.pretrain):
        made.update(draw(made, demos, demos, rng))
    for _ in range(episodes):
        policy.load(made.snapshot())
        steps += world.episode(policy)
        while updates + made.updates_per_call <= config.utd * steps:
            made.update(draw(made, demos + world.corrections, world.online, rng))
            updates += made.updates_per_call
    policy.load(made.snapshot())
    return policy


WATCHFUL = scripted.Config(disagree=0.5, patience=2, agree=0.3, stuck=0, late=0.0, delay=1, hold=3, rest=1, noise=0.05)


def test_hg_dagger_mends_what_one_demonstration_did_not_show() -> None:
    demos = demonstrations(1, np.random.default_rng(0))
    small = bc.Config(hidden=64, batch=64)
    config = hg_dagger.Config(imitation="bc", bc=small, pretrain=40, utd=8.0)
    world = Corrected(WATCHFUL, takeovers=False, seed=0)
    before = ENV.success(train(hg_dagger, config, world, demos, episodes=0, seed=0), 99, 100)
    after = ENV.success(train(hg_dagger, config, world, demos, episodes=40, seed=0), 99, 100)
    assert after > before + 0.3
    assert world.rate(slice(-10, None)) < 0.6 * world.rate(slice(0, 10))


SMALL: dict[str, Any] = {"critics": 2, "hidden": 64, "batch": 64, "utd": 4, "pretrain": 100, "n_step": 1}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rlif_ends_above_its_expert(seed: int) -> None:
    shown, rng = Shown(), np.random.default_rng(7)
    weak = [ENV.episode(lambda s: shown.expert({"state": s}, rng, skill=Skill.WEAK), rng)[-1][2] for _ in range(200)]
    demos = demonstrations(10, np.random.default_rng(seed), reward=False, skill=Skill.WEAK)
    world = Corrected(replace(WATCHFUL, skill=Skill.WEAK, noise=0.0), takeovers=True, seed=seed)
    after = ENV.success(train(rlif, rlif.Config(**SMALL), world, demos, episodes=250, seed=seed), 99, 200)
    assert 0.6 < np.mean(weak) < 0.8
    assert after > np.mean(weak) + 0.1
    assert world.rate(slice(-50, None)) < 0.5 * world.rate(slice(0, 50))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_corrections_speed_rlpd_up(seed: int) -> None:
    demos = demonstrations(2, np.random.default_rng(seed))
    config = hil_rlpd.Config(**SMALL)
    nobody = Corrected(scripted.Config(late=1.0, stuck=0), takeovers=False, seed=seed)
    somebody = Corrected(scripted.Config(late=0.4, stuck=0, delay=1), takeovers=False, seed=seed)
    alone = ENV.success(train(hil_rlpd, config, nobody, demos, episodes=30, seed=seed), 99, 200)
    helped = ENV.success(train(hil_rlpd, config, somebody, demos, episodes=30, seed=seed), 99, 200)
    assert not nobody.corrections
    assert somebody.rate(slice(-10, None)) < somebody.rate(slice(0, 10))
    assert len(somebody.online) < len(nobody.online)
    assert helped > alone + 0.2
