"""Pick and place: what counts as success, what the policy sees, symmetries, scripted experts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robolearn.core.errors import ConfigError
from robolearn.core.protocols import Task
from robolearn.core.spec import ArraySpec
from robolearn.core.types import Command, Kind, RobotSpec, Skill
from robolearn.hal.safety import SafeRobot
from robolearn.sim import rotation
from robolearn.sim.drivers import fr3_sim
from robolearn.sim.placing import heading_of, nearest_face, yaw_of
from robolearn.sim.tasks import pick_place
from robolearn.sim.tasks.pick_place import FLOOR_M, FRAME, RIM_M, TURN_DOWN, Config, Layout, PickPlace

Make = Callable[..., tuple]
unit = st.floats(-1, 1)
angle = st.floats(-3, 3)
TRAY = np.array([0.5, 0.0])
HALF = Config().half


@pytest.fixture(scope="module")
def make() -> Iterator[Make]:
    """A robot for each tier, shared by the tests, and a fresh task."""
    robots: dict[str, fr3_sim.Fr3Sim] = {}

    def build(tier: str = "default", **changes: object) -> tuple:
        config = replace(pick_place.TIERS[tier], **changes)  # type: ignore[arg-type]
        if tier not in robots:
            robots[tier] = fr3_sim.build(fr3_sim.Config(), scene=pick_place.scene(config))
        return robots[tier], pick_place.build(config)

    yield build
    for robot in robots.values():
        robot.close()


def _pose(x: float, y: float, z: float, turn: np.ndarray | None = None) -> np.ndarray:
    return np.array([x, y, z, *((1.0, 0.0, 0.0, 0.0) if turn is None else turn)])


def _seen(
    cube: np.ndarray, *, tip: tuple[float, float, float] = (0.5, 0.0, 0.15), opening: float = 1.0, yaw: float = 0.0,
    other: np.ndarray | None = None,
) -> dict[str, np.ndarray]:  # fmt: skip
    """A robot observation at rest."""
    turn = rotation.multiply(rotation.about_z(yaw), TURN_DOWN)
    return {
        "tool_pose": np.array([*tip, *turn]),
        "tool_twist": np.zeros(6),
        "tool_reference": turn,
        "peak_force": np.zeros(1),
        "action": np.zeros(7),
        "gripper": np.array([opening]),
        "body/object": cube,
        "body/distractor": _pose(0.4, -0.1, HALF) if other is None else other,
    }


def _built(config: Config | None = None) -> PickPlace:
    """A task whose tray is at TRAY."""
    task = pick_place.build(config or Config())
    task._tray = np.array([*TRAY, 0.0])
    return task


def _judge(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> bool:
    verdict = _built().judge(before, np.zeros(7), after)
    assert verdict.reward == float(verdict.success)
    assert verdict.kind is (Kind.TERMINATED if verdict.success else Kind.MID)
    return verdict.success


INSIDE = _pose(0.51, -0.02, FLOOR_M + HALF)
BESIDE = _pose(0.5, 0.12, HALF)
ALONG_X = np.eye(7)[0]
FACES = [np.array(q) for q in ([1.0, 0, 0, 0], [0.5**0.5, 0.5**0.5, 0, 0], [0, 0.6, 0.8, 0], [0.5, 0.5, 0.5, 0.5])]


@pytest.mark.parametrize("turn", FACES)
def test_a_cube_at_rest_in_the_tray_counts_on_any_face(turn: np.ndarray) -> None:
    seen = _seen(np.array([*INSIDE[:3], *turn]))
    assert _judge(seen, seen)


def _on_edge(degrees: float) -> np.ndarray:
    return np.array([math.cos(math.radians(degrees) / 2), math.sin(math.radians(degrees) / 2), 0.0, 0.0])


NOT_THERE = {
    "beside the tray": _seen(BESIDE),
    "held above": _seen(_pose(0.5, 0.0, 0.07), tip=(0.5, 0.0, 0.07), opening=0.5),
    "in the tray, still held": _seen(INSIDE, tip=tuple(INSIDE[:3]), opening=0.5),
    "let go, hand still there": _seen(INSIDE, tip=(0.51, -0.02, 0.055)),
    "away but half closed": _seen(INSIDE, opening=0.5),
    "falling": _seen(_pose(0.5, 0.0, FLOOR_M + HALF + 0.01)),
    "flat on the rim": _seen(_pose(0.5, 0.06, RIM_M + HALF)),
    "leaning over the rim": _seen(_pose(0.5, 0.048, 0.034, _on_edge(40))),
    "standing on the other cube": _seen(_pose(0.5, 0.0, FLOOR_M + 3 * HALF)),
    "through the floor": _seen(_pose(0.5, 0.0, HALF - 0.002)),
    "the other cube is there": _seen(BESIDE, other=INSIDE),
}


@pytest.mark.parametrize("seen", NOT_THERE.values(), ids=NOT_THERE.keys())
def test_anything_else_does_not(seen: dict[str, np.ndarray]) -> None:
    assert not _judge(seen, seen)


def test_a_cube_that_slides_or_spins_is_not_there_yet() -> None:
    now = _seen(INSIDE)
    slid, spun = INSIDE + 0.0012 * ALONG_X, np.array([*INSIDE[:3], *rotation.about_z(0.03)])
    assert not _judge(_seen(slid), now)
    assert not _judge(_seen(spun), now)
    assert _judge(_seen(INSIDE + 0.0008 * ALONG_X), now)


@given(st.tuples(unit, unit, unit, unit, unit), st.floats(-1.8, 1.8), unit, unit)
def test_normalise_inverts_command(action: tuple[float, ...], yaw: float, tilt: float, lag: float) -> None:
    """Whatever way the hand leans and lags behind its reference; displacements beyond the robot's are shortened."""
    task, wanted = _built(), np.array(action)
    seen = _seen(BESIDE, yaw=yaw)
    lean = rotation.from_rotvec(np.array([0.05 * tilt, 0.0, 0.05 * lag]))
    seen["tool_pose"][3:] = rotation.multiply(seen["tool_pose"][3:], lean)
    task.observe(seen)
    command = task.command(wanted)
    executed = task.normalise(command)
    np.testing.assert_allclose(executed[3:], wanted[3:], atol=1e-5)
    part = np.abs(command[:3]).max() / 0.02
    assert part <= 1 + 1e-9
    if part < 0.999:
        np.testing.assert_allclose(executed[:3], wanted[:3], atol=1e-5)
    else:  # shortened, not bent
        assert np.linalg.norm(np.cross(executed[:3], wanted[:3])) < 1e-5
    np.testing.assert_allclose(task.normalise(task.command(executed)), executed, atol=1e-5)


