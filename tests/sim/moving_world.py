"""A cube on the table and a cap on a bottle, in front of an arm with empty fingers."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import numpy as np

from robolearn.core.types import Command
from robolearn.sim.drivers import fr3_sim, ur5e_sim
from robolearn.sim.robot import SimRobot
from robolearn.sim.scene import GRIP, Body, Free, Geom, Scene, Screw

ARMS: dict[str, ModuleType] = {"fr3": fr3_sim, "ur5e": ur5e_sim}
DOWN = np.array([0.0, 1.0, 0.0, 0.0])
FORWARD = np.array([0.0, np.sqrt(0.5), 0.0, np.sqrt(0.5)])
"""Hand along +x, its camera above."""
CUBE_AT = np.array([0.5, 0.0, 0.02, 1.0, 0.0, 0.0, 0.0])
BOTTLE_AT = np.array([0.5, 0.15, 0.06, 1.0, 0.0, 0.0, 0.0])
PITCH, FRICTION = 0.003, 0.05


def scene(friction: float = 1.0) -> Scene:
    """Cube of 40 mm and 50 g; cap of 40 mm on a bottle, stops at 0 and 2 pi."""
    bottle = Body("bottle", (Geom("cylinder", (0.018, 0.03, 0.0), (0.0, 0.0, -0.03)),))
    top = Geom("cylinder", (0.02, 0.0125, 0.0), (0.0, 0.0, 0.0125), (0.8, 0.2, 0.2, 1.0))
    return Scene(
        placed=(Body("post", (Geom("box", (0.01, 0.01, 0.01)),)), bottle),
        tool=None,
        tool_mass=0.0,
        tip=(0.0, 0.0, 0.0),
        focus=(0.5, 0.0, 0.05),
        free=(Free("cube", (Geom("box", (0.02, 0.02, 0.02), rgba=(0.1, 0.2, 0.8, 1.0)),)),),
        screws=(Screw("cap", (top,), base="bottle", pitch=PITCH, friction=FRICTION),),
        grip=replace(GRIP, friction=friction),
    )


def begin(robot: SimRobot, tcp: tuple[float, float, float], *, angle: float = 0.0, turn: np.ndarray = DOWN) -> None:
    """Everything at its place, the hand open at ``tcp``."""
    places = {"post": np.array([0.7, -0.3, 0.01, 1.0, 0, 0, 0]), "bottle": BOTTLE_AT, "cube": CUBE_AT}
    robot.reset(np.array([*tcp, *turn]), places | {"cap": np.array([angle])})


def act(
    robot: SimRobot, steps: int, *, move: tuple[float, ...] = (0, 0, 0), yaw: float = 0.0, grip: float = 1.0
) -> None:
    """The same action for some steps; ``move`` in tip axes [m]."""
    for _ in range(steps):
        robot.apply(Command(np.array([*move, 0.0, 0.0, yaw, grip]), 0))
