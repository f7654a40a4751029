"""What every task for an arm must do, found by name: those of the tree and those of other distributions beside it.

Environments that are named by an id (``gym:``, ``dm:``) are tested where they are wrapped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest

from robolearn.core import plugins
from robolearn.core.protocols import Task
from robolearn.core.spec import Array, validate_all
from robolearn.core.types import Judgement, Kind, Skill
from robolearn.hal.safety import SafeRobot
from robolearn.run.config import TrainConfig
from robolearn.sim.drivers.fr3_sim import CAMERAS

NAMES = [name for name in plugins.names("task") if not getattr(plugins.load("task", name), "BY_ID", False)]
tasks = pytest.mark.parametrize("name", NAMES)
EXPERT_EPISODES = 3
"""``robolearn record`` gives up when fewer than one in so many of the best expert's episodes succeed."""


@cache
def arm(name: str) -> SafeRobot:
    """The simulated robot of a task under the limits of the task, shared by the tests."""
    module = plugins.load("task", name)
    config = module.TIERS["default"]
    driver = plugins.load("robot", getattr(module, "ROBOT", TrainConfig().robot))
    robot = driver.build(driver.Config(), scene=module.scene(config), cameras=(), realtime=False)
    return SafeRobot(robot, module.limits(config), epoch=0)


@pytest.fixture(scope="module", autouse=True)
def _close() -> Iterator[None]:
    yield
    for name in NAMES:
        arm(name).close()
    arm.cache_clear()


def made(name: str, obs: str = "state") -> Task:
    module = plugins.load("task", name)
    task: Task = module.build(module.TIERS["default"], obs=obs)
    return task


def begun(name: str, seed: int) -> tuple[SafeRobot, Task, dict[str, Array], dict[str, Array]]:
    """Robot, task, and both observations at the start of an episode."""
    robot, task = arm(name), made(name)
    if robot.stopped:
        robot.clear("the tests")
    robot.counts.clear()
    task.reset(robot, np.random.default_rng(seed))
    raw = robot.observe()
    return robot, task, raw, task.observe(raw)


def played(name: str, seed: int, actions: Array) -> list[dict[str, Array]]:
    """Observations of an episode with given actions."""
    robot, task, _, first = begun(name, seed)
    seen = [first]
    for action in actions:
        robot.apply(task.command(action))
        seen.append(task.observe(robot.observe()))
    return seen