@given(st.tuples(*[st.floats(-5, 5)] * 5), st.floats(-2.5, 2.5))
def test_command_is_always_acceptable(action: tuple[float, ...], yaw: float) -> None:
    task, limits = _built(), pick_place.limits(Config())
    task.observe(_seen(BESIDE, yaw=yaw))
    command = task.command(np.array(action))
    assert np.linalg.norm(command[:3]) <= limits.translation
    assert np.abs(command[:3]).max() <= 0.02 + 1e-12
    assert np.linalg.norm(command[3:6]) <= limits.rotation
    assert 0.0 <= command[6] <= 1.0
    reached = yaw_of(rotation.multiply(task._reference, rotation.from_rotvec(command[3:6])))
    assert abs(reached) <= max(pick_place.MAX_YAW, abs(yaw)) + 1e-9


def test_displacements_are_along_the_base_axes_however_the_hand_is_turned() -> None:
    task = _built()
    for yaw in (0.0, 0.7, -1.5):
        seen = _seen(BESIDE, yaw=yaw)
        task.observe(seen)
        command = task.command(np.array([0.5, 0.0, -0.25, 0.5, 0.2]))
        turn = rotation.matrix(seen["tool_pose"][3:])
        np.testing.assert_allclose(turn @ command[:3], [0.01, 0.0, -0.005], atol=1e-9)
        np.testing.assert_allclose(turn @ command[3:6], [0.0, 0.0, 0.5 * pick_place.MAX_TURN], atol=1e-9)
        assert command[6] == pytest.approx(0.6)


