"""The simulated UR5e keeps the contract of robot drivers; so do arms whose fingers and bodies move."""

import numpy as np

from robolearn.core import plugins
from robolearn.core.protocols import Robot
from robolearn.hal.contract import RobotContract
from robolearn.sim.scene import Body, Free, Geom, Scene, Screw


class TestUr5eContract(RobotContract):
    deterministic = True
    scene = {"socket": np.array([0.5, 0.0, 0.05, 0.0, 1.0, 0.0, 0.0])}  # noqa: RUF012

    def make_robot(self) -> Robot:
        driver, task = plugins.load("robot", "ur5e_sim"), plugins.load("task", "peg_insert")
        robot: Robot = driver.build(driver.Config(), scene=task.scene(task.TIERS["smoke"]))
        return robot


class MovingContract(RobotContract):
    deterministic = True
    driver = ""
    scene = {  # noqa: RUF012
        "bottle": np.array([0.5, 0.1, 0.05, 1.0, 0.0, 0.0, 0.0]),
        "cube": np.array([0.45, 0.05, 0.02, 1.0, 0.0, 0.0, 0.0]),
        "cap": np.array([1.0]),
    }

    def make_robot(self) -> Robot:
        driver = plugins.load("robot", self.driver)
        block = (Geom("box", (0.02, 0.02, 0.02)),)
        scene = Scene(
            placed=(Body("bottle", block),), tool=None, tool_mass=0.0, tip=(0.0, 0.0, 0.0), focus=(0.5, 0.0, 0.05),
            free=(Free("cube", block),), screws=(Screw("cap", block, base="bottle"),),
        )  # fmt: skip
        robot: Robot = driver.build(driver.Config(), scene=scene)
        return robot


class TestFr3MovingContract(MovingContract):
    driver = "fr3_sim"


class TestUr5eMovingContract(MovingContract):
    driver = "ur5e_sim"
