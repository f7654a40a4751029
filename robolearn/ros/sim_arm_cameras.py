"""Cameras of the simulated arm, in a process of their own: drawing must not slow the arm's 500 Hz loop.

The arm writes its posture to this process's standard input whenever an image is due; the process draws the newest one
for those who listen, and ends when the arm closes the pipe or dies.
"""

from __future__ import annotations

import io
import json
import os
import select
import signal
import subprocess
import sys
from array import array
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import IO, Any, cast

import numpy as np

from robolearn.core import plugins
from robolearn.core.errors import MissingDependencyError, RobolearnError
from robolearn.core.spec import Array
from robolearn.ros import context
from robolearn.ros.sim_arm_faults import CAMERA_FAULTS
from robolearn.sim.live_arm import LiveArm

START_S = 30.0
READY = b"ready\n"
NOISE = 2
"""Largest noise of a value of an image."""
_JPEG_QUALITY = 90
_SHIFTS = 64


@dataclass(frozen=True)
class Cameras:
    """What the process draws.

    Attributes:
        namespace: of the topics ``<camera>/image_raw`` and ``<camera>/image_raw/compressed``.
        task, tier: whose scene.
        names: cameras of the scene.
        width, height: of every image [px].
        raw, compressed: which kinds of topic there are; an image is made for those that somebody listens to.
    """

    namespace: str
    task: str
    tier: str
    names: tuple[str, ...]
    width: int = 640
    height: int = 480
    raw: bool = True
    compressed: bool = True


class CameraProcess:
    """The arm's end of the pipe.

    Raises:
        MissingDependencyError: the process cannot draw; its last words are in the message.
    """

    def __init__(self, config: Cameras) -> None:
        command = [sys.executable, "-m", "robolearn.ros.sim_arm_cameras", json.dumps(asdict(config))]
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=context.with_profile(os.environ),
            start_new_session=True,  # Ctrl-C is for the arm, which then closes the pipe
        )
        self._input, self._output = cast(IO[bytes], self._child.stdin), cast(IO[bytes], self._child.stdout)
        os.set_blocking(self._input.fileno(), False)
        self.dropped = 0
        ready, _, _ = select.select([self._output], [], [], START_S)
        words = self._output.readline() if ready else b"no answer"
        if words != READY:
            self.close()
            reason = words.decode(errors="replace").strip() or "the camera process died; its last words are above"
            raise MissingDependencyError(f"cameras {', '.join(config.names)}: {reason}")

    @property
    def alive(self) -> bool:
        """False when the process has died."""
        return self._child.poll() is None

    def send(self, stamp_ns: int, fault: str, joints: Array, bodies: Mapping[str, Array]) -> None:
        """Have images drawn of this posture; never waits, drops it when the process does not keep up."""
        frame = np.concatenate([[float(CAMERA_FAULTS.index(fault))], joints, *bodies.values()])
        try:
            os.write(self._input.fileno(), stamp_ns.to_bytes(8, "little") + frame.tobytes())
        except (BlockingIOError, BrokenPipeError):
            self.dropped += 1

    def close(self, timeout_s: float = 1.0) -> None:
        """End the process; idempotent."""
        self._input.close()
        self._output.close()
        try:
            self._child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()


