"""Where things are, how a scripted episode runs, and what the tests of several tasks ask alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from robolearn.core.protocols import Task
from robolearn.core.spec import ArraySpec
from robolearn.core.symmetry import Symmetry
from robolearn.core.types import Command, Kind, RobotSpec, Skill
from robolearn.hal.safety import SafeRobot
from robolearn.sim import insertion
from robolearn.sim.held import TIP_M
from robolearn.sim.person import Person
from robolearn.sim.robot import SimRobot
from robolearn.sim.tasks import peg_insert
from robolearn.sim.tasks.peg_insert import PegInsert

OPENING = np.array(peg_insert.OPENING_M)
DOWN = np.array([0.0, 1.0, 0.0, 0.0])
Make = Callable[..., tuple[Any, Any]]


def at(x_mm: float, y_mm: float, depth_mm: float, turn: np.ndarray = DOWN) -> np.ndarray:
    """(7,) tip pose relative to the nominal opening."""
    return np.concatenate([OPENING + 1e-3 * np.array([x_mm, y_mm, -depth_mm]), turn])


def place(robot: SimRobot, task: PegInsert, tip: np.ndarray, error_mm: tuple[float, float] = (0.0, 0.0)) -> None:
    """Start an episode with the estimate at the nominal opening and the tip where it is wanted."""
    task.place(robot, at(0, 0, 0), 1e-3 * np.array([*error_mm, 0.0]), 0.0, tip)
    task.observe(robot.observe())


def seen(tip: np.ndarray, reference: np.ndarray | None = None, **more: np.ndarray) -> dict[str, np.ndarray]:
    """A robot observation with the tip somewhere, at its reference unless told, and all else zero."""
    return {
        "tool_pose": tip,
        "tool_twist": np.zeros(6),
        "tool_reference": tip[3:] if reference is None else reference,
        "wrench": np.zeros(6),
        "peak_force": np.zeros(1),
        "action": np.zeros(7),
    } | more


def solved(task: Task, raw: dict[str, np.ndarray]) -> bool:
    """Whether this observation, twice in a row, counts as success."""
    verdict = task.judge(raw, np.zeros(7), raw)
    assert verdict.reward == float(verdict.success)
    assert verdict.kind is (Kind.TERMINATED if verdict.success else Kind.MID)
    return verdict.success


def run(robot: SimRobot, task: Any, seed: int, *, skill: Skill) -> tuple[bool, list[np.ndarray], float]:
    """One scripted episode: success, the observations, the largest force."""
    rng = np.random.default_rng(seed)
    task.reset(robot, rng)
    raw, states, peak = robot.observe(), [], 0.0
    states.append(task.observe(raw)["state"])
    for _ in range(task.spec.max_steps):
        sent = robot.apply(Command(task.command(task.expert(raw, rng, skill=skill)), 0))
        after = robot.observe()
        verdict = task.judge(raw, sent, after)
        raw = after
        states.append(task.observe(raw)["state"])
        peak = max(peak, verdict.info["peak_force_n"])
        if verdict.kind.is_last:
            break
    return verdict.success, states, peak


def follow(robot: SimRobot, task: Task, actions: Sequence[np.ndarray]) -> np.ndarray:
    """States of the episode that has begun, at first and after each action."""
    states = [task.observe(robot.observe())["state"]]
    for action in actions:
        robot.apply(Command(task.command(action), 0))
        states.append(task.observe(robot.observe())["state"])
    return np.array(states)


def assert_turned_is_nearly_the_same(
    robot: SimRobot,
    task: Task,
    symmetry: Symmetry,
    start: Callable[[Callable[[np.ndarray], np.ndarray]], None],
    *,
    wrench: slice,
    free: Sequence[int],
    seed: int = 0,
    turning: float = 0.0,
) -> None:
    """An episode in which the tool comes down beside the opening, presses and is dragged over it, at random, and the
    transformed one look as the symmetry says.

    Args:
        start: begins either, given what the symmetry does to (6,) actions, and to displacements and turns like them.
        wrench: where a state has it; it shows whether the tool has touched.
        free: components of a state that nothing hinders to move.
        turning: mean turn commanded about the tool's axis.
    """
    rng = np.random.default_rng(seed)
    actions = np.clip(rng.normal((-0.2, 0.1, 0.3, 0.0, 0.0, turning), 0.4, (25, 6)), -1.0, 1.0)
    start(lambda action: action)
    expected = symmetry.observation["state"](follow(robot, task, actions))
    start(symmetry.action)
    found = follow(robot, task, [symmetry.action(action) for action in actions])
    assert np.abs(expected[:, wrench]).max() > 0.5, "it never touched"
    for component in free:
        assert np.corrcoef(expected[:, component], found[:, component])[0, 1] > 0.8, component


class Cell:
    """A robot that notes where it is sent; it cannot place bodies unless told so."""

    def __init__(self, *, places_bodies: bool = False) -> None:
        self.spec, self.places_bodies = RobotSpec("cell", {}, ArraySpec("action", (7,)), 10.0), places_bodies
        self.tips: list[np.ndarray] = []
        self.scenes: list[dict[str, np.ndarray]] = []

    def reset(self, tcp_pose: np.ndarray, scene: dict[str, np.ndarray]) -> None:
        self.tips.append(insertion.displaced(tcp_pose, np.array([0.0, 0.0, TIP_M]), 0.0))
        self.scenes.append(dict(scene))


def somebody(robot: SimRobot, task: Any, seed: int) -> Person:
    """The weak person of an episode."""
    task.reset(robot, np.random.default_rng(seed))
    task.expert(robot.observe(), np.random.default_rng(seed), skill=Skill.WEAK)
    person: Person = task._person
    return person


def assert_fits(robot: SimRobot, module: ModuleType, task: Any, seeds: int = 10) -> None:
    """The task suits its robot, starts within the safety limits, and unit actions stay within them."""
    assert isinstance(task, Task)
    assert task.spec.control_hz == robot.spec.control_hz
    safe = SafeRobot(robot, module.limits(task.config), epoch=1)
    for seed in range(seeds):
        task.reset(safe, np.random.default_rng(seed))
        task.spec.observation["state"].validate(task.observe(safe.observe())["state"])
    for corner in np.array(np.meshgrid(*[[-1.0, 1.0]] * 3)).reshape(3, -1).T:
        safe.apply(task.command(np.append(corner, [0, 0, 0])))
        task.observe(safe.observe())
        assert not safe.last_altered, "unit actions stay within the safety limits"


def assert_truth_is_hidden(robot: SimRobot, task: Task, starts: Sequence[Callable[[], None]]) -> None:
    """Episodes that differ in the truth only look the same until something is touched."""
    views = []
    for start in starts:
        start()
        views.append(follow(robot, task, [np.array([-0.3, 0.2, 0.3, 0, 0, 0.1])] * 3))
    for view in views[1:]:
        np.testing.assert_array_equal(views[0], view)


def assert_blind_fails_gently(robot: SimRobot, task: Any, seeds: int, most: int) -> None:
    """The blind expert succeeds in few of the episodes and presses with less than 20 N."""
    outcomes = [run(robot, task, seed, skill=Skill.BLIND) for seed in range(seeds)]
    assert sum(success for success, _, _ in outcomes) <= most
    assert max(peak for _, _, peak in outcomes) < 20


def assert_weak_is_slower(robot: SimRobot, task: Any, seeds: int, factor: float) -> None:
    """A weak person succeeds now and then, and takes longer than the informed expert."""
    outcomes = {s: [run(robot, task, seed, skill=s) for seed in range(seeds)] for s in (Skill.WEAK, Skill.INFORMED)}
    assert any(success for success, _, _ in outcomes[Skill.WEAK])
    weak, informed = (np.mean([len(states) for _, states, _ in found]) for found in outcomes.values())
    assert weak > factor * informed


def assert_pixels_show(make: Make, module: ModuleType) -> None:
    """Both cameras see something, and images are not said to have symmetries."""
    robot, task = make("smoke", obs="pixels", cameras=module.IMAGES)
    assert task.spec.symmetries == ()
    task.reset(robot, np.random.default_rng(0))
    observation = task.observe(robot.observe())
    assert set(observation) == {"state", *module.IMAGES}
    for name in module.IMAGES:
        assert observation[name].std() > 15
