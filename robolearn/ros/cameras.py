"""Images from ROS topics, with what is wrong with them.

A camera that is disconnected, frozen, covered or reconfigured must not feed a policy: whoever asks for a frame gets
the newest one together with its age and, if there is one, its problem. Nothing is resized silently.
"""

from __future__ import annotations

import io
import math
import zlib
from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np

from robolearn.core.clock import Clock, MonotonicClock
from robolearn.core.errors import MissingDependencyError, RobolearnError
from robolearn.core.spec import Array
from robolearn.ros.context import Newest

STALE_S, STALE_PERIODS = 0.25, 4
FROZEN_FRAMES = 5
BLACK_LEVEL = 10
_CHANNELS = {"rgb8": 3, "bgr8": 3, "mono8": 1, "8UC3": 3, "8UC1": 1}
_BGR = ("bgr8", "8UC3")
_SMOOTHING = 0.1


@dataclass(frozen=True)
class Frame:
    """What a camera shows.

    Attributes:
        image: (height, width, 3) uint8 RGB, read-only; the newest that could be read; None before the first.
        age_s: since it arrived here [s]; infinite before the first.
        problem: why it must not be used; empty when it may.
    """

    image: Array | None
    age_s: float
    problem: str = ""


class CameraFeed:
    """The newest frame of one camera topic; ask it as often as you like, it never waits.

    A frame is stale when it is older than 0.25 s or 4 periods of the camera, whichever is longer; frozen when more than
    ``frozen_frames`` images in a row had the same bytes (no camera is free of noise); black when no value exceeds
    ``black_level``.
    """

    def __init__(
        self,
        node: Any,
        topic: str,
        *,
        compressed: bool,
        shape: tuple[int, int],
        clock: Clock | None = None,
        frozen_frames: int = FROZEN_FRAMES,
        black_level: int = BLACK_LEVEL,
    ) -> None:
        """Subscribe.

        Args:
            node: that polls; it need not be spun.
            topic: of images, for example ``wrist/image_raw``; ``compressed`` takes ``<topic>/compressed`` instead.
            compressed: JPEG or PNG (sensor_msgs/CompressedImage) instead of sensor_msgs/Image.
            shape: (height, width) every image must have [px].
        """
        from sensor_msgs.msg import CompressedImage, Image

        if compressed and not topic.endswith("/compressed"):
            topic += "/compressed"
        self.topic, self._compressed, self._shape = topic, compressed, shape
        self._clock: Clock = clock or MonotonicClock()
        self._newest = Newest(node, CompressedImage if compressed else Image, topic, clock=self._clock)
        self._judge = Judge(shape, frozen_frames, black_level)
        self._image: Array | None = None
        self._problem = ""
        self._period_s = 0.0
        self._received_ns = 0
        self._count = 0

    def frame(self) -> Frame:
        """What the camera shows now."""
        message = self._newest.take()
        if message is not None:
            self._take(message)
        if self._received_ns == 0:
            return Frame(None, math.inf, f"{self.topic}: no image yet{self._hint()}")
        age_s = 1e-9 * (self._clock.now_ns() - self._received_ns)
        limit_s = max(STALE_S, STALE_PERIODS * self._period_s)
        if age_s > limit_s:
            return Frame(self._image, age_s, f"{self.topic}: stale, the last image is {age_s:.2f} s old")
        return Frame(self._image, age_s, self._problem and f"{self.topic}: {self._problem}")

    def close(self) -> None:
        """Unsubscribe."""
        self._newest.destroy()

    def _hint(self) -> str:
        return "" if self._newest.publishers else ", nobody publishes it"

    def _take(self, message: Any) -> None:
        newest = self._newest
        if self._received_ns and newest.count > self._count:
            period_s = 1e-9 * (newest.received_ns - self._received_ns) / (newest.count - self._count)
            self._period_s += (period_s - self._period_s) * (_SMOOTHING if self._period_s else 1.0)
        self._received_ns, self._count = newest.received_ns, newest.count
        try:
            image = decode(message) if self._compressed else unpack(message)
        except RobolearnError as error:
            self._problem = str(error)
            return
        self._problem = self._judge.look(image, message.data)
        if image.shape[:2] == self._shape:
            self._image = image


class Judge:
    """Finds what is wrong with a sequence of images."""

    def __init__(
        self, shape: tuple[int, int], frozen_frames: int = FROZEN_FRAMES, black_level: int = BLACK_LEVEL
    ) -> None:
        self._shape, self._frozen_frames, self._black = shape, frozen_frames, black_level
        self._digest, self._same = -1, 0

    def look(self, image: Array, data: bytes | array[int]) -> str:
        """Take the next image, (h, w, 3) uint8, and the bytes it came in; say what is wrong, or nothing."""
        digest = zlib.crc32(data)
        self._same = self._same + 1 if digest == self._digest else 0
        self._digest = digest
        if image.shape[:2] != self._shape:
            (height, width), (h, w) = self._shape, image.shape[:2]
            return f"expected images of {width}x{height}, got {w}x{h}; set the camera's size, or the expected one"
        if int(image.max(initial=0)) <= self._black:
            return "the image is black; is the lens covered, or the light off?"
        if self._same >= self._frozen_frames:
            return f"frozen, the last {self._same + 1} images are the same to the last bit; restart the camera's driver"
        return ""


def unpack(message: Any) -> Array:
    """(h, w, 3) uint8 RGB of a sensor_msgs/Image; a read-only view of the message for rgb8 (no copy).

    Raises:
        RobolearnError: another encoding than rgb8, bgr8, mono8, or fewer bytes than its size asks for.
    """
    channels = _CHANNELS.get(message.encoding)
    if channels is None:
        raise RobolearnError(f"expected encoding {', '.join(_CHANNELS)}, got '{message.encoding}'")
    height, width, step = message.height, message.width, message.step
    if step < width * channels or len(message.data) < step * height or height * width == 0:
        raise RobolearnError(
            f"an image of {width}x{height} {message.encoding} needs {width * channels} bytes a row, "
            f"got step {step} and {len(message.data)} bytes"
        )
    rows = np.frombuffer(message.data, dtype=np.uint8, count=step * height).reshape(height, step)
    image = rows[:, : width * channels].reshape(height, width, channels)  # the rest of a row is padding
    if channels == 1:
        image = np.broadcast_to(image, (height, width, 3))
    elif message.encoding in _BGR:
        image = image[:, :, ::-1]
    image.flags.writeable = False
    return image


def decode(message: Any) -> Array:
    """(h, w, 3) uint8 RGB of a sensor_msgs/CompressedImage in JPEG or PNG.

    Raises:
        RobolearnError: the bytes are no such image.
        MissingDependencyError: pillow is absent.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise MissingDependencyError("compressed images need pillow: pip install pillow") from error
    try:
        with Image.open(io.BytesIO(message.data), formats=("JPEG", "PNG")) as picture:
            image = np.asarray(picture.convert("RGB"))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise RobolearnError(f"expected JPEG or PNG, got {len(message.data)} bytes of '{message.format}'") from error
    image.flags.writeable = False
    return image