class Painter:
    """Draws and publishes; lives in the camera process."""

    def __init__(self, node: Any, config: Cameras) -> None:
        from sensor_msgs.msg import CompressedImage, Image

        task = plugins.load("task", config.task)
        self.config, self._arm = config, LiveArm(task.scene(task.TIERS[config.tier]))
        self._bodies = tuple(self._arm.bodies)
        self.size = 8 + 8 * (1 + 7 + 7 * len(self._bodies))
        self._image, self._compressed = Image, CompressedImage
        self._raw_out = {
            name: node.create_publisher(Image, f"{name}/image_raw", context.SENSOR)
            for name in (config.names if config.raw else ())
        }
        self._jpeg_out = {
            name: node.create_publisher(CompressedImage, f"{name}/image_raw/compressed", context.SENSOR)
            for name in (config.names if config.compressed else ())
        }
        self._last: dict[str, Array] = {}
        rng = np.random.default_rng(0)
        self._noise = rng.integers(-NOISE, NOISE + 1, (config.height + _SHIFTS, config.width, 3)).astype(np.uint8)
        self._drawn = 0
        for name in config.names:  # fail now where there is no OpenGL or no such camera
            self._arm.render(name, config.width, config.height)

    def draw(self, frame: bytes) -> None:
        """Publish images of a frame as ``CameraProcess.send`` writes it."""
        numbers = np.frombuffer(frame, dtype=np.float64, offset=8)
        fault, joints = CAMERA_FAULTS[int(numbers[0])], numbers[1:8]
        poses = numbers[8:].reshape(-1, 7)
        self._arm.show(joints, dict(zip(self._bodies, poses, strict=True)))
        stamp_ns = int.from_bytes(frame[:8], "little")
        for name in self.config.names:
            outs = [out[name] for out in (self._raw_out, self._jpeg_out) if name in out]
            if any(out.get_subscription_count() for out in outs):
                self._publish(name, self._spoil(fault, name), stamp_ns)

    def close(self) -> None:
        """Free OpenGL."""
        self._arm.close()

    def _spoil(self, fault: str, name: str) -> Array:
        width, height = self.config.width, self.config.height
        if fault == "black":
            return np.zeros((height, width, 3), np.uint8)
        if fault == "frozen" and name in self._last:
            return self._last[name]
        image = self._last[name] = self._grain(self._arm.render(name, width, height))
        return np.ascontiguousarray(image[::2, ::2]) if fault == "wrong_size" else image

    def _grain(self, image: Array) -> Array:
        """The noise of a sensor: without it a standing arm would look like a frozen camera."""
        self._drawn += 1
        first = self._drawn * 7 % _SHIFTS
        noisy: Array = np.clip(image, NOISE, 255 - NOISE)
        noisy += self._noise[first : first + len(image)]  # modulo 256, as the noise is; the clip keeps it from wrapping
        return noisy

    def _publish(self, name: str, image: Array, stamp_ns: int) -> None:
        raw, jpeg = self._raw_out.get(name), self._jpeg_out.get(name)
        if raw is not None and raw.get_subscription_count():
            message = self._image(height=image.shape[0], width=image.shape[1], encoding="rgb8", step=3 * image.shape[1])
            message.data = array("B", image.tobytes())
            _stamp(message.header, name, stamp_ns)
            raw.publish(message)
        if jpeg is not None and jpeg.get_subscription_count():
            message = self._compressed(format="rgb8; jpeg compressed rgb8")
            message.data = array("B", _jpeg(image))
            _stamp(message.header, name, stamp_ns)
            jpeg.publish(message)


def _stamp(header: Any, name: str, stamp_ns: int) -> None:
    header.stamp.sec, header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
    header.frame_id = f"{name}_optical_frame"


def _jpeg(image: Array) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def _newest(size: int) -> bytes | None:
    """The last whole frame that waits on standard input; blocks for one; None at its end."""
    data = b""
    while not data or len(data) % size:
        part = os.read(0, 64 * size)
        if not part:
            return None
        data += part
    return data[-size:]


def main(argv: Sequence[str] | None = None) -> int:
    """Draw until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(OSError):
        os.nice(-5)  # a real camera needs no processor; this one shall not wait for a learner
    values = json.loads((sys.argv[1:] if argv is None else argv)[0])
    config = Cameras(**{**values, "names": tuple(values["names"])})
    try:
        with context.context() as ros:
            import rclpy

            node = rclpy.create_node(
                "sim_arm_cameras", namespace=config.namespace, context=ros, start_parameter_services=False
            )
            painter = Painter(node, config)
            os.write(1, READY)
            while (frame := _newest(painter.size)) is not None:
                painter.draw(frame)
            painter.close()
            node.destroy_node()
    except RobolearnError as error:
        os.write(1, f"{error}\n".encode())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
