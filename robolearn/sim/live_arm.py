"""A simulated FR3 that goes on by itself, two milliseconds a step, whatever controller commands it last.

It is the arm side of a robot cell: it has the controllers of a real arm, no policy period, no safety layer and no
clock. Somebody calls ``step`` 500 times a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import mujoco
import numpy as np

from robolearn.core.errors import ConfigError, suggest
from robolearn.core.spec import Array
from robolearn.sim import arm, rotation
from robolearn.sim.drivers.fr3_sim import GRIPPER, SUBSTEPS, TICKS
from robolearn.sim.impedance import Gains, Impedance
from robolearn.sim.joint_control import JointGains, JointReference, Trajectory
from robolearn.sim.scene import Scene
from robolearn.sim.sensing import ToolWeight, site_pose

if TYPE_CHECKING:
    from robolearn.sim.render import Renderer

STEP_S = arm.TIMESTEP_S
Mode = Literal["pose", "twist", "trajectory", "forward"]
_UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Config:
    """How the arm's controllers behave.

    Attributes:
        gains: impedance at the tool tip (``pose`` and ``twist``).
        joint_gains: stiffness and damping of the joints (``trajectory`` and ``forward``).
        twist_timeout_s: a commanded twist older than this stops the arm [s].
        turn: largest orientation error the tip controller is shown [rad].
        home_seed: 0: the published home posture; else it is displaced by up to 0.03 rad per joint, drawn from this.
    """

    gains: Gains = field(default_factory=Gains)
    joint_gains: JointGains = field(default_factory=JointGains)
    twist_timeout_s: float = 0.1
    turn: float = 0.5
    home_seed: int = 0


@dataclass(frozen=True)
class Reading:
    """What the arm measures.

    Attributes:
        joint_position, joint_velocity, joint_effort: (7,) [rad, rad/s, N m].
        tip_pose: (7,) position [m] and quaternion (w, x, y, z) of the tip in the base frame.
        tip_twist: (6,) velocity of the tip in base axes [m/s, rad/s].
        wrench: (6,) last 100 Hz reading: environment on tool, about the tip, in tip axes [N, N m].
        gripper: opening fraction.
    """

    joint_position: Array
    joint_velocity: Array
    joint_effort: Array
    tip_pose: Array
    tip_twist: Array
    wrench: Array
    gripper: float


class LiveArm:
    """The arm and what stands around it; see the module. Given the same calls it does the same to the last bit.

    Attributes:
        mode: kind of the last command; it decides which controller is active.
        wrench: (6,) last reading of the sensor, see ``Reading``.
        readings: number of wrench readings so far.
        gripper_command: last commanded opening fraction, within what the held tool allows.
    """

    def __init__(self, scene: Scene, config: Config | None = None) -> None:
        if scene.tool is None or scene.free or scene.screws:
            raise ConfigError(
                "live arm: expected a scene whose tool is fixed in the hand, and nothing that moves by itself"
            )
        self.config = config or Config()
        self.model = arm.build(scene)
        self.data = mujoco.MjData(self.model)
        self.bodies = {body.name: int(self.model.body(body.name).mocapid[0]) for body in scene.placed}
        self._tip, self._tool = self.model.site("tip").id, self.model.body(scene.tool.name).id
        self._impedance = Impedance(self.model, self.data, self._tip, self.config.gains)
        self._weight = ToolWeight(self.model, self.data, self._tip, scene)
        self._stiffness = np.array(self.config.joint_gains.stiffness)
        self._damping = np.array(self.config.joint_gains.damping)
        self._reference = JointReference(arm.home())
        self._target = np.zeros(7)
        self._twist, self._twist_left = np.zeros(6), 0
        self._push_left = 0
        self._film: Renderer | None = None
        self.mode: Mode = "pose"
        self.wrench, self.readings = np.zeros(6), 0
        self.gripper_command = GRIPPER
        self.ticks = 0
        for name in self.bodies:  # as a hole stands: z down
            self.place(name, np.array([*scene.focus, 0.0, 1.0, 0.0, 0.0]))
        self.restart()

    def restart(self) -> None:
        """Stand still at home, holding it, with nothing remembered."""
        data = self.data
        data.qpos[:], data.qvel[:], data.ctrl[:], data.qacc_warmstart[:] = self.home(), 0.0, 0.0, 0.0
        data.xfrc_applied[:], data.time = 0.0, 0.0
        mujoco.mj_forward(self.model, data)
        self._reference.hold(data.qpos)
        self.wrench, self._twist_left, self._push_left, self.ticks = np.zeros(6), 0, 0, 0
        self.mode = "pose"
        self._hold_pose()

    def home(self) -> Array:
        """(7,) joint angles of ``restart`` [rad]."""
        if self.config.home_seed == 0:
            return arm.home()
        rng = np.random.default_rng(self.config.home_seed)
        return arm.home() + rng.uniform(-0.03, 0.03, 7)

    def step(self) -> None:
        """Two milliseconds; on entry and exit positions and velocities are up to date."""
        data = self.data
        phase = self.ticks % SUBSTEPS
        if self.mode in ("trajectory", "forward"):
            self._joint_torques()
        elif phase == 0:
            self._tip_torques()
        if self._push_left:
            self._push_left -= 1
            if self._push_left == 0:
                data.xfrc_applied[self._tool] = 0.0
        mujoco.mj_step2(self.model, data)
        if phase == SUBSTEPS - 1:
            reading = np.array(data.sensordata).reshape(1, 6)
            mujoco.mj_step1(self.model, data)
            self._weight.to_environment(reading)
            self.wrench, self.readings = reading[0], self.readings + 1
        else:
            mujoco.mj_step1(self.model, data)
        self.ticks += 1

    def reading(self) -> Reading:
        """Everything measured, now."""
        data = self.data
        joints = (data.qpos.copy(), data.qvel.copy(), data.qfrc_actuator.copy())
        return Reading(*joints, self.tip_pose(), self.tip_twist(), self.wrench.copy(), self.gripper)

    def tip_pose(self) -> Array:
        """(7,) pose of the tip in the base frame [m, quaternion (w, x, y, z)]."""
        return site_pose(self.data, self._tip)

    def tip_twist(self) -> Array:
        """(6,) velocity of the tip in base axes [m/s, rad/s]."""
        return self._impedance.velocity()

    @property
    def gripper(self) -> float:
        """Opening fraction: the hand is closed on its tool and stays so."""
        return GRIPPER

    def aim_pose(self, pose: Array) -> None:
        """Pull the tip to ``pose`` (7,) in the base frame, with limited force.

        Raises:
            ConfigError: not seven finite numbers with a unit quaternion.
        """
        self._target = unit_pose(pose)
        self._enter("pose")

    def aim_twist(self, twist: Array) -> None:
        """Move the tip with ``twist`` (6,) in base axes [m/s, rad/s] until ``twist_timeout_s`` from now.

        Raises:
            ConfigError: not six finite numbers.
        """
        twist = _finite(twist, 6, "twist")
        if self.mode != "twist":
            self._hold_pose()
        self._twist, self._twist_left = twist, max(1, round(self.config.twist_timeout_s / STEP_S / SUBSTEPS))
        self._enter("twist")

    def follow(self, path: Trajectory) -> None:
        """Follow a joint trajectory from the present reference; see ``joint_control``."""
        self._enter("trajectory")
        self._reference.follow(path)

    def forward(self, position: Array) -> None:
        """Servo the joints to ``position`` (7,) [rad] at once and for ever.

        Raises:
            ConfigError: not seven finite numbers.
        """
        position = _finite(position, 7, "joint positions")
        self._enter("forward")
        self._reference.hold(position)

    def grip(self, opening: float) -> None:
        """Set the opening fraction; the hand does not let go of its tool."""
        self.gripper_command = float(min(_finite(np.array([opening]), 1, "gripper opening")[0], GRIPPER))

    def place(self, body: str, pose: Array) -> None:
        """Stand a body of the scene at ``pose`` (7,) in the base frame.

        Raises:
            ConfigError: unknown body, or not seven finite numbers with a unit quaternion.
        """
        if body not in self.bodies:
            raise ConfigError(f"unknown body '{body}'{suggest(body, self.bodies)}")
        pose = unit_pose(pose)
        self.data.mocap_pos[self.bodies[body]], self.data.mocap_quat[self.bodies[body]] = pose[:3], pose[3:]

    def push(self, force: Array, seconds: float) -> None:
        """Push the tip with ``force`` (3,) in base axes [N] for a time: what a collision or a hand would do."""
        force = _finite(force, 3, "force")
        lever = self.data.site_xpos[self._tip] - self.data.xipos[self._tool]
        self.data.xfrc_applied[self._tool, :3] = force
        self.data.xfrc_applied[self._tool, 3:] = rotation.cross(lever, force)
        self._push_left = max(1, round(seconds / STEP_S)) + 1

    def render(self, camera: str, width: int, height: int) -> Array:
        """(height, width, 3) uint8 RGB image of a camera."""
        if self._film is None or self._film.size != (width, height):
            from robolearn.sim.render import Renderer  # OpenGL only where images are wanted

            self.close()
            self._film = Renderer(self.model, width, height)
        return self._film.render(self.data, camera)

    def show(self, joints: Array, bodies: Mapping[str, Array]) -> None:
        """Stand as another arm does, for rendering: joints (7,) [rad] and body -> pose (7,)."""
        for name, pose in bodies.items():
            self.place(name, pose)
        self.data.qpos[:] = joints
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)

    def close(self) -> None:
        """Free the renderer; idempotent."""
        if self._film is not None:
            self._film.close()
            self._film = None

    def _enter(self, mode: Mode) -> None:
        """Switch controllers without a jump: joint control starts from the measured joints."""
        joint = ("trajectory", "forward")
        if mode in joint and self.mode not in joint:
            self._reference.hold(self.data.qpos)
        self.mode = mode

    def _hold_pose(self) -> None:
        self._impedance.restart(self.home())
        self._target = self.tip_pose()

    def _tip_torques(self) -> None:
        if self.ticks % (SUBSTEPS * TICKS) == 0:
            self._impedance.prepare()
        if self.mode == "twist":
            self._integrate()
        self._impedance.ref_position[:] = self._target[:3]
        self._impedance.ref_rotation[:] = self._shown_rotation()
        self._impedance.tick()

    def _shown_rotation(self) -> Array:
        """Rotation reference at most ``turn`` from the measured: the controller's law is for small angles."""
        wanted = rotation.matrix(self._target[3:])
        measured = self.data.site_xmat[self._tip].reshape(3, 3)
        if float((wanted * measured).sum()) >= 1.0 + 2.0 * np.cos(self.config.turn):
            return wanted
        now = self.tip_pose()[3:]
        ahead = rotation.to_rotvec(rotation.multiply(rotation.conjugate(now), self._target[3:]))
        part = rotation.from_rotvec(ahead * (self.config.turn / float(np.linalg.norm(ahead))))
        return rotation.matrix(rotation.multiply(now, part))

    def _integrate(self) -> None:
        """Move the target with the twist for one torque period, never out of the spring's reach."""
        if self._twist_left == 0:
            return
        self._twist_left -= 1
        now, gains = self.tip_pose(), self.config.gains
        if self._twist_left == 0 or not self._twist.any():
            self._target = now
            return
        lead = self._target[:3] + self._twist[:3] * (STEP_S * SUBSTEPS) - now[:3]
        distance = float(np.linalg.norm(lead))
        self._target[:3] = now[:3] + lead * min(1.0, gains.clip / max(distance, 1e-12))
        turned = rotation.multiply(rotation.from_rotvec(self._twist[3:] * (STEP_S * SUBSTEPS)), self._target[3:])
        ahead = rotation.to_rotvec(rotation.multiply(turned, rotation.conjugate(now[3:])))
        angle = float(np.linalg.norm(ahead))
        self._target[3:] = rotation.multiply(
            rotation.from_rotvec(ahead * min(1.0, gains.rot_clip / max(angle, 1e-12))), now[3:]
        )

    def _joint_torques(self) -> None:
        data, reference = self.data, self._reference
        reference.advance(STEP_S)
        pull = self._stiffness * (reference.position - data.qpos)
        data.ctrl[:] = pull + self._damping * (reference.velocity - data.qvel) + data.qfrc_bias


def unit_pose(pose: Array) -> Array:
    """A copy of ``pose`` (7,) with its quaternion normalised.

    Raises:
        ConfigError: not seven finite numbers, or a quaternion that is no rotation.
    """
    pose = _finite(pose, 7, "pose")
    length = float(np.linalg.norm(pose[3:]))
    if abs(length - 1.0) > _UNIT_TOLERANCE:
        raise ConfigError(f"pose: expected a unit quaternion (w, x, y, z), got one of length {length:.4g}")
    pose[3:] /= length
    return pose


def _finite(values: Array, size: int, what: str) -> Array:
    array = np.array(values, dtype=np.float64)
    if array.shape != (size,):
        raise ConfigError(f"{what}: expected {size} numbers, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ConfigError(f"{what}: a number is not finite")
    return array
