"""A simulated Franka Research 3 behind the Robot protocol."""

from __future__ import annotations

from robolearn.core.clock import Clock, MonotonicClock
from robolearn.sim.hand import GRIPPER
from robolearn.sim.robot import CAMERAS, CONTROL_HZ, SUBSTEPS, TICKS, Config, SimRobot
from robolearn.sim.scene import Scene

__all__ = ["CAMERAS", "CONTROL_HZ", "GRIPPER", "SIMULATED", "SUBSTEPS", "TICKS", "Config", "Fr3Sim", "build"]

SIMULATED = True
"""Nothing and nobody can be hurt; a driver of real hardware leaves this out."""

Fr3Sim = SimRobot


def build(
    config: Config,
    *,
    scene: Scene,
    cameras: tuple[str, ...] = (),
    realtime: bool = False,
    clock: Clock | None = None,
) -> SimRobot:
    """A simulated arm in a scene; ``cameras`` (``wrist``, ``side``, ``front``) need an OpenGL library."""
    return SimRobot("fr3_sim", "fr3", config, scene, cameras, realtime=realtime, clock=clock or MonotonicClock())
