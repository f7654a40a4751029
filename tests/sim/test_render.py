"""Cameras: something is in the picture, also in the second world of a process."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest
from sim_world import at, place

from robolearn.core.errors import ConfigError, MissingDependencyError
from robolearn.core.spec import validate_all
from robolearn.core.types import Command

Make = Callable[..., tuple]
CAMERAS = ("wrist", "side")


@pytest.mark.render
def test_both_cameras_show_the_scene_in_every_world_of_a_process(make: Make) -> None:
    images = []
    worlds = [make(obs="pixels", cameras=CAMERAS) for _ in range(2)]
    for robot, task in (*worlds, worlds[0]):
        place(robot, task, at(15, 10, -30))
        raw = robot.observe()
        observation = validate_all(task.spec.observation, task.observe(raw))
        for name in CAMERAS:
            assert observation[name].std() > 15
            assert 40 < observation[name].mean() < 220
            np.testing.assert_array_equal(observation[name], raw[f"camera/{name}"])
        images.append(raw)
    robot.apply(Command(np.array([0.008, 0, 0.004, 0, 0, 0, 0]), 0))
    moved = robot.observe()
    for name in CAMERAS:
        key = f"camera/{name}"
        np.testing.assert_array_equal(images[0][key], images[1][key])
        np.testing.assert_array_equal(images[0][key], images[2][key])
        assert np.abs(moved[key].astype(int) - images[1][key]).max() > 20


@pytest.mark.render
def test_the_socket_is_where_the_scene_says(make: Make) -> None:
    robot, task = make(cameras=("side",))
    pictures = []
    for shift in (-25, 25):
        task.place(robot, at(shift, 0, 0), np.zeros(3), 0.0, at(0, 0, -40))
        pictures.append(robot.observe()["camera/side"].astype(int))
    blueness = [picture[..., 2] - picture[..., 0] for picture in pictures]
    columns = [np.average(np.arange(128), weights=np.clip(b, 0, None).sum(axis=0)) for b in blueness]
    assert abs(columns[0] - columns[1]) > 15


@pytest.mark.render
def test_video_frames_have_the_size_asked_for(make: Make) -> None:
    robot, task = make()
    place(robot, task, at(0, 0, -30))
    for size in ((320, 240), (160, 120)):
        frame = robot.render(*size)
        assert frame.shape == (size[1], size[0], 3)
        assert frame.std() > 15
    with pytest.raises(ConfigError, match=r"'bak'.*have: front, side, wrist"):
        robot.render(160, 120, camera="bak")


def test_missing_opengl_names_the_packages(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setitem(sys.modules, "mujoco.egl", None)
    with pytest.raises(MissingDependencyError, match=r"MUJOCO_GL=egl.*libegl1.*libosmesa6"):
        make(cameras=("wrist",))


def test_a_backend_that_cannot_draw_offscreen_is_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    with pytest.raises(ConfigError, match=r"glfw.*egl, osmesa"):
        make(cameras=("wrist",))
