"""Frames of a Video4Linux camera, as far as a check needs them: streaming I/O with mapped buffers.

Structures and numbers are those of linux/videodev2.h on 64-bit Linux. The format is left as it is.
"""

from __future__ import annotations

import io
import mmap
import os
import select
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from robolearn.core.clock import Clock, MonotonicClock
from robolearn.core.spec import Array
from robolearn.hal.check import Finding
from robolearn.hal.probes.v4l2 import CAPTURE, MMAP, REQBUFS, ioctl

G_FMT, QUERYBUF, QBUF, DQBUF = 0xC0D05604, 0xC0585609, 0xC058560F, 0xC0585611
STREAMON, STREAMOFF = 0x40045612, 0x40045613
_BUFFERS = 4
_WAIT_S = 1.0
_BROKEN = 0x40
"""V4L2_BUF_FLAG_ERROR: the frame is damaged."""
_BUFFER = struct.Struct("=5I4x16s16sIIQIIII")
"""index, type, bytesused, flags, field, timestamp, timecode, sequence, memory, offset, length, 2 reserved, padding."""
_BLACK, _FLAT = 8.0, 2.0
"""A picture is black when its mean brightness and its spread are below these [of 255]."""
_LUMA = {b"YUYV": slice(0, None, 2), b"UYVY": slice(1, None, 2)}
_PLAIN = (b"GREY", b"RGB3", b"BGR3", b"NV12", b"YU12")


class Device(Protocol):
    """System calls of a camera."""

    def open(self, path: Path) -> int: ...
    def close(self, descriptor: int) -> None: ...
    def ask(self, descriptor: int, request: int, buffer: bytearray) -> int: ...
    def map(self, descriptor: int, length: int, offset: int) -> Any: ...
    def ready(self, descriptor: int, timeout_s: float) -> bool: ...


class SystemDevice:
    """The system calls themselves."""

    def open(self, path: Path) -> int:
        """open(2)."""
        return os.open(path, os.O_RDWR | os.O_NONBLOCK)

    def close(self, descriptor: int) -> None:
        """close(2)."""
        os.close(descriptor)

    def ask(self, descriptor: int, request: int, buffer: bytearray) -> int:
        """ioctl(2)."""
        return ioctl(descriptor, request, buffer)

    def map(self, descriptor: int, length: int, offset: int) -> mmap.mmap:
        """mmap(2)."""
        return mmap.mmap(descriptor, length, offset=offset)

    def ready(self, descriptor: int, timeout_s: float) -> bool:
        """Whether a frame arrives in time."""
        return bool(select.select([descriptor], [], [], timeout_s)[0])


@dataclass(frozen=True)
class Frame:
    """One frame as the camera sends it: its format (four characters), size [px] and bytes."""

    format: bytes
    width: int
    height: int
    data: bytes


def check_camera(path: Path, seconds: float, device: Device | None = None, clock: Clock | None = None) -> list[Finding]:
    """Whether frames come, are not black, and change."""
    clock = clock or MonotonicClock()
    start = clock.now_ns()
    brightness: list[Array] = []
    count, last = 0, None
    try:
        for frame in frames(path, device or SystemDevice()):
            count, last = count + 1, frame
            luma = brightness_of(frame) if len(brightness) < _BUFFERS * 4 else None
            brightness += [luma] if luma is not None else []
            if clock.now_ns() - start >= seconds * 1e9:
                break
    except OSError as error:
        return [
            Finding("frames", False, f"{path}: {error.strerror or error}", "frames", "is another program using it?")
        ]
    if last is None:
        return [Finding("frames", False, f"none within {_WAIT_S:g} s", "frames", "plug the camera in again")]
    rate = count / max((clock.now_ns() - start) * 1e-9, 1e-9)
    name = last.format.decode("ascii", "replace")
    seen = Finding("frames", True, f"{count}, {rate:.1f} Hz, {last.width}x{last.height} {name}", "frames")
    if not brightness:
        return [seen, Finding("picture", None, f"not looked at: {name} is not decoded here", "", "pip install pillow")]
    return [seen, *picture(brightness)]


def picture(brightness: list[Array]) -> list[Finding]:
    """Whether pictures show something, and whether they change; each an array of brightness, 0 to 255."""
    mean, spread = float(np.mean(brightness[-1])), float(np.std(brightness[-1]))
    black = mean < _BLACK and spread < _FLAT
    words = f"brightness {mean:.0f} of 255, spread {spread:.0f}"
    shown = Finding(
        "picture", not black, words, "not black", "take the lens cap off, switch the light on" if black else ""
    )
    if len(brightness) < 2:
        return [shown, Finding("motion", None, "one frame only", "frames that differ", "watch longer: --seconds 5")]
    same = all(np.array_equal(one, other) for one, other in pairwise(brightness))
    words = f"{len(brightness)} frames are bit by bit the same" if same else "frames differ"
    hint = "the picture is frozen; plug the camera in again" if same else ""
    return [shown, Finding("motion", not same, words, "frames that differ", hint)]


def brightness_of(frame: Frame) -> Array | None:
    """Brightness of the pixels, 0 to 255; None for a format that cannot be read here."""
    values = np.frombuffer(frame.data, np.uint8)
    if frame.format in _LUMA:
        return values[_LUMA[frame.format]]
    if frame.format in _PLAIN:
        size = frame.width * frame.height
        return values[: size if frame.format in (b"NV12", b"YU12") else None]
    if frame.format in (b"MJPG", b"JPEG"):
        try:
            from PIL import Image
        except ImportError:
            return None
        try:
            return np.asarray(Image.open(io.BytesIO(frame.data)).convert("L"))
        except OSError:
            return None
    return None


def frames(path: Path, device: Device) -> Iterator[Frame]:
    """Frames until nobody asks for more, or none comes for a second.

    Raises:
        OSError: the camera refuses; it is in use, or not there.
    """
    descriptor = device.open(path)
    maps: list[Any] = []
    kind = bytearray(struct.pack("=I", CAPTURE))
    try:
        form = bytearray(208)
        struct.pack_into("=I", form, 0, CAPTURE)
        device.ask(descriptor, G_FMT, form)
        width, height, pixels = struct.unpack_from("=II4s", form, 8)
        wanted = bytearray(struct.pack("=5I", _BUFFERS, CAPTURE, MMAP, 0, 0))
        device.ask(descriptor, REQBUFS, wanted)
        for index in range(struct.unpack_from("=I", wanted)[0]):
            buffer = _buffer(index)
            device.ask(descriptor, QUERYBUF, buffer)
            offset, length = _BUFFER.unpack(buffer)[9:11]
            maps.append(device.map(descriptor, length, offset))
            device.ask(descriptor, QBUF, buffer)
        device.ask(descriptor, STREAMON, kind)
        while device.ready(descriptor, _WAIT_S):
            buffer = _buffer(0)
            device.ask(descriptor, DQBUF, buffer)
            index, _, used, flags, *_ = _BUFFER.unpack(buffer)
            data = bytes(maps[index][:used])
            device.ask(descriptor, QBUF, _buffer(index))
            if not flags & _BROKEN:
                yield Frame(pixels, width, height, data)
    finally:
        if maps:
            device.ask(descriptor, STREAMOFF, kind)
        for mapped in maps:
            mapped.close()
        device.close(descriptor)


def _buffer(index: int) -> bytearray:
    return bytearray(_BUFFER.pack(index, CAPTURE, 0, 0, 0, b"", b"", 0, MMAP, 0, 0, 0, 0, 0))