@given(angle, st.integers(0, 3), angle)
def test_a_cube_looks_the_same_after_quarter_turns(yaw: float, quarters: int, hand: float) -> None:
    plain = _pose(0.5, 0.1, HALF, rotation.about_z(yaw))
    other = _pose(0.5, 0.1, HALF, rotation.about_z(yaw + quarters * math.pi / 2))
    seen = [_built().observe(_seen(cube))["state"] for cube in (plain, other)]
    np.testing.assert_allclose(seen[0], seen[1], atol=1e-5)
    assert abs(nearest_face(plain, hand) - hand) <= math.pi / 4 + 1e-9
    assert math.cos(4 * (nearest_face(plain, hand) - yaw)) == pytest.approx(1.0)
    tipped = rotation.multiply(rotation.about_z(yaw), FACES[1])
    assert math.cos(4 * (heading_of(_pose(0, 0, 0, tipped)) - yaw)) == pytest.approx(1.0)


def _moved(pose: np.ndarray, plane: np.ndarray, yaw: float) -> np.ndarray:
    """Position about the working area's middle changed by ``plane`` (2, 2); turned to ``yaw``."""
    return np.array([*(TRAY + plane @ (pose[:2] - TRAY)), pose[2], *rotation.about_z(yaw)])


def _plane(number: int) -> tuple[np.ndarray, Callable[[float], float]]:
    """The numbered symmetry of the table's plane: on vectors, and on the yaw of something."""
    turns, mirror = [(t, m) for t in range(4) for m in (1, -1)][number + 1]
    matrix = np.linalg.matrix_power(np.array([[0, -1], [1, 0]]), turns) @ np.diag([1, mirror])
    return matrix, lambda yaw: mirror * yaw + turns * math.pi / 2


def _grip_yaw(yaw: float) -> float:
    """The same hand as it can be held: half a turn makes no difference to it."""
    return math.remainder(yaw, math.pi)


@pytest.mark.parametrize("number", range(7))
@given(x=unit, y=unit, yaw=angle, hand=angle, twist=st.tuples(unit, unit, unit, unit), action=st.tuples(*[unit] * 5))
def test_a_mirrored_or_turned_table_is_seen_as_the_symmetry_says(
    number: int, x: float, y: float, yaw: float, hand: float, twist: tuple[float, ...], action: tuple[float, ...]
) -> None:
    plane, turned = _plane(number)
    symmetry = pick_place.build(Config()).spec.symmetries[number]
    states = []
    for changed in (False, True):
        matrix, about = (plane, turned) if changed else (np.eye(2), lambda angle: angle)
        task = _built()
        cube, other = _pose(0.5 + 0.1 * x, 0.1 * y, 0.03), _pose(0.5 + 0.1 * y, -0.1, HALF)
        tip = [*(TRAY + matrix @ np.array([0.05 * y, -0.07 * x])), 0.12]
        seen = _seen(_moved(cube, matrix, about(yaw)), tip=tuple(tip), yaw=_grip_yaw(about(hand)), opening=0.3,
                     other=_moved(other, matrix, 0.0))  # fmt: skip
        task.observe(seen)
        act = np.array(action) * [0.5, 0.5, 0.5, 1, 1]
        turn = rotation.matrix(seen["tool_pose"][3:])
        motion = np.array([*(matrix @ twist[:2]), twist[2], 0, 0, np.linalg.det(matrix) * twist[3]])
        seen["tool_twist"] = np.concatenate([turn.T @ motion[:3], turn.T @ motion[3:]])
        task._reference = seen["tool_reference"]
        seen["action"] = task.command(symmetry.action(act) if changed else act)
        executed = task.normalise(seen["action"])
        states.append(task.observe(seen)["state"])
        np.testing.assert_allclose(states[-1][[15, 16, 17, 25, 27]], executed, atol=1e-4)
    np.testing.assert_allclose(symmetry.observation["state"](states[0]), states[1], atol=2e-4)


