"""A simulated arm behind the Robot protocol; the drivers say which."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import mujoco
import numpy as np

from robolearn.core.clock import Clock
from robolearn.core.errors import ConfigError, RobotStoppedError, StaleEpochError, suggest
from robolearn.core.spec import Array, ArraySpec
from robolearn.core.types import Command, RobotSpec
from robolearn.sim import arm, ik, rotation
from robolearn.sim.bodies import Bodies
from robolearn.sim.hand import GRIPPER, Fingers
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


@dataclass(frozen=True)
class Brisk:
    """How the arm moves where a scene asks for it (``Scene.brisk``): 0.13 m/s and 0.8 rad/s, at most 40 N.

    Attributes:
        gains, max_translation, lead: as in ``Config``.
    """

    gains: Gains = field(
        default_factory=lambda: Gains(stiffness=2000.0, clip=0.02, rot_stiffness=20.0, rot_damping=2.0, rot_clip=0.15)
    )
    max_translation: float = 0.02
    lead: float = 0.15


@dataclass(frozen=True)
class Config:
    """How the simulated arm behaves.

    Attributes:
        gains: impedance at the tool tip.
        max_translation: largest commanded displacement of the tip in a control period, per axis [m].
        max_rotation: largest commanded turn in a control period, per axis [rad].
        lead: how far the rotation reference may run ahead of the measured orientation [rad].
        image_size: width and height of camera images [px].
        brisk: what replaces the above in a scene of quick movements.
    """

    gains: Gains = field(default_factory=Gains)
    max_translation: float = 0.008
    max_rotation: float = 0.1
    lead: float = 0.1
    image_size: int = 128
    brisk: Brisk = field(default_factory=Brisk)


def _spec(name: str, joints: int, config: Config, bodies: list[ArraySpec], cameras: tuple[str, ...]) -> RobotSpec:
    def numbers(name: str, size: int, unit: str) -> ArraySpec:
        return ArraySpec(name, (size,), "float64", unit)

    observation = [
        numbers("joint_position", joints, "rad"),
        numbers("joint_velocity", joints, "rad/s"),
        numbers("tcp_pose", 7, "m, quaternion wxyz; base frame"),
        numbers("tcp_twist", 6, "m/s, rad/s; base frame"),
        numbers("tool_pose", 7, "m, quaternion wxyz; tip in the base frame"),
        numbers("tool_twist", 6, "m/s, rad/s; tip, in tip axes"),
        numbers("tool_reference", 4, "quaternion wxyz; commanded orientation in the base frame"),
        numbers("wrench", 6, "N, N m; environment on tool, about the tip, in tip axes, mean of the last 50 ms"),
        numbers("peak_force", 1, "N; largest 100 Hz reading of the last control period (impacts last 30 ms)"),
        numbers("action", 7, "last executed action, as sent"),
        ArraySpec("gripper", (1,), "float64", "opening fraction", 0.0, 1.0),
        *bodies,
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
    return RobotSpec(name, {spec.name: spec for spec in observation}, action, CONTROL_HZ)


class SimRobot:
    """MuJoCo arm with a tool in its closed hand, or with empty moving fingers, driven by displacements of the tip.

    A command's displacement is relative to the measured tip position (memoryless: against a rigid obstacle the force
    is stiffness times displacement). Its rotation turns a reference that persists, at most ``lead`` ahead of the
    measured orientation. Its opening is where moving fingers go; a hand that holds the scene's tool stays closed. The
    controller knows the weight of arm, hand and tool, not of what the fingers pick up: 50 g pull the tip down by half a
    millimetre a second while nothing is commanded. Given the same calls, the observations are the same to the last bit.

    Args:
        name: driver's name.
        kind: one of ``arm.ARMS``.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        config: Config,
        scene: Scene,
        cameras: tuple[str, ...],
        *,
        realtime: bool,
        clock: Clock,
    ) -> None:
        for camera in cameras:
            if camera not in CAMERAS:
                raise ConfigError(f"unknown camera '{camera}'{suggest(camera, CAMERAS)}")
        if scene.brisk:
            brisk = config.brisk
            config = replace(config, gains=brisk.gains, max_translation=brisk.max_translation, lead=brisk.lead)
        self._config, self._cameras = config, cameras
        self._home, self._forward = arm.home(kind), arm.forward(kind)
        self._joints = len(self._home)
        self._model = arm.build(scene, kind)
        self._data = mujoco.MjData(self._model)
        self._tcp, self._tip = self._model.site("tcp").id, self._model.site("tip").id
        self._bodies = Bodies(self._model, self._data, scene)
        self.spec = _spec(name, self._joints, config, self._bodies.specs, cameras)
        self._control = Impedance(self._model, self._data, self._tip, config.gains, self._joints)
        tick_s = SUBSTEPS * arm.TIMESTEP_S
        self._fingers = Fingers(self._model, self._data, tick_s) if scene.tool is None else None
        self._weight = ToolWeight(self._model, self._data, self._tip, scene)
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
        self._settle(self._home)

    def observe(self) -> dict[str, Array]:
        """The current observation; see ``spec``."""
        data, twist = self._data, self._control.velocity()
        tcp, tip = self._pose(self._tcp), self._pose(self._tip)
        axes = data.site_xmat[self._tip].reshape(3, 3)
        arm_vector = data.site_xpos[self._tcp] - data.site_xpos[self._tip]
        tcp_twist = twist.copy()
        tcp_twist[:3] += rotation.cross(twist[3:], arm_vector)
        raw = {
            "joint_position": data.qpos[: self._joints].copy(),
            "joint_velocity": data.qvel[: self._joints].copy(),
            "tcp_pose": tcp,
            "tcp_twist": tcp_twist,
            "tool_pose": tip,
            "tool_twist": (twist.reshape(2, 3) @ axes).ravel(),
            "tool_reference": self._reference.copy(),
            "wrench": self._forces[TICKS // 2 :].mean(axis=0),
            "peak_force": np.array([self._peak]),
            "action": self._executed.copy(),
            "gripper": np.array([GRIPPER if self._fingers is None else self._fingers.opening]),
        }
        raw |= self._bodies.observe()
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
        if self._fingers is None:
            action[6] = min(action[6], GRIPPER)  # the hand does not let go of the tool
        else:
            self._fingers.aim(float(action[6]))
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
        """Place the scene's bodies and the arm, at rest; fingers that move are open.

        Args:
            tcp_pose: (7,) pose of the TCP in the base frame.
            scene: body name -> (7,) pose, screw name -> (1,) angle [rad]; see ``Bodies``.

        Raises:
            ConfigError: unknown body, or the pose is out of reach.
            RobotStoppedError: a stop is latched.
        """
        self._refuse_if_stopped()
        self._bodies.place(scene)
        pose = np.asarray(tcp_pose, dtype=np.float64)
        self._lay_out()  # before the inverse: its last bit depends on where the fingers are
        self._settle(ik.solve(self._model, self._data, self._tcp, pose, self._near(pose)))
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

    def _near(self, pose: Array) -> Array:
        """(n,) known posture whose hand points about as that of ``pose`` (7,) does, turned about the hand's axis."""
        points_forward = rotation.matrix(pose[3:])[0, 2] > math.sqrt(0.5)
        start = (self._forward if points_forward else self._home).copy()
        self._data.qpos[: self._joints] = start
        mujoco.mj_kinematics(self._model, self._data)
        away = rotation.multiply(rotation.conjugate(self._pose(self._tcp)[3:]), pose[3:])
        twist = 2.0 * math.atan2(away[3], away[0])
        if 1.0 < abs(twist) < 2.0 * math.pi - 1.0:  # the last joint turns the hand about its axis
            middle = float(self._model.jnt_range[self._joints - 1].mean())
            turned = [start[-1] + twist + turn for turn in (-2.0 * math.pi, 0.0, 2.0 * math.pi)]
            start[-1] = min(turned, key=lambda angle: abs(angle - middle))
        return start

    def _settle(self, joints: Array) -> None:
        """Stand still at ``joints`` with nothing remembered."""
        data = self._data
        data.qpos[: self._joints], data.qvel[:], data.ctrl[:], data.qacc_warmstart[:] = joints, 0.0, 0.0, 0.0
        data.time = 0.0
        self._lay_out()
        mujoco.mj_forward(self._model, data)
        self._control.restart()
        self._reference = self._pose(self._tip)[3:]
        self._forces[:], self._peak, self._executed = 0.0, 0.0, np.zeros(7)

    def _lay_out(self) -> None:
        """Bodies where the last reset wants them, fingers open."""
        self._bodies.settle()
        if self._fingers is not None:
            self._fingers.settle()

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
            if self._fingers is not None:
                self._fingers.tick()
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
