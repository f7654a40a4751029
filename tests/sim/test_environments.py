"""Environments of other projects: what they show, take and reward, and what is said when they misbehave."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import their_environments
from hypothesis import given
from hypothesis import strategies as st

from robolearn.core.errors import ConfigError, MissingDependencyError, RobotStoppedError
from robolearn.core.protocols import Robot, Task
from robolearn.core.types import Command, Kind, Skill
from robolearn.hal.safety import SafeRobot
from robolearn.sim.drivers import environment
from robolearn.sim.environments.channels import Channel, keys_of
from robolearn.sim.environments.config import EnvironmentConfig, parse_success
from robolearn.sim.environments.task import EnvironmentTask
from robolearn.sim.tasks import dm, gym

LINE = "their_environments:TheirLine-v0"
Make = Callable[..., tuple[SafeRobot, EnvironmentTask]]


@pytest.fixture
def make() -> Iterator[Make]:
    """Robot and task of an environment; closed afterwards."""
    robots: list[SafeRobot] = []

    def build(name: str = LINE, *, source: Any = gym, realtime: bool = False, **options: Any) -> Any:
        config = EnvironmentConfig(id=name, **options)
        task = source.build(config)
        robot = environment.build(environment.Config(), scene=source.scene(config), realtime=realtime)
        robots.append(SafeRobot(robot, source.limits(config), epoch=1))
        return robots[-1], task

    yield build
    for robot in robots:
        robot.close()


def episode(robot: SafeRobot, task: EnvironmentTask, seed: int, act: Callable[[Any], Any]) -> list[Any]:
    """(observation, judgement) of each step until the environment or the step limit ends it."""
    task.reset(robot, np.random.default_rng(seed))
    raw = robot.observe()
    rows: list[Any] = [(task.observe(raw), None)]
    for _ in range(task.spec.max_steps):
        sent = robot.apply(task.command(act(raw)))
        before, raw = raw, robot.observe()
        rows.append((task.observe(raw), task.judge(before, sent, raw)))
        if rows[-1][1].kind.is_last:
            break
    return rows


def still(raw: Any) -> Any:
    return np.zeros(2)


def test_protocols(make: Make) -> None:
    robot, task = make()
    assert isinstance(task, Task)
    assert isinstance(robot._robot, Robot)


def test_spec_of_a_box(make: Make) -> None:
    robot, task = make()
    state = task.spec.observation["state"]
    assert (state.shape, state.dtype) == ((2,), "float32")
    assert task.spec.action.shape == (2,)
    assert (task.spec.max_steps, task.spec.control_hz) == (their_environments.STEPS, 25.0)
    assert robot.spec.action.low == (-0.5, 0.0)
    assert robot.spec.action.high == (0.5, 4.0)
    assert robot.observe()["state"].dtype == np.float64  # an expert sees what the environment shows


def test_episodes_repeat_by_seed_and_differ_between_seeds(make: Make) -> None:
    robot, task = make()
    first, other, again = (episode(robot, task, seed, still) for seed in (3, 4, 3))
    assert len(first) == their_environments.STEPS + 1
    for (one, _), (two, _) in zip(first, again, strict=True):
        np.testing.assert_array_equal(one["state"], two["state"])
    assert first[0][0]["state"][0] != other[0][0]["state"][0]


def test_time_out_bootstraps_and_the_end_of_the_world_does_not(make: Make) -> None:
    robot, task = make()
    assert episode(robot, task, 0, still)[-1][1].kind is Kind.TRUNCATED
    robot, task = make(kwargs='{"size": 9.9}', max_steps=500)
    rows = episode(robot, task, 0, lambda raw: np.array([1.0, 0.0]))
    assert rows[-1][1].kind is Kind.TERMINATED
    assert abs(rows[-1][0]["state"][0]) > 10
    with pytest.raises(RobotStoppedError, match="the episode is over"):
        robot.apply(task.command(np.zeros(2)))


def test_max_steps_stretches_and_shortens_the_limit_of_the_environment(make: Make) -> None:
    for limit in (5, 40):
        robot, task = make(max_steps=limit)
        assert task.spec.max_steps == limit
        rows = episode(robot, task, 1, still)
        assert len(rows) == limit + 1
        assert rows[-1][1].kind is Kind.TRUNCATED


def test_action_repeat_adds_rewards_and_slows_the_control_rate(make: Make) -> None:
    robot, task = make(action_repeat=3, max_steps=4)
    assert task.spec.control_hz == pytest.approx(25 / 3)
    rows = episode(robot, task, 0, lambda raw: np.array([0.2, 0.0]))
    x = rows[0][0]["state"][0]
    assert rows[1][0]["state"][0] == pytest.approx(x + 3 * 0.1)
    assert rows[1][1].reward == pytest.approx(-sum(abs(x + 0.1 * n) for n in (1, 2, 3)), rel=1e-5)
    assert len(rows) == 5


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=2))
def test_normalise_inverts_command(action: list[float]) -> None:
    task = gym.build(EnvironmentConfig(id=LINE))
    np.testing.assert_allclose(task.normalise(task.command(np.array(action))), action, atol=1e-6)


def test_flat_dict_with_odd_keys(make: Make) -> None:
    robot, task = make("their_environments:TheirKeys-v0")
    assert {key: spec.shape for key, spec in task.spec.observation.items()} == {
        "arm_left_pos": (2,),
        "arm": (1,),
        "count": (1,),
        "eye": (8, 6, 3),
    }
    task.reset(robot, np.random.default_rng(0))
    seen = task.observe(robot.observe())
    for key, spec in task.spec.observation.items():
        spec.validate(seen[key])
    assert seen["eye"][..., 0].min() == 250
    assert seen["eye"][..., 1:].max() == 0
    original = task.found.layout.join(robot.observe())
    assert original["eye"].shape == (3, 8, 6)
    assert original["arm/left pos"].shape == (2, 1)


@given(st.lists(st.text(max_size=6), unique=True, min_size=1, max_size=8))
def test_any_keys_become_different_names_a_buffer_can_store(sources: list[str]) -> None:
    from robolearn.buffer.schema import Schema
    from robolearn.core.spec import ArraySpec

    names = keys_of(sources)
    assert len(set(names.values())) == len(sources)
    Schema({name: ArraySpec(name, (1,)) for name in names.values()}, ArraySpec("action", (1,)))


def test_pictures_alone(make: Make) -> None:
    robot, task = make("their_environments:TheirSeen-v0")
    assert list(task.spec.observation) == ["image"]
    assert task.observe(robot.observe())["image"].shape == (8, 6, 3)
    assert task.statistics() == {}
    gym.build(EnvironmentConfig(id="their_environments:TheirSeen-v0"), obs="pixels")
    with pytest.raises(ConfigError, match="shows no images"):
        gym.build(EnvironmentConfig(id=LINE), obs="pixels")


def test_images_with_a_leading_one() -> None:
    hwc, chw = Channel("a", None, (1, 4, 5, 3), "uint8", "1hwc"), Channel("a", None, (1, 3, 4, 5), "uint8", "1chw")
    for one in (hwc, chw):
        picture = one.for_policy(np.zeros(one.shape, np.uint8))
        assert picture.shape == one.spec.shape == (4, 5, 3)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("DiscreteActions", "actions of Discrete do not work; continuous ones do"),
        ("EndlessActions", r"action elements \[0, 1\] have no bounds"),
        ("WholeActions", "Box of int64; expected floats"),
        ("NoActions", "the action is empty"),
        ("Nested", "'robot' is Dict; a flat Dict of Box works"),
        ("Tupled", "observations of Tuple do not work"),
        ("DiscreteKey", "'mode' is Discrete"),
        ("Grey", r"one grey channel do not work, RGB ones do: \(height, width, 3\)"),
        ("GreyLast", "one grey channel"),
        ("FourChannels", "images of this shape do not work"),
        ("FloatImage", "images work as uint8"),
        ("Empty", "expected at least one element"),
        ("Broken", r"not as its spaces say: .*shape \(2,\) instead of \(5,\)"),
    ],
)
def test_spaces_that_do_not_work(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        gym.build(EnvironmentConfig(id=f"their_environments:Their{name}-v0"))


@pytest.mark.parametrize(
    ("source", "name", "words"),
    [
        (gym, "Pendulm-v1", "unknown environment gym:Pendulm-v1: did you mean gym:Pendulum-v1"),
        (gym, "Pendulum-v0", "did you mean gym:Pendulum-v1"),
        (gym, "AnArmOfOurOwn-v0", "gym:PACKAGE.MODULE:AnArmOfOurOwn-v0"),
        (gym, "", "say which environment, for example gym:Pendulum-v1"),
        (dm, "", "say which environment"),
        (dm, "their_environments:DmLin", "did you mean 'DmLine'"),
    ],
)
def test_unknown_environments(source: Any, name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        source.build(EnvironmentConfig(id=name))


def test_missing_package() -> None:
    with pytest.raises(MissingDependencyError, match="no module named 'no_such_package'"):
        gym.build(EnvironmentConfig(id="no_such_package:Arm-v0"))


def test_wrong_arguments_of_the_environment() -> None:
    with pytest.raises(ConfigError, match=r"cannot be made with --env-kwargs .*sise"):
        gym.build(EnvironmentConfig(id=LINE, kwargs='{"sise": 1}'))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kwargs": "{g: 1}"}, "env.kwargs: expected a JSON object"),
        ({"kwargs": "[1]"}, "env.kwargs: expected a JSON object"),
        ({"action_repeat": 0}, "env.action_repeat: expected at least 1"),
        ({"max_steps": -1}, "env.max_steps"),
        ({"expert": "module"}, "expected MODULE:CALLABLE"),
        ({"success_key": "reward>high"}, "expected a number after '>'"),
        ({"success_key": "height>3"}, "expected a key of info, 'terminated', 'reward>X' or 'return>X'"),
        ({"success_at": "never"}, "env.success_at"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        EnvironmentConfig(id=LINE, **options)


def test_success_of_info_at_any_step_or_at_the_end(make: Make) -> None:
    def through(raw: Any) -> Any:  # to the middle, and on
        return np.array([-np.sign(first), 0.0])

    for when, expected in (("any", True), ("end", False)):
        robot, task = make(success_at=when)
        task.reset(robot, np.random.default_rng(0))
        first = robot.observe()["state"][0]
        assert abs(first) > 0.5
        judged = [row[1].success for row in episode(robot, task, 0, through)[1:]]
        assert any(judged)
        assert judged[-1] is expected
    assert gym.remarks(EnvironmentConfig(id=LINE)) == ["success: info['is_success'] at any step"]


def test_success_by_other_rules(make: Make) -> None:
    robot, task = make(success_key="return>-100000")
    judged = [row[1].success for row in episode(robot, task, 0, still)[1:]]
    assert judged == [False] * (their_environments.STEPS - 1) + [True]
    robot, task = make(success_key="reward>0")
    assert not episode(robot, task, 0, still)[-1][1].success
    robot, task = make(success_key="reward>-3")
    assert episode(robot, task, 0, still)[1][1].success
    robot, task = make(success_key="terminated", kwargs='{"size": 9.9}', max_steps=500)
    assert episode(robot, task, 0, lambda raw: np.array([1.0, 0.0]))[-1][1].success


def test_fallback_is_told_and_needs_a_positive_reward(make: Make) -> None:
    robot, task = make(kwargs='{"size": 9.9, "report": ""}', max_steps=500)
    (said,) = gym.remarks(task.world.config)
    assert "reports no success that is known here" in said
    assert "terminated with a positive reward" in said
    last = episode(robot, task, 0, lambda raw: np.array([1.0, 0.0]))[-1][1]
    assert last.kind is Kind.TERMINATED
    assert not last.success  # the reward was negative
    (said,) = gym.remarks(EnvironmentConfig(id=LINE, success_key="solved"))
    assert "which the first step does not show (its info has: is_success)" in said


def test_success_that_is_reported_only_at_the_end(make: Make) -> None:
    robot, task = make("their_environments:TheirLate-v0", expert="their_environments:line_expert")
    assert "reports no success" in gym.remarks(task.world.config)[0]  # as far as the first step shows
    rng = np.random.default_rng(0)
    rows = episode(robot, task, 0, lambda raw: task.expert(raw, rng, skill=Skill.INFORMED))
    assert [row[1].success for row in rows[1:]] == [False] * (len(rows) - 2) + [True]
    assert rows[-1][1].reward < 0  # so the fallback would have said no


def test_no_step_limit_is_told() -> None:
    config = EnvironmentConfig(id="their_environments:TheirEndless-v0")
    assert gym.build(config).spec.max_steps == 1000
    assert "no step limit" in gym.remarks(config)[0]


def test_success_rules_read_as_written() -> None:
    assert parse_success(" return > -2e2 ").threshold == -200.0
    assert parse_success("is_success").key == "is_success"
    assert parse_success("").keys == ("success", "is_success", "succeed")


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("step raises", r"step failed: ZeroDivisionError: division by zero \(their_environments.py:\d+\)"),
        ("another shape", r"in step, 'state' has shape \(3,\) instead of \(2,\)"),
        ("not finite", "in step, 'state' is not finite"),
        ("reward is nan", "the reward is not finite"),
        ("words", "has dtype"),
        ("four values", "step failed: ValueError"),
        ("reset raises", "reset failed: RuntimeError: the simulator is gone"),
        ("reset returns nothing", "reset failed: TypeError"),
    ],
)
def test_bad_days_are_one_line_and_stop_the_robot(make: Make, way: str, words: str) -> None:
    robot, task = make("their_environments:TheirBad-v0", kwargs=f'{{"way": "{way}"}}')
    if way.startswith("reset"):
        episode(robot, task, 0, still)
    with pytest.raises(RobotStoppedError, match=words) as caught:
        episode(robot, task, 1, still)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("gym:their_environments:TheirBad-v0: ")
    assert robot.stopped
    with pytest.raises(RobotStoppedError):
        task.reset(robot, np.random.default_rng(2))
    robot.clear("Ada")
    with pytest.raises(RobotStoppedError):  # it has to be reset first
        robot.apply(task.command(np.zeros(2)))


def test_keys_that_go_missing(make: Make) -> None:
    robot, task = make("their_environments:TheirBadKeys-v0")
    task.reset(robot, np.random.default_rng(0))
    with pytest.raises(RobotStoppedError, match=r"in reset, the observation lacks \['arm'\]"):
        task.reset(robot, np.random.default_rng(1))


def test_expert_in_the_units_of_the_environment(make: Make) -> None:
    robot, task = make(expert="their_environments:stateful")
    assert task.spec.skills == (Skill.INFORMED, Skill.WEAK)
    rng = np.random.default_rng(0)
    rows = episode(robot, task, 0, lambda raw: task.expert(raw, rng, skill=Skill.INFORMED))
    assert rows[-1][1].success
    assert abs(rows[-1][0]["state"][0]) < 1e-3
    calls, resets = their_environments.stateful.calls, their_environments.stateful.resets
    assert calls == len(rows) - 1
    episode(robot, task, 0, still)
    assert (their_environments.stateful.resets, their_environments.stateful.calls) == (resets + 1, 0)


def test_weak_expert_is_worse_than_the_given_one(make: Make) -> None:
    robot, task = make(expert="their_environments:line_expert")
    task.reset(robot, np.random.default_rng(0))
    raw, rng = robot.observe(), np.random.default_rng(0)
    best = task.expert(raw, rng, skill=Skill.INFORMED)
    weak = np.stack([task.expert(raw, rng, skill=Skill.WEAK) for _ in range(200)])
    assert 0.1 < np.abs(weak - best).mean() < 0.6
    assert np.abs(weak).max() <= 1.0
    with pytest.raises(ConfigError, match="no blind expert"):
        task.expert(raw, rng, skill=Skill.BLIND)


@pytest.mark.parametrize(
    ("expert", "words"),
    [
        ("raising_expert", r"raising_expert failed: ValueError: no idea \(their_environments.py:\d+\)"),
        ("misshapen_expert", r"expected an action of shape \(1, 2\), got \(2,\)"),
        ("endless_expert", "expected finite numbers, got "),
    ],
)
def test_experts_that_fail(make: Make, expert: str, words: str) -> None:
    robot, task = make(expert=f"their_environments:{expert}")
    with pytest.raises(ConfigError, match=words):
        task.expert(robot.observe(), np.random.default_rng(0), skill=Skill.INFORMED)


@pytest.mark.parametrize(
    ("expert", "words"),
    [
        ("no_such_module:f", "'no_such_module' cannot be imported"),
        ("their_environments:line_exper", "did you mean 'line_expert'"),
        ("their_environments:not_callable", "is int, expected something to call"),
    ],
)
def test_experts_that_are_not_there(expert: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        gym.build(EnvironmentConfig(id=LINE, expert=expert))


def test_scale_comes_from_bounds_and_from_play(make: Make) -> None:
    _, task = make("their_environments:TheirKeys-v0")
    found = task.statistics()
    assert set(found) == {"arm_left_pos", "arm", "count"}
    np.testing.assert_allclose(found["arm_left_pos"][1], [5.0, 5.0])
    np.testing.assert_allclose(found["count"], [[4.5], [4.5]])
    assert 0.1 < found["arm"][1][0] < 5.0
    gym.build(task.world.config)
    np.testing.assert_array_equal(found["arm"], task.statistics()["arm"])


@pytest.mark.parametrize("way", ["step raises", "not finite", "reset raises"])
def test_a_failure_while_scales_are_taken_is_left_to_the_robots(way: str) -> None:
    task = gym.build(EnvironmentConfig(id="their_environments:TheirBad-v0", kwargs=f'{{"way": "{way}"}}'))
    mean, std = task.statistics()["state"]
    assert np.isfinite(mean).all()
    assert (std > 0).all()
    assert mean[0] != 0.0  # the steps before it count


def test_pictures_for_people_fit_the_size_asked_for(make: Make) -> None:
    robot, _ = make()
    picture = robot._robot.render(64, 48)
    assert picture.shape == (48, 64, 3)
    assert picture[24].min() == 200
    assert picture[0].max() == 0
    robot, _ = make("their_environments:DmLine", source=dm)
    assert robot._robot.render is None


def test_an_arm_task_is_refused() -> None:
    from robolearn.sim.tasks import peg_insert

    with pytest.raises(ConfigError, match="is for the tasks gym:ENV_ID and dm:DOMAIN/TASK"):
        environment.build(environment.Config(), scene=peg_insert.scene(peg_insert.Config()))


def test_commands_of_an_older_epoch_are_refused(make: Make) -> None:
    from robolearn.core.errors import StaleEpochError

    robot, task = make()
    robot.take(5)
    task.reset(robot, np.random.default_rng(0))
    with pytest.raises(StaleEpochError):
        robot._robot.apply(Command(np.array([0.0, 2.0]), 4))


def test_dm_env_of_ones_own(make: Make) -> None:
    robot, task = make("their_environments:DmLine", source=dm)
    assert task.spec.observation["x"].shape == (1,)
    one, two, again = (episode(robot, task, seed, lambda raw: np.zeros(1)) for seed in (0, 1, 0))
    assert one[0][0]["x"][0] == again[0][0]["x"][0] != two[0][0]["x"][0]
    assert len(one) == 6
    assert one[-1][1].kind is Kind.TRUNCATED
    ended = episode(robot, task, 0, lambda raw: np.ones(1))
    assert ended[-1][1].kind is Kind.TERMINATED
    assert ended[-1][1].success  # reward 1 is above 0.9
    assert any("reward above 0.9" in said for said in dm.remarks(task.world.config))


def test_tasks_of_dm_control(make: Make) -> None:
    robot, task = make("reacher/easy", source=dm, kwargs='{"time_limit": 0.2}')
    assert (task.spec.max_steps, task.spec.control_hz) == (10, 50.0)
    first, again = (episode(robot, task, 7, lambda raw: np.full(2, 0.5)) for _ in range(2))
    assert len(first) == 11
    assert first[-1][1].kind is Kind.TRUNCATED
    np.testing.assert_array_equal(first[-1][0]["position"], again[-1][0]["position"])
    with pytest.raises(ConfigError, match=r"did you mean dm:reacher/easy"):
        dm.build(EnvironmentConfig(id="reacher/esy"))


@pytest.mark.render
def test_dm_control_is_drawn(make: Make) -> None:
    robot, _ = make("reacher/easy", source=dm)
    picture = robot._robot.render(96, 64)
    assert picture.shape == (64, 96, 3)
    assert picture.std() > 5.0


@pytest.mark.slow
def test_manipulation_of_dm_control(make: Make) -> None:
    robot, task = make("manipulation/reach_site_features", source=dm, max_steps=5)
    first, again = (episode(robot, task, 7, lambda raw: np.full(9, 0.1)) for _ in range(2))
    for key in task.spec.observation:
        np.testing.assert_array_equal(first[-1][0][key], again[-1][0][key])
    with pytest.raises(ConfigError, match="takes no keyword arguments"):
        dm.build(EnvironmentConfig(id="manipulation/reach_site_features", kwargs='{"a": 1}'))
    with pytest.raises(ConfigError, match="unknown environment dm:manipulation/reach: did you mean"):
        dm.build(EnvironmentConfig(id="manipulation/reach"))
