"""A simulated Franka Research 3 behind the Robot protocol."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import mujoco
import numpy as np

from robolearn.core.clock import Clock, MonotonicClock
from robolearn.core.errors import ConfigError, RobotStoppedError, StaleEpochError, suggest
from robolearn.core.spec import Array, ArraySpec
from robolearn.core.types import Command, RobotSpec
from robolearn.sim import arm, ik, rotation
from robolearn.sim.impedance import Gains, Impedance
from robolearn.sim.scene import Scene
from robolearn.sim.sensing import ToolWeight, site_pose

if TYPE_CHECKING:
    from robolearn.sim.render import Renderer

CONTROL_HZ = 10.0
TICKS = 10
"""Torque updates in a control period (100 Hz)."""
SUBSTEPS = 5
"""Physics steps of 2 ms in a tick (500 Hz)."""
CAMERAS = ("wrist", "side", "front")
GRIPPER = arm.FINGER_OPENING_M / 0.04
"""Opening fraction of the hand closed on its tool (fingers travel 40 mm)."""

SIMULATED = True
"""Nothing and nobody can be hurt; a driver of real hardware leaves this out."""


@dataclass(frozen=True)
class Config:
    """How the simulated arm behaves.

    Attributes:
        gains: impedance at the tool tip.
        max_translation: largest commanded displacement of the tip in a control period, per axis [m].
        max_rotation: largest commanded turn in a control period, per axis [rad].
        lead: how far the rotation reference may run ahead of the measured orientation [rad].
        image_size: width and height of camera images [px].
    """

    gains: Gains = field(default_factory=Gains)
    max_translation: float = 0.008
    max_rotation: float = 0.1
    lead: float = 0.1
    image_size: int = 128


def build(
    config: Config,
    *,
    scene: Scene,
    cameras: tuple[str, ...] = (),
    realtime: bool = False,
    clock: Clock | None = None,
) -> Fr3Sim:
    """A simulated arm in a scene; ``cameras`` (``wrist``, ``side``, ``front``) need an OpenGL library."""
    return Fr3Sim(config, scene, cameras, realtime=realtime, clock=clock or MonotonicClock())


def _spec(config: Config, cameras: tuple[str, ...]) -> RobotSpec:
    def numbers(name: str, size: int, unit: str) -> ArraySpec:
        return ArraySpec(name, (size,), "float64", unit)

    observation = [
        numbers("joint_position", 7, "rad"),
        numbers("joint_velocity", 7, "rad/s"),
        numbers("tcp_pose", 7, "m, quaternion wxyz; base frame"),
        numbers("tcp_twist", 6, "m/s, rad/s; base frame"),
        numbers("tool_pose", 7, "m, quaternion wxyz; tip in the base frame"),
        numbers("tool_twist", 6, "m/s, rad/s; tip, in tip axes"),
        numbers("tool_reference", 4, "quaternion wxyz; commanded orientation in the base frame"),
        numbers("wrench", 6, "N, N m; environment on tool, about the tip, in tip axes, mean of the last 50 ms"),
        numbers("peak_force", 1, "N; largest 100 Hz reading of the last control period (impacts last 30 ms)"),
        numbers("action", 7, "last executed action, as sent"),
        ArraySpec("gripper", (1,), "float64", "opening fraction", 0.0, 1.0),
    ]
    size = config.image_size
    observation += [ArraySpec(f"camera/{name}", (size, size, 3), "uint8", "rgb") for name in cameras]
    t, r = config.max_translation, config.max_rotation
    action = ArraySpec(
        "action",
        (7,),
        "float64",
        "tip displacement m, m, m, rad, rad, rad in tip axes; gripper opening fraction",
        (-t, -t, -t, -r, -r, -r, 0.0),
        (t, t, t, r, r, r, 1.0),
    )
    return RobotSpec("fr3_sim", {spec.name: spec for spec in observation}, action, CONTROL_HZ)


class Fr3Sim:
    """MuJoCo arm with a tool in its closed hand, driven by Cartesian displacements of the tool tip.

    A command's displacement is relative to the measured tip position (memoryless: against a rigid obstacle the force
    is stiffness times displacement). Its rotation turns a reference that persists, at most ``lead`` ahead of the
    measured orientation. Given the same calls, the observations are the same to the last bit.
    """

    def __init__(self, config: Config, scene: Scene, cameras: tuple[str, ...], *, realtime: bool, clock: Clock) -> None:
        for name in cameras:
            if name not in CAMERAS:
                raise ConfigError(f"unknown camera '{name}'{suggest(name, CAMERAS)}")
        self.spec = _spec(config, cameras)
        self._config, self._cameras = config, cameras
        self._model = arm.build(scene)
        self._data = mujoco.MjData(self._model)
        self._tcp, self._tip = self._model.site("tcp").id, self._model.site("tip").id
        self._mocap = {body.name: int(self._model.body(body.name).mocapid[0]) for body in scene.placed}
        self._control = Impedance(self._model, self._data, self._tip, config.gains)
        self._weight = ToolWeight(self._data, self._tip, scene)
        self._start = arm.home()
        self._clock, self._period_ns, self._deadline_ns = clock, int(1e9 / CONTROL_HZ), clock.now_ns()
        self._realtime = realtime
        self._epoch, self._stopped = -1, ""
        self._peak = 0.0
        self._forces = np.zeros((TICKS, 6))
        self._reference = np.array([1.0, 0.0, 0.0, 0.0])
        self._executed = np.zeros(7)
        self._film: Renderer | None = None
        self._eyes: Renderer | None = None
        if cameras:
            self._eyes = self._open(config.image_size, config.image_size)
        self._settle(self._start)

    def observe(self) -> dict[str, Array]:
        """The current observation; see ``spec``."""
        data, twist = self._data, self._control.velocity()
        tcp, tip = self._pose(self._tcp), self._pose(self._tip)
        axes = data.site_xmat[self._tip].reshape(3, 3)
        arm_vector = data.site_xpos[self._tcp] - data.site_xpos[self._tip]
        tcp_twist = twist.copy()
        tcp_twist[:3] += rotation.cross(twist[3:], arm_vector)
        raw = {
            "joint_position": data.qpos.copy(),
            "joint_velocity": data.qvel.copy(),
            "tcp_pose": tcp,
            "tcp_twist": tcp_twist,
            "tool_pose": tip,
            "tool_twist": (twist.reshape(2, 3) @ axes).ravel(),
            "tool_reference": self._reference.copy(),
            "wrench": self._forces[TICKS // 2 :].mean(axis=0),
            "peak_force": np.array([self._peak]),
            "action": self._executed.copy(),
            "gripper": np.array([GRIPPER]),
        }
        if self._eyes is not None:
            raw |= {f"camera/{name}": self._eyes.render(data, name) for name in self._cameras}
        return raw

    def apply(self, command: Command) -> Array:
        """Execute one control period (0.1 s); return (7,) what was really sent.

        Raises:
            SpecError: the action is not finite or out of bounds.
            StaleEpochError: the command's epoch is older than one already seen.
            RobotStoppedError: a stop is latched.
        """
        self.take(command.epoch)
        self._refuse_if_stopped()
        action = np.array(self.spec.action.validate(command.action), dtype=np.float64)
        action[6] = min(action[6], GRIPPER)  # the hand does not let go of the tool
        self._aim(action)
        self._advance()
        self._executed = action
        self._pace()
        return action.copy()

    def take(self, epoch: int) -> None:
        """Be driven under the lease of this epoch; raises StaleEpochError for an older one."""
        if epoch < self._epoch:
            raise StaleEpochError(f"epoch {epoch} is too old: epoch {self._epoch} holds the robot now")
        self._epoch = epoch

    def reset(self, tcp_pose: Array, scene: Mapping[str, Array]) -> None:
        """Place the scene's bodies and the arm, at rest.

        Args:
            tcp_pose: (7,) pose of the TCP in the base frame.
            scene: body name -> (7,) pose.

        Raises:
            ConfigError: unknown body, or the pose is out of reach.
            RobotStoppedError: a stop is latched.
        """
        self._refuse_if_stopped()
        for name, pose in scene.items():
            if name not in self._mocap:
                raise ConfigError(f"unknown body '{name}'{suggest(name, self._mocap)}")
            index = self._mocap[name]
            self._data.mocap_pos[index], self._data.mocap_quat[index] = pose[:3], pose[3:]
        self._settle(ik.solve(self._model, self._data, self._tcp, np.asarray(tcp_pose, dtype=np.float64), self._start))
        self._deadline_ns = self._clock.now_ns()

    def stop(self, reason: str) -> None:
        """Stop and latch; idempotent, the first reason stays."""
        if not self._stopped:
            self._stopped = reason or "stopped"
            self._data.qvel[:] = 0.0
            self._control.restart()

    def clear(self) -> None:
        """Clear a latched stop."""
        self._stopped = ""

    def render(self, width: int = 640, height: int = 480, camera: str = "front") -> Array:
        """(height, width, 3) uint8 image with smooth edges, for videos; any size up to 1280x960."""
        if self._film is None or self._film.size != (width, height):
            if self._film is not None:
                self._film.close()
            self._film = self._open(width, height, fine=True)
        return self._film.render(self._data, camera)

    def close(self) -> None:
        """Free the renderers; idempotent."""
        for renderer in (self._eyes, self._film):
            if renderer is not None:
                renderer.close()

    def _open(self, width: int, height: int, *, fine: bool = False) -> Renderer:
        from robolearn.sim.render import Renderer  # OpenGL only where images are wanted

        return Renderer(self._model, width, height, fine=fine)

    def _refuse_if_stopped(self) -> None:
        if self._stopped:
            raise RobotStoppedError(f"the robot is stopped ({self._stopped}); a person has to clear it")

    def _settle(self, joints: Array) -> None:
        """Stand still at ``joints`` with nothing remembered."""
        data = self._data
        data.qpos[:], data.qvel[:], data.ctrl[:], data.qacc_warmstart[:] = joints, 0.0, 0.0, 0.0
        data.time = 0.0
        mujoco.mj_forward(self._model, data)
        self._control.restart()
        self._reference = self._pose(self._tip)[3:]
        self._forces[:], self._peak, self._executed = 0.0, 0.0, np.zeros(7)

    def _aim(self, action: Array) -> None:
        """Set the controller's references from an action; where ``lead`` binds, ``action`` becomes what was sent."""
        measured = self._pose(self._tip)
        control = self._control
        control.ref_position[:] = measured[:3] + self._data.site_xmat[self._tip].reshape(3, 3) @ action[:3]
        wanted = rotation.multiply(self._reference, rotation.from_rotvec(action[3:6]))
        ahead = rotation.to_rotvec(rotation.multiply(rotation.conjugate(measured[3:]), wanted))
        angle = math.sqrt(float(ahead @ ahead))
        if angle > self._config.lead:
            wanted = rotation.multiply(measured[3:], rotation.from_rotvec(ahead * (self._config.lead / angle)))
            turned = rotation.to_rotvec(rotation.multiply(rotation.conjugate(self._reference), wanted))
            limit = self._config.max_rotation
            action[3:6] = np.clip(turned, -limit, limit)
        self._reference = wanted
        control.ref_rotation[:] = rotation.matrix(wanted)

    def _advance(self) -> None:
        """One control period of physics. On entry and exit positions and velocities of ``data`` are up to date."""
        model, data, control, forces = self._model, self._data, self._control, self._forces
        control.prepare()
        for tick in range(TICKS):
            control.tick()
            mujoco.mj_step2(model, data)
            mujoco.mj_step(model, data, SUBSTEPS - 1)
            forces[tick] = data.sensordata
            mujoco.mj_step1(model, data)
        self._weight.to_environment(forces)
        self._peak = float(np.sqrt((forces[:, :3] ** 2).sum(axis=1).max()))

    def _pose(self, site: int) -> Array:
        return site_pose(self._data, site)

    def _pace(self) -> None:
        """In real time: return at the absolute deadline of this control period."""
        if not self._realtime:
            return
        now = self._clock.now_ns()
        self._deadline_ns += self._period_ns
        if now > self._deadline_ns + self._period_ns:  # do not race to make up for a long pause
            self._deadline_ns = now
        self._clock.sleep_until_ns(self._deadline_ns)
