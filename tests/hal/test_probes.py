"""Probes against stand-ins of their libraries and device trees, and all of them together."""

import errno
import os
import struct
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from robolearn.core import plugins
from robolearn.hal import discovery
from robolearn.hal.leases import LeaseTable
from robolearn.hal.probes import cpu, hid, nvidia, serial_ports, v4l2
from robolearn.hal.resources import Found, Resource

GIB = 2**30


class FakeNvml:
    """NVML with two GPUs and one slice; ``None`` is an answer the GPU does not give."""

    NVML_TEMPERATURE_GPU = NVML_TEMPERATURE_THRESHOLD_SLOWDOWN = NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 0
    NVML_VOLATILE_ECC = 0

    class NVMLError(Exception):
        pass

    def __init__(self, **changed: Any) -> None:
        self.facts: dict[str, Any] = {"temperature": 40, "slowdown": 90, "ecc": 0, "used": GIB, "init": "", **changed}
        self.open = 0

    def nvmlInit(self) -> None:
        if self.facts["init"]:
            raise self.NVMLError(self.facts["init"])
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:
        if uuid != "MIG-cccc":
            raise self.NVMLError("not found")
        return 9

    def nvmlDeviceGetName(self, handle: int) -> bytes:
        return b"NVIDIA " + b"AB"[handle : handle + 1]

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return ("GPU-aaaa-1", "GPU-bbbb-2")[handle]

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return SimpleNamespace(total=80 * GIB, used=self.facts["used"] if handle == 0 else 0)

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        return self.answer("temperature", handle, 40)

    def nvmlDeviceGetTemperatureThreshold(self, handle: int, which: int) -> int:
        return self.answer("slowdown", handle, 90)

    def nvmlDeviceGetTotalEccErrors(self, handle: int, kind: int, counter: int) -> int:
        return self.answer("ecc", handle, 0)

    def answer(self, name: str, handle: int, sound: int) -> int:
        value = self.facts[name] if handle == 0 else sound
        if value is None:
            raise self.NVMLError("Not Supported")
        return int(value)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, ["gpu:GPU-aaaa-1", "gpu:GPU-bbbb-2"]),
        ("1,0", ["gpu:GPU-bbbb-2", "gpu:GPU-aaaa-1"]),
        ("GPU-bbbb", ["gpu:GPU-bbbb-2"]),
        ("MIG-cccc", ["gpu:MIG-cccc"]),
        ("MIG-dddd,0", []),
        ("", []),
        ("-1", []),
        ("0,7,1", ["gpu:GPU-aaaa-1"]),
    ],
)
def test_gpus_are_listed_as_cuda_sees_them(visible: str | None, expected: list[str]) -> None:
    nvml = FakeNvml()
    found = nvidia.probe(nvml, {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    assert [gpu.id for gpu in found.resources] == expected
    assert not found.problem
    assert nvml.open == 0


@pytest.mark.parametrize(
    ("facts", "health", "why"),
    [
        ({}, "ok", ""),
        ({"ecc": None, "temperature": None, "slowdown": None}, "ok", ""),
        ({"ecc": 3}, "ecc", "GPU 0 has 3 memory errors"),
        ({"temperature": 91}, "hot", "at 91 °C and slows down at 90"),
        ({"used": 79 * GIB}, "full", "80896 of 81920 MiB in use"),
    ],
)
def test_the_health_of_a_gpu(facts: dict[str, Any], health: str, why: str) -> None:
    first, second = nvidia.probe(FakeNvml(**facts), {}).resources
    assert (first.health, bool(first.unusable)) == (health, bool(why))
    assert why in first.unusable
    assert (first.labels["name"], first.labels["memory_mib"]) == ("NVIDIA A", "81920")
    assert second.health == "ok"


def test_without_library_or_driver_the_gpu_probe_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "install the NVIDIA driver" in nvidia.probe(FakeNvml(init="Library Not Found")).problem
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvidia.probe().problem.endswith("pip install nvidia-ml-py")


def test_the_stand_in_has_the_names_of_nvml() -> None:
    pynvml = pytest.importorskip("pynvml")
    names = {name for name in dir(FakeNvml) if name.lower().startswith("nvml")}
    assert len(names) > 10
    assert not {name for name in names if not hasattr(pynvml, name)}


def camera_tree(root: Path, *names: str) -> tuple[Path, Path]:
    classes, devices = root / "class", root / "dev"
    devices.mkdir()
    for name in names:
        (classes / name).mkdir(parents=True)
        (classes / name / "name").write_text(f"Camera of {name}\n")
        (classes / name / "index").write_text("1\n" if name == "video1" else "0\n")
        (devices / name).touch()
    return classes, devices


def answer(buffer: bytearray, *, whole: int, node: int) -> None:
    struct.pack_into("16s32s32s6I", buffer, 0, b"uvcvideo", b"Eye", b"usb-1", 0, whole, node, 0, 0, 0)


def test_cameras_are_those_that_capture(tmp_path: Path) -> None:
    classes, devices = camera_tree(tmp_path, "video0", "video1", "video2", "video10")
    (devices / "v4l" / "by-id").mkdir(parents=True)
    (devices / "v4l" / "by-id" / "usb-Eye-index0").symlink_to(devices / "video0")

    def ask(descriptor: int, request: int, buffer: bytearray) -> int:
        name = Path(os.readlink(f"/proc/self/fd/{descriptor}")).name
        if request == v4l2.QUERYCAP:
            metadata = name == "video1"
            answer(buffer, whole=0x1 if name == "video10" else 0x80000001, node=0x00800000 if metadata else 0x1)
        elif name == "video2":
            raise OSError(errno.EBUSY, "busy")
        return 0

    found = v4l2.probe(classes, devices, ask).resources
    assert [camera.id for camera in found] == ["camera:usb-Eye-index0", "camera:video2", "camera:video10"]
    assert found[0].labels == {
        "device": str(devices / "video0"), "name": "Camera of video0", "card": "Eye", "bus": "usb-1"
    }  # fmt: skip
    assert [camera.health for camera in found] == ["ok", "busy", "ok"]
    assert "fuser -v" in found[1].unusable


def test_a_camera_that_may_not_be_opened_is_unusable_and_said_why(tmp_path: Path) -> None:
    classes, devices = camera_tree(tmp_path, "video0", "video1")

    def ask(descriptor: int, request: int, buffer: bytearray) -> int:
        raise OSError(errno.EACCES, "Permission denied")

    (camera,) = v4l2.probe(classes, devices, ask).resources  # the second node of a camera carries metadata
    assert (camera.id, camera.health) == ("camera:video0", "no-access")
    assert "usermod -aG video" in camera.unusable
    (devices / "video0").unlink()
    assert v4l2.probe(classes, devices, ask).resources[0].health == "broken"
    assert v4l2.probe(tmp_path / "none", devices, ask) == Found()


def test_space_mice_and_gamepads(tmp_path: Path) -> None:
    classes, devices = tmp_path / "class", tmp_path / "dev"
    for node, identity, name in (
        ("hidraw0", "0003:0000256F:0000C635", "3Dconnexion SpaceMouse Compact"),
        ("hidraw1", "0003:0000046D:0000C077", "Logitech Mouse"),
        ("hidraw2", "0003:0000046D:0000C626", "3Dconnexion SpaceNavigator"),
        ("hidraw3", "nonsense", "?"),
    ):
        folder = classes / "hidraw" / node / "device"
        folder.mkdir(parents=True)
        facts = f"HID_ID={identity}\nHID_NAME={name}\nHID_PHYS=usb-{node}/input0\nHID_UNIQ=\n"
        (folder / "uevent").write_text(facts)
    for node, name in (("js0", "Xbox Pad"), ("js1", "3Dconnexion SpaceMouse Compact")):
        folder = classes / "input" / node / "device"
        folder.mkdir(parents=True)
        (folder / "name").write_text(name + "\n")
    (devices / "input").mkdir(parents=True)
    (devices / "hidraw0").touch()
    (devices / "input" / "js0").touch()
    found = {resource.id: resource for resource in hid.probe(classes, devices).resources}
    assert sorted(found) == ["gamepad:js0", "spacemouse:usb-hidraw0", "spacemouse:usb-hidraw2"]
    assert {resource.kind for resource in found.values()} == {"teleop"}
    assert found["spacemouse:usb-hidraw0"].labels["type"] == "spacemouse"
    assert found["gamepad:js0"].health == "ok"
    assert found["spacemouse:usb-hidraw2"].health == "absent"


def test_devices_of_others_are_not_usable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may open everything
    (tmp_path / "serial" / "by-id").mkdir(parents=True)
    (tmp_path / "ttyUSB0").touch()
    (tmp_path / "serial" / "by-id" / "usb-a").symlink_to(tmp_path / "ttyUSB0")
    (port,) = serial_ports.probe(tmp_path, []).resources
    assert port.health == "no-access"
    assert "usermod -aG dialout" in port.unusable


def test_serial_ports_by_the_name_that_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "serial" / "by-id").mkdir(parents=True)
    for name in ("ttyUSB0", "ttyACM0"):
        (tmp_path / name).touch()
    (tmp_path / "serial" / "by-id" / "usb-FTDI_1").symlink_to(tmp_path / "ttyUSB0")
    ports = [
        SimpleNamespace(device=str(tmp_path / "ttyUSB0"), description="U2D2", vid=0x0403, pid=0x6014),
        SimpleNamespace(device=str(tmp_path / "ttyACM0"), description="Board", vid=0x1A86, pid=None),
        SimpleNamespace(device="/dev/ttyS0", description="n/a", vid=None, pid=None),
    ]
    found = {resource.id: resource for resource in serial_ports.probe(tmp_path, ports).resources}
    assert sorted(found) == ["serial:ttyACM0", "serial:usb-FTDI_1"]
    assert found["serial:usb-FTDI_1"].labels == {
        "device": str(tmp_path / "ttyUSB0"),
        "name": "U2D2",
        "usb": "0403:6014",
    }
    monkeypatch.setitem(sys.modules, "serial.tools.list_ports", None)
    without = serial_ports.probe(tmp_path)
    assert [resource.id for resource in without.resources] == ["serial:usb-FTDI_1"]
    assert "pip install pyserial" in without.problem


def test_one_bad_probe_does_not_keep_the_others_from_answering() -> None:
    release = threading.Event()

    def hangs() -> Found:
        release.wait(60)
        return Found()

    def raises() -> Found:
        raise RuntimeError("two\nlines")

    probes = {"cpu": cpu.probe, "hangs": hangs, "raises": raises, "lacks": lambda: Found(problem="no library")}
    try:
        found = discovery.discover(limit_s=0.3, probes=probes)
    finally:
        release.set()
    assert [resource.kind for resource in found.resources] == ["cpu"]
    assert found.problems == (
        ("hangs", "did not answer within 0.3 s"),
        ("lacks", "no library"),
        ("raises", "failed: RuntimeError: two lines"),
    )
    assert discovery.discover(probes={}) == discovery.Inventory((), ())


def test_probes_run_at_the_same_time() -> None:
    together = threading.Barrier(2, timeout=30)

    def meets() -> Found:
        together.wait()
        return Found()

    assert discovery.discover(limit_s=60, probes={"one": meets, "two": meets}).problems == ()


def test_every_installed_probe_is_a_plug_in() -> None:
    assert {"cpu", "hid", "nvidia", "serial_ports", "site_file", "v4l2"} <= set(plugins.names("probe"))
    assert discovery.installed()["cpu"]().resources[0].kind == "cpu"


def test_a_package_that_is_not_installed_adds_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "their_probes").mkdir()
    (tmp_path / "their_probes" / "__init__.py").touch()
    (tmp_path / "their_probes" / "broken.py").write_text("import a_library_nobody_has\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(plugins.GROUPS, "probe", ("their_probes", "robolearn.hal.nothing", "no_such_package.probes"))
    assert plugins.names("probe") == ["broken"]
    (problem,) = discovery.discover(limit_s=60).problems
    assert problem == ("broken", "failed: ModuleNotFoundError: No module named 'a_library_nobody_has'")


def robot(**changed: Any) -> Resource:
    return Resource(**{"id": "ros2:/left", "kind": "robot", "labels": {"driver": "ros2"}, **changed})


def test_what_is_declared_and_what_is_found_is_one_resource(tmp_path: Path) -> None:
    device = tmp_path / "video0"
    device.touch()
    link = tmp_path / "eye"
    link.symlink_to(device)
    declared = (
        robot(labels={"driver": "ros2", "name": "left", "bench": "A"}),
        Resource("camera:side", "camera", {"name": "side", "device": str(link)}),
        Resource("camera:wrist", "camera", {"name": "wrist", "topic": "/left/wrist/image_raw"}),
        Resource("camera:gone", "camera", {"device": str(tmp_path / "video9")}),
    )
    seen = robot(
        simulated=True, labels={"mode": "idle", "bench": "?"}, health="stopped", unusable="it is stopped", seen_epoch=7
    )
    found = {
        "site_file": Found(declared),
        "graph": Found((seen, Resource("camera:/left/wrist/image_raw", "camera", {"raw": "yes"}))),
        "v4l2": Found(
            (Resource("camera:video0", "camera", {"device": str(device)}, health="busy", unusable="in use"),)
        ),
    }
    gone, side, wrist, left = discovery.combine(found)
    assert left.labels == {"driver": "ros2", "name": "left", "bench": "A", "mode": "idle"}
    assert (left.simulated, left.health, left.unusable) == (False, "stopped", "it is stopped"), "the careful answers"
    assert (side.id, side.health, side.unusable) == ("camera:side", "busy", "in use")
    assert left.seen_epoch == 7
    assert (wrist.id, wrist.labels["raw"]) == ("camera:wrist", "yes")
    assert (gone.health, "video9" in gone.unusable) == ("absent", True)


def test_a_robot_nobody_answers_for_may_still_be_tried() -> None:
    absent = discovery.combine({"site_file": Found((robot(),)), "graph": Found()})
    assert (absent[0].health, absent[0].unusable) == ("absent", "")
    unknown = discovery.combine({"site_file": Found((robot(),)), "graph": Found(problem="no rclpy")})
    assert unknown[0].health == "ok"


def test_enrolled_resources_can_be_asked_for_by_label(tmp_path: Path) -> None:
    with LeaseTable(tmp_path / "leases.db") as table:
        problems = discovery.enroll(table, [robot(), Resource("cpu:a", "cpu")])
        assert problems == []
        assert [row.resource.id for row in table.status()] == ["cpu:a", "ros2:/left"]
        table.quarantine("ros2:/left", "why")
        assert "not as a simulated robot" in discovery.enroll(table, [robot(simulated=True)])[0]
