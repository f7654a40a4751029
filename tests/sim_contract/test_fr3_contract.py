"""The simulated FR3 keeps the contract of robot drivers."""

import numpy as np

from robolearn.core import plugins
from robolearn.core.protocols import Robot
from robolearn.hal.contract import RobotContract


class TestFr3Contract(RobotContract):
    deterministic = True
    scene = {"socket": np.array([0.5, 0.0, 0.05, 0.0, 1.0, 0.0, 0.0])}  # noqa: RUF012

    def make_robot(self) -> Robot:
        driver, task = plugins.load("robot", "fr3_sim"), plugins.load("task", "peg_insert")
        robot: Robot = driver.build(driver.Config(), scene=task.scene(task.TIERS["smoke"]))
        return robot