@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_mirrored_or_turned_episode_is_nearly_the_same(make: Make, number: int) -> None:
    """The hand goes down on a cube, closes askew, lifts it and turns: all of it, turned or mirrored."""
    robot, task = make()
    symmetry, (plane, turned) = task.spec.symmetries[number], _plane(number)
    down, close, up = [0.1, 0.15, -0.9, 0.4, 1], [0, 0, 0, 0, -1], [-0.4, 0.5, 0.6, -0.5, -1]
    actions = np.array([down] * 8 + [close] * 5 + [up] * 10, dtype=np.float32)
    both = []
    for changed in (False, True):
        matrix, about, act = (plane, turned, symmetry.action) if changed else (np.eye(2), lambda a: a, lambda a: a)
        place = lambda x, y: TRAY + matrix @ np.array([x, y])  # noqa: B023, E731
        layout = Layout(place(-0.07, -0.08), place(0.02, 0.02), place(0.1, 0.1), (about(0.2), about(0.5)))
        task.place(robot, layout, np.array([*place(0.01, 0.0), 0.12]), _grip_yaw(about(0.1)))
        states = [task.observe(robot.observe())["state"]]
        for action in actions:
            robot.apply(Command(task.command(act(action)), 0))
            states.append(task.observe(robot.observe())["state"])
        both.append(np.array(states))
    assert both[0][-1][8] > both[0][0][8] + 0.5, "the cube was not lifted"
    expected, found = symmetry.observation["state"](both[0]), both[1]
    np.testing.assert_allclose(found[:, :12], expected[:, :12], atol=0.15)
    assert np.abs(found - expected).mean() < 0.03


class Recorder:
    """A robot that notes where things are put."""

    def __init__(self, *bodies: str) -> None:
        shown = {f"body/{name}": ArraySpec(f"body/{name}", (7,)) for name in bodies}
        self.spec = RobotSpec("cell", shown, ArraySpec("action", (7,)), 10.0)

    def reset(self, tcp_pose: np.ndarray, scene: dict[str, np.ndarray]) -> None:
        self.tip, self.scene = tcp_pose, scene


@pytest.mark.parametrize("tier", list(pick_place.TIERS))
def test_draws_cover_the_announced_ranges_and_nothing_overlaps(tier: str) -> None:
    config = pick_place.TIERS[tier]
    task, robot, limits = pick_place.build(config), Recorder("object", "distractor"), pick_place.limits(config)
    seen = []
    for seed in range(300):
        task.reset(robot, np.random.default_rng(seed))  # type: ignore[arg-type]
        tray, cube, other = (robot.scene[name] for name in ("tray", "object", "distractor"))
        radius, wall = math.sqrt(2) * config.half, config.inner + pick_place.WALL_M
        assert math.dist(cube[:2], other[:2]) > 2 * radius
        for body in (cube, other):
            assert np.abs(body[:2] - tray[:2]).max() > wall + radius
            assert body[2] == config.half
        assert (robot.tip[:3] >= limits.low).all()
        assert (robot.tip[:3] <= limits.high).all()
        seen.append([*tray[:2], *cube[:2], *other[:2], *(2 * np.arcsin(body[6]) for body in (cube, other))])
    spread = np.abs(np.array(seen) - [*TRAY, *TRAY, *TRAY, 0, 0]).max(axis=0)
    yaw = math.radians(config.yaw_deg)
    np.testing.assert_allclose(spread, [*(1e-3 * np.array(config.range_mm * 3)), yaw, yaw], rtol=0.06)


def test_a_robot_that_shows_no_cubes_is_refused() -> None:
    with pytest.raises(ConfigError, match="cell cannot place the cubes"):
        pick_place.build(Config()).reset(Recorder("object"), np.random.default_rng(0))  # type: ignore[arg-type]


def test_too_small_a_table_is_refused() -> None:
    task, robot = pick_place.build(Config(range_mm=(30.0, 30.0))), Recorder("object", "distractor")
    with pytest.raises(ConfigError, match="no room"):
        task.reset(robot, np.random.default_rng(0))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "said"), [({"history": (1,)}, "history"), ({"cube_mm": 70.0}, "cube_mm"), ({"tray_mm": 50.0}, "tray_mm")]
)
def test_bad_configurations_are_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        replace(Config(), **change)  # type: ignore[arg-type]


@pytest.mark.parametrize("tier", list(pick_place.TIERS))
def test_tiers_build_and_fit_their_robot(make: Make, tier: str) -> None:
    robot, task = make(tier)
    assert isinstance(task, Task)
    assert task.spec.control_hz == robot.spec.control_hz
    safe = SafeRobot(robot, pick_place.limits(task.config), epoch=1)
    task.reset(safe, np.random.default_rng(0))
    task.spec.observation["state"].validate(task.observe(safe.observe())["state"])
    for corner in np.array(np.meshgrid(*[[-1.0, 1.0]] * 4)).reshape(4, -1).T:
        safe.apply(task.command(np.append(corner, 1.0)))
        task.observe(safe.observe())
        assert not safe.last_altered, "unit actions stay within the safety limits"


