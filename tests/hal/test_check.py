"""Checks: robots through their drivers, cameras through their frames, clocks by comparison."""

import errno
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from robolearn.core import plugins
from robolearn.core.clock import FakeClock
from robolearn.core.errors import RobolearnError
from robolearn.hal import camera
from robolearn.hal.check import Finding, check, drift, failures, passed, synchronised
from robolearn.hal.probes.v4l2 import REQBUFS
from robolearn.hal.resources import Resource

GOOD, BAD, UNKNOWN = Finding("a", True, ""), Finding("b", False, ""), Finding("c", None, "")


def test_what_passes() -> None:
    assert [passed(f) for f in ([], [UNKNOWN], [GOOD, UNKNOWN], [GOOD, BAD])] == [False, False, True, False]
    assert failures([GOOD, BAD, UNKNOWN]) == [BAD]


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


@pytest.fixture
def drivers(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Name -> driver module, in place of the real ones."""
    modules: dict[str, Any] = {}

    def load(group: str, name: str) -> Any:
        assert group == "robot"
        if name not in modules:
            raise RobolearnError(f"unknown robot '{name}'")
        return modules[name]

    monkeypatch.setattr(plugins, "load", load)
    return modules


def test_a_robot_is_checked_by_its_driver(drivers: dict[str, Any]) -> None:
    asked: list[tuple[str, float]] = []

    def rate(instance: str, seconds: float) -> list[Finding]:
        asked.append((instance, seconds))
        return [Finding("joint feedback", instance == "/left", "499 Hz", "500 Hz")]

    def silent(instance: str) -> list[Finding]:
        raise RobolearnError(f"no host answers\nin {instance}")

    drivers["good"], drivers["silent"] = SimpleNamespace(check=rate), SimpleNamespace(check=silent)
    drivers["plain"] = SimpleNamespace()

    def findings(name: str, **changed: Any) -> dict[str, Finding]:
        return by_name(check(Resource(name, "robot", **changed), seconds=0.5, clock=FakeClock(), wall_ns=lambda: 0))

    assert findings("good:/left")["joint feedback"].ok
    assert findings("any:/left", labels={"driver": "good"})["joint feedback"].ok
    assert asked == [("/left", 0.5), ("/left", 0.5)]
    assert findings("good:/right")["joint feedback"].ok is False
    assert findings("silent:/x")["robot"] == Finding("robot", False, "no host answers in /x", "an answer")
    assert findings("plain:a")["driver"].ok is None, "a real robot that nobody looked at has not passed"
    assert findings("plain:a", simulated=True)["driver"].ok
    assert "unknown robot" in findings("other:a")["robot"].value


def test_the_health_a_probe_found_is_part_of_every_check() -> None:
    gpu = Resource("gpu:0", "gpu", {"temperature_c": "95"}, health="hot", unusable="GPU 0 is at 95 °C; cool it")
    assert check(gpu) == [Finding("health", False, "hot, 95 °C", "ok", "GPU 0 is at 95 °C; cool it")]
    assert passed(check(Resource("spacemouse:a", "teleop")))


def test_the_wall_clock_is_compared_with_the_monotonic_one() -> None:
    clock = FakeClock()
    for step_ns, ok in ((0, True), (-50_000_000, False), (3_600_000_000_000, False)):
        walls = iter((10**18, 10**18 + 2 * 10**9 + step_ns))
        found = by_name(
            check(Resource("cpu:a", "cpu"), seconds=2, clock=clock, wall_ns=lambda walls=walls: next(walls))
        )
        assert found["clock"].ok is ok, found
    assert drift(2.0, 1.5).ok
    assert drift(2.0, -3.5).value == "wall clock -3.5 ms in 2.0 s"
    assert [synchronised(lambda state=state: state).ok for state in (0, 5, None)] == [True, None, None]
    start = time.monotonic()
    assert by_name(check(Resource("cpu:a", "cpu"), seconds=0.05))["clock"].value
    assert time.monotonic() - start >= 0.05


class Eye:
    """A camera behind the system calls of ``camera.Device``: it hands out the pictures of a list, then nothing."""

    def __init__(self, pictures: list[bytes], form: bytes = b"YUYV", size: tuple[int, int] = (4, 2)) -> None:
        self.pictures, self.form, self.size = list(pictures), form, size
        self.maps = [bytearray(64) for _ in range(4)]
        self.queued: list[int] = []
        self.on, self.opened, self.closed, self.busy = False, 0, 0, False

    def open(self, path: Path) -> int:
        self.opened += 1
        return 7

    def close(self, descriptor: int) -> None:
        assert descriptor == 7
        assert not self.on, "streaming ends before the device is closed"
        self.closed += 1

    def map(self, descriptor: int, length: int, offset: int) -> Any:
        assert length == 64
        return Mapped(self.maps[offset // 4096])

    def ready(self, descriptor: int, timeout_s: float) -> bool:
        return bool(self.pictures)

    def ask(self, descriptor: int, request: int, buffer: bytearray) -> int:
        if request == camera.G_FMT:
            struct.pack_into("=II4s", buffer, 8, *self.size, self.form)
        elif request == REQBUFS:
            if self.busy:
                raise OSError(errno.EBUSY, "Device or resource busy")
            struct.pack_into("=I", buffer, 0, len(self.maps))
        elif request == camera.QUERYBUF:
            (index,) = struct.unpack_from("=I", buffer)
            struct.pack_into("=QI", buffer, 64, 4096 * index, 64)
        elif request == camera.QBUF:
            self.queued.append(struct.unpack_from("=I", buffer)[0])
        elif request == camera.DQBUF:
            index, picture = self.queued.pop(0), self.pictures.pop(0)
            self.maps[index][: len(picture)] = picture
            struct.pack_into("=4I", buffer, 0, index, 1, len(picture), 0x40 if picture.startswith(b"broken") else 0)
        else:
            assert request in (camera.STREAMON, camera.STREAMOFF)
            self.on = request == camera.STREAMON
        return 0


class Mapped:
    def __init__(self, memory: bytearray) -> None:
        self.memory = memory

    def __getitem__(self, key: slice) -> bytes:
        return bytes(self.memory[key])

    def close(self) -> None:
        pass


def yuyv(*luma: int) -> bytes:
    return bytes(value for brightness in luma for value in (brightness, 128))


def look(eye: Eye) -> dict[str, Finding]:
    found = by_name(camera.check_camera(Path("/dev/video0"), 1.0, eye, FakeClock()))
    assert (eye.opened, eye.closed) == (1, 1)
    return found


def test_a_camera_that_sees_something_that_moves() -> None:
    found = look(Eye([yuyv(*range(i, 80 + i, 10)) for i in range(9)]))
    assert [finding.ok for finding in found.values()] == [True, True, True]
    assert found["frames"].value.startswith("9, ")
    assert found["frames"].value.endswith("4x2 YUYV")


def test_black_frozen_broken_busy_and_silent_cameras() -> None:
    assert look(Eye([yuyv(*[1, 2] * 4)] * 3))["picture"].ok is False
    frozen = look(Eye([yuyv(*range(0, 80, 10))] * 6))
    assert (frozen["picture"].ok, frozen["motion"].ok) == (True, False)
    assert look(Eye([b"broken"] * 3))["frames"].value == "none within 1 s"
    assert look(Eye([]))["frames"].ok is False
    busy = Eye([])
    busy.busy = True
    assert "Device or resource busy" in look(busy)["frames"].value
    assert look(Eye([yuyv(*range(8))]))["motion"].ok is None, "one frame tells nothing of motion"


def test_what_cannot_be_decoded_is_not_called_fine() -> None:
    found = look(Eye([b"????"] * 3, form=b"H264"))
    assert (found["frames"].ok, found["picture"].ok) == (True, None)


def test_brightness_in_the_usual_formats() -> None:
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.full((8, 8), 200, np.uint8)).save(file, "JPEG")
    for form, data, expected in (
        (b"YUYV", yuyv(10, 20), [10, 20]),
        (b"UYVY", yuyv(10, 20)[::-1], [20, 10]),
        (b"GREY", bytes([5, 6]), [5, 6]),
        (b"NV12", bytes([7, 8, 128]), [7, 8]),
    ):
        luma = camera.brightness_of(camera.Frame(form, 2, 1, data))
        assert luma is not None
        assert luma.tolist() == expected
    luma = camera.brightness_of(camera.Frame(b"MJPG", 8, 8, file.getvalue()))
    assert luma is not None
    assert abs(float(luma.mean()) - 200) < 2
    assert camera.brightness_of(camera.Frame(b"MJPG", 8, 8, b"no jpeg")) is None


def test_cameras_behind_ros_are_left_to_their_robot() -> None:
    findings = by_name(check(Resource("camera:side", "camera", {"topic": "/left/side/image_raw"})))
    assert findings["frames"].ok is None
    assert "over ROS" in findings["frames"].value
    absent = check(Resource("camera:a", "camera", {"device": "/dev/none"}, health="absent", unusable="not there"))
    assert [finding.name for finding in absent] == ["health"]
    gone = by_name(check(Resource("camera:a", "camera", {"device": "/dev/none"}), seconds=0.1))
    assert "No such file" in gone["frames"].value
