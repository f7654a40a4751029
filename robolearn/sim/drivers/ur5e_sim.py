"""A simulated Universal Robots UR5e, with the hand of the simulated FR3, behind the Robot protocol."""

from __future__ import annotations

from robolearn.core.clock import Clock, MonotonicClock
from robolearn.sim.robot import CAMERAS, CONTROL_HZ, SUBSTEPS, TICKS, Config, SimRobot
from robolearn.sim.scene import Scene

__all__ = ["CAMERAS", "CONTROL_HZ", "SIMULATED", "SUBSTEPS", "TICKS", "Config", "build"]

SIMULATED = True
"""Nothing and nobody can be hurt; a driver of real hardware leaves this out."""


def build(
    config: Config,
    *,
    scene: Scene,
    cameras: tuple[str, ...] = (),
    realtime: bool = False,
    clock: Clock | None = None,
) -> SimRobot:
    """A simulated arm in a scene; ``cameras`` (``wrist``, ``side``, ``front``) need an OpenGL library."""
    return SimRobot("ur5e_sim", "ur5e", config, scene, cameras, realtime=realtime, clock=clock or MonotonicClock())
