"""Cameras of Video4Linux: /dev/video*, by the names and the answers of their drivers (linux/videodev2.h)."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Callable
from pathlib import Path

from robolearn.hal.resources import HEALTHY, Found, Resource

QUERYCAP = 0x80685600
"""_IOR('V', 0, struct v4l2_capability): driver[16], card[32], bus_info[32], version, capabilities, device_caps."""
REQBUFS = 0xC0145608
"""_IOWR('V', 8, struct v4l2_requestbuffers): count, type, memory, capabilities, flags."""
CAPTURE = 1
"""V4L2_BUF_TYPE_VIDEO_CAPTURE."""
MMAP = 1
"""V4L2_MEMORY_MMAP."""

_CAPABILITY = struct.Struct("16s32s32s6I")
_CAPTURES = 0x1 | 0x1000
"""V4L2_CAP_VIDEO_CAPTURE, and the same with several planes."""
_HAS_DEVICE_CAPS = 0x80000000

Ioctl = Callable[[int, int, bytearray], int]


def ioctl(descriptor: int, request: int, buffer: bytearray) -> int:
    """ioctl(2) that fills ``buffer``."""
    return int(fcntl.ioctl(descriptor, request, buffer, True))


def probe(classes: Path = Path("/sys/class/video4linux"), devices: Path = Path("/dev"), ask: Ioctl = ioctl) -> Found:
    """Every device that captures pictures; nodes that only carry metadata or outputs are left out."""
    nodes = sorted(classes.glob("video*"), key=lambda node: (len(node.name), node.name)) if classes.is_dir() else []
    cameras = (_camera(node, devices, ask) for node in nodes)
    return Found(tuple(camera for camera in cameras if camera is not None))


def stable_id(device: Path) -> str:
    """``camera:`` and the name udev gives the device, which stays when it is plugged elsewhere; else its node's."""
    folder = device.parent / "v4l" / "by-id"
    for link in sorted(folder.iterdir()) if folder.is_dir() else []:
        if link.resolve() == device.resolve():
            return f"camera:{link.name}"
    return f"camera:{device.name}"


def _camera(node: Path, devices: Path, ask: Ioctl) -> Resource | None:
    device = devices / node.name
    labels = {"device": str(device), "name": _line(node / "name") or node.name}
    try:
        labels |= _question(device, ask)
    except _NoCameraError:
        return None
    except OSError as error:
        if _line(node / "index") not in ("", "0"):
            return None  # the further nodes of a camera carry metadata
        health, why = _reason(error, device)
        return Resource(stable_id(device), "camera", labels, health=health, unusable=why)
    return Resource(stable_id(device), "camera", labels, health=HEALTHY)


class _NoCameraError(Exception):
    """The node does not capture pictures."""


def _question(device: Path, ask: Ioctl) -> dict[str, str]:
    """Labels of a camera that can be opened and is not in use."""
    descriptor = os.open(device, os.O_RDWR | os.O_NONBLOCK)
    try:
        answer = bytearray(104)
        ask(descriptor, QUERYCAP, answer)
        _, card, bus, _, everything, of_node, *_ = _CAPABILITY.unpack(answer)
        if not (of_node if everything & _HAS_DEVICE_CAPS else everything) & _CAPTURES:
            raise _NoCameraError
        # Asking for no buffers changes nothing, and is refused while another program streams.
        try:
            ask(descriptor, REQBUFS, bytearray(struct.pack("5I", 0, CAPTURE, MMAP, 0, 0)))
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise
        return {"card": _string(card), "bus": _string(bus)}
    finally:
        os.close(descriptor)


def _reason(error: OSError, device: Path) -> tuple[str, str]:
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            "no-access",
            f"{device} may not be opened; join its group: sudo usermod -aG video $USER, then log in again",
        )
    if error.errno == errno.EBUSY:
        return "busy", f"{device} is in use by another program; fuser -v {device} shows which"
    return "broken", f"{device} does not answer ({error.strerror}); plug it in again"


def _line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _string(value: bytes) -> str:
    return value.partition(b"\0")[0].decode("utf-8", "replace")
