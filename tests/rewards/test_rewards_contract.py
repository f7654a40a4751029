"""What every reward must do, found by name: those of the tree and those of other distributions beside it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from robolearn.core import plugins
from robolearn.core.protocols import Reward
from robolearn.core.spec import Array, ArraySpec
from robolearn.core.types import Judgement, Kind, TaskSpec
from robolearn.rewards.parts.build import Sum, build_reward
from robolearn.rewards.parts.calibrate import Calibration
from robolearn.rewards.parts.network import FrameNetwork, Inputs
from robolearn.rewards.parts.saved import Classifier, Shape, write

NAMES = plugins.names("reward")
rewards = pytest.mark.parametrize("name", NAMES)
SPEC = TaskSpec(
    "contract",
    {"state": ArraySpec("state", (6,))},
    ArraySpec("action", (3,), low=-1.0, high=1.0),
    20,
    10.0,
)
Step = tuple[Judgement, dict[str, Array]]


@pytest.fixture
def text(name: str, tmp_path: Path) -> str:
    """How the reward is asked for on a command line."""
    if name != "classifier":
        return name
    inputs, shape = Inputs.of(SPEC.observation), Shape(hidden=(4,))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = FrameNetwork(inputs, shape.hidden, shape.channels, shape.width)
    write(Classifier(network.eval(), shape, Calibration(), 0.5), tmp_path / "classifier")
    return f"classifier:{tmp_path / 'classifier'}"


def episode(seed: int, last: Judgement, scale: float = 1.0) -> list[Step]:
    """What a task says of an episode, and what it shows; ``scale`` makes all numbers larger."""
    rng = np.random.default_rng(seed)
    info = [{"peak_force_n": float(force)} for force in scale * rng.uniform(10.0, 20.0, 8)]
    said = [Judgement(0.0, Kind.MID, False, one) for one in info[:-1]] + [replace(last, info=info[-1])]
    return [(one, {"state": (scale * rng.normal(size=6)).astype(np.float32)}) for one in said]


SUCCESS = Judgement(1.0, Kind.TERMINATED, True)
FAILURE = Judgement(0.0, Kind.TERMINATED, False)
ENDS = {"success": SUCCESS, "gives up": FAILURE, "cut off": Judgement(0.0, Kind.TRUNCATED, False)}
ends = pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)


def judged(reward: Reward, steps: Sequence[Step], taken_over: Sequence[bool] = ()) -> list[Judgement]:
    """What a reward says of an episode, asked as a run asks: once more of a step before a human takes over, where it
    looks ahead."""
    reward.reset()
    found = []
    for (judgement, after), taken in itertools.zip_longest(steps, taken_over[: len(steps)], fillvalue=False):
        answer = reward.of(judgement, after, taken_over=False)
        if reward.looks_ahead and taken:
            again = reward.of(judgement, after, taken_over=True)
            assert (again.kind, again.success) == (answer.kind, answer.success), "only the reward may look ahead"
            answer = again
        found.append(answer)
    return found


@rewards
def test_the_module_exports_what_a_run_asks_for(name: str, text: str) -> None:
    module = plugins.load("reward", name)
    fields = {field.name for field in dataclasses.fields(module.Config)}
    assert module.Config.__dataclass_params__.frozen
    assert getattr(module, "VALUE", None) in {None, *fields}
    reward = build_reward(text, SPEC)
    assert isinstance(reward, Reward)
    assert isinstance(reward.looks_ahead, bool)


@rewards
@ends
def test_every_step_is_worth_a_number_and_success_is_terminal(name: str, text: str, end: Judgement) -> None:
    for seed in range(3):
        for judgement in judged(build_reward(text, SPEC), episode(seed, end), [False, True, False, True]):
            assert isinstance(judgement, Judgement)
            assert np.isfinite(judgement.reward)
            assert judgement.kind in (Kind.MID, Kind.TERMINATED, Kind.TRUNCATED)
            assert isinstance(judgement.success, bool)
            assert judgement.kind is Kind.TERMINATED or not judgement.success
            assert all(np.isfinite(value) for value in judgement.info.values())


@rewards
def test_an_end_that_is_no_success_stays_one(name: str, text: str) -> None:
    for end in (ENDS["gives up"], ENDS["cut off"]):
        assert judged(build_reward(text, SPEC), episode(0, end))[-1].kind.is_last


@rewards
@ends
def test_an_episode_leaves_nothing_behind(name: str, text: str, end: Judgement) -> None:
    """After a reset it judges as a new one does."""
    steps, taken = episode(1, end), [False, True]
    fresh = judged(build_reward(text, SPEC), steps, taken)
    used = build_reward(text, SPEC)
    judged(used, episode(2, SUCCESS, scale=3.0), [True])
    judged(used, episode(3, FAILURE, scale=0.3)[:4])
    assert judged(used, steps, taken) == fresh


@rewards
def test_what_is_judged_is_not_changed(name: str, text: str) -> None:
    steps = episode(0, SUCCESS)
    kept = [(dict(judgement.info), after["state"].copy()) for judgement, after in steps]
    judged(build_reward(text, SPEC), steps, [True])
    for (judgement, after), (info, state) in zip(steps, kept, strict=True):
        assert judgement.info == info
        assert list(after) == ["state"]
        np.testing.assert_array_equal(after["state"], state)


@rewards
def test_who_drives_next_matters_only_to_rewards_that_say_so(name: str, text: str) -> None:
    """Rows of the others are stored at once, before it is known."""
    if build_reward(text, SPEC).looks_ahead:
        steps = episode(0, SUCCESS)
        alone, watched = (judged(build_reward(text, SPEC), steps, taken) for taken in ((), [True] * 4))
        assert [one.reward for one in alone] != [one.reward for one in watched]
        return
    both: list[list[Judgement]] = []
    for taken_over in (False, True):
        reward = build_reward(text, SPEC)
        reward.reset()
        both.append([reward.of(said, after, taken_over=taken_over) for said, after in episode(0, SUCCESS)])
    assert both[0] == both[1]


@rewards
def test_it_can_be_added_to_others(name: str, text: str) -> None:
    steps, taken = episode(0, SUCCESS), [False, True]
    together = build_reward(f"task+0.5*{text}", SPEC)
    assert isinstance(together, Sum)
    alone = [judged(build_reward(one, SPEC), steps, taken) for one in ("task", text)]
    for both, task, own in zip(judged(together, steps, taken), *alone, strict=True):
        assert both.reward == pytest.approx(task.reward + 0.5 * own.reward)
