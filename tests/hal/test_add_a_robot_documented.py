"""What docs/add-a-robot.md shows works: its driver keeps the contract, its site files load, its arm of servos moves."""

from __future__ import annotations

import importlib
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from robolearn.core.errors import MissingDependencyError, RobotStoppedError
from robolearn.core.types import Command
from robolearn.hal import site
from robolearn.hal.check import passed
from robolearn.hal.contract import RobotContract

GUIDE = (Path(__file__).parents[2] / "docs" / "add-a-robot.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", GUIDE, re.S)
SITES = re.findall(r"```yaml\n(.*?)```", GUIDE, re.S)
DRIVER, SUITE, SERVOS = PYTHON


class VendorArm:
    """The imaginary SDK: an arm that moves to poses at 0.5 m/s with a profile of its own."""

    def __init__(self, address: str, timeout_s: float) -> None:
        self._lock = threading.Lock()
        self._from = self._to = np.array([0.4, 0.0, 0.3, 0.0, 1.0, 0.0, 0.0])
        self._began, self._opening = time.monotonic(), 0.0

    def tip(self) -> tuple[list[float], float]:
        with self._lock:
            return self._now().tolist(), self._opening

    def move(self, pose: list[float], opening: float) -> None:
        with self._lock:
            self._from, self._began = self._now(), time.monotonic()
            self._to, self._opening = np.array(pose), float(opening)

    def halt(self) -> None:
        with self._lock:
            self._from = self._to = self._now()

    def disconnect(self) -> None:
        self.halt()

    def _now(self) -> Any:
        way = float(np.linalg.norm(self._to[:3] - self._from[:3]))
        done = min(1.0, (time.monotonic() - self._began) * 0.5 / way) if way else 1.0
        position = self._from[:3] + done * (self._to[:3] - self._from[:3])
        return np.concatenate([position, self._to[3:]])


@pytest.fixture
def my_arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The guide's driver, in a package of its own beside the imaginary SDK."""
    package = tmp_path / "my_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "my_arm.py").write_text(DRIVER)
    vendor = ModuleType("vendor_arm")
    vendor.Arm = VendorArm  # type: ignore[attr-defined]
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "vendor_arm", vendor)
    yield importlib.import_module("my_package.my_arm")
    for name in ("my_package.my_arm", "my_package"):
        sys.modules.pop(name, None)


CHECKS = sorted(name for name in vars(RobotContract) if name.startswith("test_"))


@pytest.mark.parametrize("check", CHECKS)
def test_the_driver_keeps_the_contract(my_arm: ModuleType, check: str) -> None:
    known: dict[str, Any] = {}
    exec(SUITE, known)
    getattr(known["TestMyArm"](), check)()


def test_the_driver_without_its_sdk_and_its_check(my_arm: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert passed(my_arm.check("192.168.1.11"))
    robot = my_arm.build(my_arm.of_instance("192.168.1.11"))
    robot.close()
    with pytest.raises(RobotStoppedError, match="closed"):
        robot.apply(Command(np.zeros(7), 1))
    monkeypatch.setitem(sys.modules, "vendor_arm", None)
    with pytest.raises(MissingDependencyError, match="pip install"):
        my_arm.build(my_arm.Config())


def test_the_site_files_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from robolearn.hal.drivers import servo_arm

    path = tmp_path / "site.yaml"
    path.write_text(SITES[0].replace("driver: my_arm", "driver: fake"))  # my_arm registers itself in another package
    assert site.load(path).robot("left").instance == "192.168.1.11"
    path.write_text(SITES[1])
    monkeypatch.setenv("ROBOLEARN_SITE", str(path))
    config = servo_arm.of_instance("desk")
    assert (config.gripper, config.ids[0], config.directions[1]) == (17, 11, -1)


def test_the_emulated_arm_of_servos_moves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("dynamixel_sdk", reason="the servo SDK is an extra: pip install 'robolearn[devices]'")
    from robolearn.hal.drivers import servo_arm
    from robolearn.hal.servo.emulator import Emulator

    def patient(instance: str) -> servo_arm.Config:  # for a busy machine
        assert instance == "/tmp/servo-arm"
        return servo_arm.Config(port=str(servos.link), bus_watchdog_s=0.6, feedback_s=0.8, stale_s=0.5)

    monkeypatch.setattr(servo_arm, "of_instance", patient)
    near_home = {1: 2048, 2: 2300, 3: 2950, 4: 2950, 5: 2048, 6: 2048, 7: 2048}
    with Emulator(tmp_path / "servo-arm", near_home) as servos:
        exec(SERVOS, {})
        assert servos.positions()[7] > np.pi + 0.5  # the gripper has opened
    assert capsys.readouterr().out.startswith("[ 0.")
