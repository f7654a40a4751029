"""A robot host is not set up without thought: what is missing or contradictory is refused, in one line."""

from pathlib import Path
from typing import Any

import pytest

from robolearn.core import config as typed
from robolearn.core.errors import ConfigError
from robolearn.hal.chain import Chain
from robolearn.hal.host import config as hosts
from robolearn.hal.host.config import HostConfig, Workspace, from_mapping, preset
from robolearn.hal.host.core import RobotHost
from robolearn.hal.host.fence import EpochFence

BOX = {"low": [0.3, -0.2, 0.0], "high": [0.6, 0.2, 0.4]}
NAN = float("nan")


def real(**more: Any) -> dict[str, Any]:
    return {"robot": "arm", "model": "fr3", "workspace": BOX, **more}


def test_a_real_arm_with_a_box_is_accepted_and_is_not_simulated() -> None:
    assert from_mapping(real()).simulated is False
    assert hosts.simulated(from_mapping(real())).simulated is True


@pytest.mark.parametrize("box", [None, "absent"])
def test_no_workspace_is_refused(box: Any) -> None:
    data = real(workspace=box)
    if box == "absent":
        del data["workspace"]
    with pytest.raises(ConfigError, match=r"arm: no workspace box; .*workspace: \{low"):
        from_mapping(data)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"workspace": {"low": [0.3, 0.3, 0.0], "high": [0.6, 0.2, 0.4]}}, "low 0.3 >= high 0.2 along y"),
        ({"workspace": {"low": [0.3, 0.2, 0.0], "high": [0.6, 0.2, 0.4]}}, "along y"),
        ({"workspace": {"low": [0.3, NAN, 0.0], "high": [0.6, 0.2, 0.4]}}, "low"),
        ({"workspace": {"low": [0.3, -0.2], "high": [0.6, 0.2, 0.4]}}, "low"),
        ({"workspace": {"low": [0.3, -0.2, 0.0]}}, "high"),
        ({"workspace": "everywhere"}, "workspace"),
        ({"speed": 3}, "speed"),
        ({"motion": {"velocty": 0.1}}, "velocity"),
        ({"motion": {"velocity": 0.0}}, "motion.velocity"),
        ({"motion": {"jerk": NAN}}, "motion.jerk"),
        ({"motion": {"joint_scale": 1.5}}, "joint_scale"),
        ({"profile": "cartesian"}, "profile"),
        ({"rate_hz": 1000.0}, "100 to 500"),
        ({"rate_hz": NAN}, "rate_hz"),
        ({"control_hz": 60.0}, "control_hz"),
        ({"control_hz": 0.0}, "control_hz"),
        ({"stale_s": 0.05}, "stale_s"),
        ({"stale_s": 2.0}, "stale_s"),
        ({"stale_s": NAN}, "stale_s"),
        ({"dwell": 1.5}, "dwell"),
        ({"force": -3.0}, "force"),
        ({"force": NAN}, "force"),
        ({"tilt": 0.0}, "tilt"),
        ({"max_translation": -0.01}, "max_translation"),
        ({"lead": NAN}, "lead"),
        ({"feedback_s": 0.0}, "feedback_s"),
        ({"tip": [0.0, 0.0]}, "tip"),
        ({"rate_hz": "fast"}, "rate_hz"),
        ({"gripper": {"opened": 0.04, "closed": 0.04}}, "opened"),
    ],
)
def test_a_fault_is_named_in_one_line(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        from_mapping(real(**change))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": "fr4"}, "unknown arm 'fr4'"),
        ({"motion": {"joint_margin": 3.0}}, "lower"),
    ],
)
def test_what_only_the_arm_can_tell_is_refused_before_anything_moves(change: dict[str, Any], says: str) -> None:
    settings = from_mapping(real(**change))
    with pytest.raises(ConfigError, match=says):
        RobotHost(settings, Chain.load(settings.model, settings.tip), EpochFence(None))


def test_presets_are_of_simulated_arms_only() -> None:
    assert hosts.presets()
    for name in hosts.presets():
        assert preset(name).simulated


def test_an_unknown_preset_suggests_a_known_one() -> None:
    with pytest.raises(ConfigError, match="fr3_sim"):
        preset("fr3_simm")


def test_a_configuration_survives_yaml(tmp_path: Path) -> None:
    path = tmp_path / "host.yaml"
    before = preset("fr3_sim")
    path.write_text(__import__("yaml").safe_dump(typed.to_dict(before)))
    assert hosts.load(path) == before


def test_the_step_bound_of_a_cell_never_shortens_a_full_action() -> None:
    limits = HostConfig(workspace=Workspace((0, 0, 0), (1, 1, 1)), max_translation=0.01).limits()
    assert limits.translation > 0.01 * 3**0.5