def test_history_shows_older_frames(make: Make) -> None:
    robot, task = make(history=(0, 2))
    task.reset(robot, np.random.default_rng(0))
    frames = [task.observe(robot.observe())["state"]]
    np.testing.assert_array_equal(*np.split(frames[0], 2))
    for _ in range(3):
        robot.apply(Command(task.command(np.full(5, 0.3)), 9))
        frames.append(task.observe(robot.observe())["state"])
    np.testing.assert_array_equal(frames[3][FRAME:], frames[1][:FRAME])


def test_beside_images_only_the_arm_itself_is_shown() -> None:
    task = pick_place.build(Config(), obs="pixels")
    assert set(task.spec.observation) == {"state", "wrist", "side"}
    assert task.spec.symmetries == ()
    seen = []
    for cube, other, tray in ((BESIDE, INSIDE, 0.0), (INSIDE, BESIDE, 0.05)):
        task._tray, task._frames = np.array([0.5, tray, 0.0]), []
        image = np.zeros((128, 128, 3), np.uint8)
        raw = _seen(cube, other=other) | {"camera/wrist": image, "camera/side": image}
        seen.append(task.observe(raw))
    task.spec.observation["state"].validate(seen[0]["state"])
    np.testing.assert_array_equal(seen[0]["state"], seen[1]["state"])


def episode(robot: fr3_sim.Fr3Sim, task: PickPlace, seed: int, skill: Skill, wild: int = 0) -> tuple[bool, int, float]:
    """One scripted episode, the first ``wild`` steps of it random: success, steps, largest force."""
    rng = np.random.default_rng(seed)
    task.reset(robot, rng)
    raw, peak, steps = robot.observe(), 0.0, 0
    task.observe(raw)
    for steps in range(1, task.spec.max_steps + 1):
        action = rng.uniform(-1, 1, 5) if steps <= wild else task.expert(raw, rng, skill=skill)
        sent = robot.apply(Command(task.command(action), 9))
        after = robot.observe()
        verdict = task.judge(raw, sent, after)
        raw = after
        task.observe(raw)
        peak = max(peak, verdict.info["peak_force_n"])
        if verdict.kind.is_last:
            break
    return verdict.success, steps, peak


@pytest.mark.parametrize("tier", list(pick_place.TIERS))
def test_informed_expert_succeeds_gently(make: Make, tier: str) -> None:
    robot, task = make(tier)
    for seed in range(4):
        success, steps, peak = episode(robot, task, seed, Skill.INFORMED)
        assert success
        assert steps < 85
        assert peak < 40


def test_informed_expert_goes_on_from_wherever_it_is_asked(make: Make) -> None:
    robot, task = make(max_steps=130)
    assert all(episode(robot, task, seed, Skill.INFORMED, wild=30)[0] for seed in range(3))


def test_informed_expert_takes_either_pair_of_faces(make: Make) -> None:
    _, task = make()
    turns = []
    for seed in range(40):
        task._carrier = None
        cube = _pose(0.5, 0.1, HALF, rotation.about_z(0.6))
        turns.append(task.expert(_seen(cube), np.random.default_rng(seed), skill=Skill.INFORMED)[3])
    assert sorted(set(np.sign(turns))) == [-1, 1]
    assert 0.25 < np.mean(np.array(turns) > 0) < 0.75
    assert np.abs(turns).min() > 0.7, "never in between"


def test_the_wrong_cube_in_the_tray_is_no_success(make: Make) -> None:
    robot, task = make()
    rng = np.random.default_rng(1)
    task.reset(robot, rng)
    raw = robot.observe()
    task.observe(raw)
    for _ in range(80):
        swapped = raw | {"body/object": raw["body/distractor"], "body/distractor": raw["body/object"]}
        sent = robot.apply(Command(task.command(task.expert(swapped, rng, skill=Skill.INFORMED)), 9))
        after = robot.observe()
        assert not task.judge(raw, sent, after).success
        raw = after
        task.observe(raw)
    inside = np.abs(raw["body/distractor"][:2] - task._tray[:2]).max() < task.config.inner
    assert inside, "the wrong cube never got there"


@pytest.mark.slow
def test_weak_expert_is_wrong_now_and_then(make: Make) -> None:
    robot, task = make()
    solved = [episode(robot, task, seed, Skill.WEAK)[0] for seed in range(60)]
    assert 0.45 < np.mean(solved) < 0.92
