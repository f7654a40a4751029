"""A scene whose parts do not fit is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from moving_world import scene

from robolearn.core.errors import ConfigError
from robolearn.sim import arm
from robolearn.sim.live_arm import LiveArm
from robolearn.sim.scene import Body, Screw


def test_two_bodies_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"different names, got post, bottle, cube, cap, cube"):
        replace(scene(), tool=Body("cube", ()))


def test_a_screw_needs_a_placed_base() -> None:
    with pytest.raises(ConfigError, match=r"screw 'lid': unknown base 'botle'; did you mean 'bottle'"):
        replace(scene(), screws=(Screw("lid", (), base="botle"),))


def test_an_unknown_arm_is_named() -> None:
    with pytest.raises(ConfigError, match=r"unknown arm 'ur5'; did you mean 'ur5e'"):
        arm.build(scene(), "ur5")


def test_the_live_arm_wants_a_fixed_tool() -> None:
    with pytest.raises(ConfigError, match="tool is fixed in the hand"):
        LiveArm(scene())