def noise(task: Task, rows: int, seed: int = 0) -> Array:
    """(rows, A) random actions in [-1, 1]; the first of them are corners."""
    rng = np.random.default_rng(seed)
    actions = rng.uniform(-1.0, 1.0, (rows, task.spec.action.size)).astype(np.float32)
    actions[: rows // 2] = np.sign(actions[: rows // 2])
    return actions


def step(robot: SafeRobot, task: Task, raw: dict[str, Array], action: Array) -> tuple[dict[str, Array], Judgement]:
    sent = robot.apply(task.command(action))
    after = robot.observe()
    return after, task.judge(raw, sent, after)


@tasks
def test_the_module_exports_what_a_run_asks_for(name: str) -> None:
    module = plugins.load("task", name)
    assert "default" in module.TIERS
    for tier, config in module.TIERS.items():
        assert isinstance(config, module.Config), tier
        assert isinstance(config.steps, int), tier
        assert config.steps > 0, tier
        assert isinstance(module.build(config), Task), tier
        module.limits(config)
        module.scene(config)
    with pytest.raises(dataclasses.FrozenInstanceError):
        module.TIERS["default"].steps = 1


@tasks
def test_the_spec_is_one_that_policies_and_robots_understand(name: str) -> None:
    spec = made(name).spec
    assert spec.name == name
    assert (spec.action.low, spec.action.high, spec.action.dtype) == (-1, 1, "float32")
    assert spec.max_steps > 0
    assert spec.control_hz == arm(name).spec.control_hz
    assert len(set(spec.skills)) == len(spec.skills)
    assert list(spec.skills) == [skill for skill in Skill if skill in spec.skills], "best first"
    assert all(array.dtype == "float32" for array in spec.observation.values()), "state alone, no images"


@tasks
def test_what_is_observed_and_executed_is_as_the_spec_says(name: str) -> None:
    robot, task, raw, first = begun(name, 0)
    validate_all(task.spec.observation, first)
    for action in noise(task, 16):
        sent = robot.apply(task.command(action))
        assert not robot.last_rejected
        task.spec.action.validate(task.normalise(sent))
        after = robot.observe()
        judgement = task.judge(raw, sent, after)
        assert judgement.kind in (Kind.MID, Kind.TERMINATED, Kind.TRUNCATED)
        assert np.isfinite([judgement.reward, *judgement.info.values()]).all()
        validate_all(task.spec.observation, task.observe(after))
        raw = after
    assert not robot.counts["clipped"], "a normalised action asks for more than the robot can do in a step"
    assert not robot.counts["step"], "a normalised action asks for more than the limits allow in a step"


@tasks
def test_observations_are_the_caller_s_to_keep(name: str) -> None:
    robot, task, _, first = begun(name, 0)
    kept = {key: value.copy() for key, value in first.items()}
    robot.apply(task.command(noise(task, 1)[0]))
    task.observe(robot.observe())
    for key, value in kept.items():
        np.testing.assert_array_equal(first[key], value)


@tasks
def test_normalise_undoes_command(name: str) -> None:
    """Exactly where nothing was limited; and what was limited is understood as what was sent."""
    robot, task, _, _ = begun(name, 0)
    for _ in range(10):  # come to rest where a zero action leads
        robot.apply(task.command(task.spec.action.zeros()))
        task.observe(robot.observe())
    for action in 0.2 * noise(task, 10, seed=1):
        np.testing.assert_allclose(task.normalise(task.command(action)), action, atol=1e-5)
    for action in noise(task, 10, seed=2):
        command = task.command(action)
        np.testing.assert_allclose(task.command(task.normalise(command)), command, atol=1e-6)
    for action in 3.0 * noise(task, 4, seed=3):
        np.testing.assert_array_equal(task.command(action), task.command(np.clip(action, -1.0, 1.0)))


@tasks
def test_the_same_draw_is_the_same_episode_and_another_is_another(name: str) -> None:
    actions = noise(made(name), 4)
    first, other = played(name, 3, actions), played(name, 4, actions)
    again = played(name, 3, actions)
    for one, two in zip(first, again, strict=True):
        for key in one:
            np.testing.assert_array_equal(one[key], two[key], err_msg=key)
    assert any(not np.array_equal(first[0][key], other[0][key]) for key in first[0])


@tasks
def test_an_episode_leaves_nothing_in_the_task(name: str) -> None:
    """A task that has seen an episode shows the next one as a new task does."""
    actions = noise(made(name), 6)
    fresh = played(name, 5, actions[:1])
    robot, task, _, _ = begun(name, 6)
    for action in actions:
        robot.apply(task.command(action))
        task.observe(robot.observe())
    task.reset(robot, np.random.default_rng(5))
    for key, value in task.observe(robot.observe()).items():
        np.testing.assert_array_equal(value, fresh[0][key], err_msg=key)


@tasks
def test_every_skill_gives_normalised_actions(name: str) -> None:
    for skill in made(name).spec.skills:
        robot, task, raw, _ = begun(name, 0)
        rng = np.random.default_rng(1)
        for _ in range(12):
            action = task.expert(raw, rng, skill=skill)
            task.spec.action.validate(action)
            raw, _ = step(robot, task, raw, action)
            task.observe(raw)
        assert not robot.stopped, skill


@tasks
def test_the_best_expert_succeeds_within_the_limits_and_success_ends_the_episode(name: str) -> None:
    if not made(name).spec.skills:
        pytest.skip("nobody can show how it is done")
    for seed in range(EXPERT_EPISODES):
        judgements, robot = expert_episode(name, seed)
        assert not robot.stopped
        assert not robot.counts["rejected"]
        for judgement in judgements[:-1]:
            assert not judgement.success
            assert judgement.kind is Kind.MID
        last = judgements[-1]
        if last.success:
            assert last.kind is Kind.TERMINATED
            assert last.reward > 0.0
            return
    pytest.fail(f"none of {EXPERT_EPISODES} episodes succeeded")


def expert_episode(name: str, seed: int) -> tuple[list[Judgement], SafeRobot]:
    robot, task, raw, _ = begun(name, seed)
    rng, judgements = np.random.default_rng(seed + 1), []
    for _ in range(task.spec.max_steps):
        raw, judgement = step(robot, task, raw, task.expert(raw, rng, skill=task.spec.skills[0]))
        task.observe(raw)
        judgements.append(judgement)
        if judgement.kind.is_last:
            break
    return judgements, robot


@tasks
def test_blind_is_not_informed(name: str) -> None:
    """There is something that a blind expert does not know: from the same start, with the same noise, it does other
    things than one who knows. A task without such a thing has no blind expert."""
    if Skill.BLIND not in made(name).spec.skills:
        pytest.skip("nothing is hidden")
    differences = []
    for seed in range(3):
        _, task, raw, _ = begun(name, seed)
        both = [task.expert(raw, np.random.default_rng(0), skill=s) for s in (Skill.INFORMED, Skill.BLIND)]
        differences.append(float(np.abs(both[0] - both[1]).max()))
    assert max(differences) > 0.0


@tasks
def test_images_are_those_of_the_cameras(name: str) -> None:
    _, _, raw, _ = begun(name, 0)
    task = made(name, "pixels")
    task.reset(arm(name), np.random.default_rng(0))
    images = {key: spec for key, spec in task.spec.observation.items() if spec.dtype == "uint8"}
    assert set(images) <= set(CAMERAS)
    assert images
    rng = np.random.default_rng(0)
    shown: dict[str, Any] = {
        f"camera/{key}": rng.integers(0, 256, spec.shape, dtype=np.uint8) for key, spec in images.items()
    }
    observation = validate_all(task.spec.observation, task.observe({**raw, **shown}))
    for key in images:
        np.testing.assert_array_equal(observation[key], shown[f"camera/{key}"])
