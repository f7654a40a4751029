"""``python -m robolearn.run.probe robot|render``: what ``doctor`` tries in a process of its own."""

from __future__ import annotations

import os
import sys
import time

import numpy as np

from robolearn.core import plugins
from robolearn.core.errors import MissingDependencyError, RobolearnError
from robolearn.core.types import Command
from robolearn.run.config import TrainConfig

_STEPS = 20


def robot() -> str:
    """Step the default simulated arm and say how fast that was."""
    config = TrainConfig()
    module, driver = plugins.load("task", config.task), plugins.load("robot", config.robot)
    task, arm = module.build(module.Config()), driver.build(driver.Config(), scene=module.scene(module.Config()))
    try:
        task.reset(arm, np.random.default_rng(0))
        started = time.process_time()
        for _ in range(_STEPS):
            arm.apply(Command(arm.spec.action.zeros(), 0))
        rate = _STEPS / max(time.process_time() - started, 1e-9)
        if not all(np.isfinite(value).all() for value in arm.observe().values()):
            raise RobolearnError("the simulation gives numbers that are not finite")
    finally:
        arm.close()
    return f"{config.robot} answers, {rate:.0f} steps per CPU second"


def render() -> str:
    """Draw one picture and check that something is to be seen."""
    config = TrainConfig()
    module, driver = plugins.load("task", config.task), plugins.load("robot", config.robot)
    task, arm = module.build(module.Config()), driver.build(driver.Config(), scene=module.scene(module.Config()))
    try:
        task.reset(arm, np.random.default_rng(0))
        picture = np.asarray(arm.render(320, 240))
    finally:
        arm.close()
    if int(picture.max()) - int(picture.min()) < 16:
        raise MissingDependencyError(f"the picture is empty (all values near {int(picture.mean())})")
    return (
        f"a picture of {picture.shape[1]}x{picture.shape[0]} is drawn (MUJOCO_GL={os.environ.get('MUJOCO_GL', 'egl')})"
    )


def main(arguments: list[str]) -> int:
    """Run one probe; its last line is what ``doctor`` shows."""
    try:
        words = {"robot": robot, "render": render}[arguments[0]]()
    except RobolearnError as error:
        sys.stderr.write(" ".join(str(error).split()) + "\n")
        return 1
    sys.stdout.write(words + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
