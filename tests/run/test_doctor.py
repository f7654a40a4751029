"""Doctor: each check finds what it is for, and says how to mend it."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

from robolearn.hal.resources import Found, Resource
from robolearn.run import doctor


def test_this_machine_passes_what_a_test_run_needs(tmp_path: Path) -> None:
    for check in (doctor.check_python(), doctor.check_packages(), doctor.check_disk(tmp_path / "not" / "yet")):
        assert check.level in ("pass", "warn"), check
    assert not list(tmp_path.iterdir())


def test_a_missing_or_old_package_fails_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["numpy>=99", "no-such-package>=1", "pytest>=8 ; extra == 'dev'"]
    monkeypatch.setattr(doctor, "requires", lambda name: lines)
    check = doctor.check_packages()
    assert check.level == "fail"
    assert f"numpy>=99 (got {version('numpy')})" in check.found
    assert "no-such-package>=1 (got nothing)" in check.found
    assert check.fix


def test_other_versions_than_the_tested_are_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "constraints.txt"
    path.write_text(f"# pins\nnumpy==0.1  # old\nno-such-package==3\nzarr=={version('zarr')}\n")
    check = doctor.check_pins(path)
    assert (check.level, check.found) == ("warn", f"numpy {version('numpy')} (tested: 0.1)")
    assert doctor.check_pins(tmp_path / "absent.txt").level == "pass"


def test_a_full_disk_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    for free, level in ((1e8, "fail"), (2e9, "warn"), (9e10, "pass")):
        monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path, free=free: usage(1e12, 0, free))
        assert doctor.check_free(tmp_path).level == level


def test_a_gpu_without_a_torch_that_uses_it_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Resource("gpu:GPU-1", "gpu", {"name": "H200", "memory_mib": "143771"})
    monkeypatch.setattr("robolearn.hal.resources.probe_gpus", lambda: Found((gpu,)))
    monkeypatch.setattr(doctor, "_version", lambda name: "2.13.0+cpu")
    check = doctor.check_gpu()
    assert check.level == "warn"
    assert "H200" in check.found
    monkeypatch.setattr(doctor, "_version", lambda name: "2.13.0+cu130")
    assert doctor.check_gpu().level == "pass"


def test_an_unusable_lease_table_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ROBOLEARN_STATE", str(tmp_path / "file" / "below"))
    assert doctor.check_leases().level == "fail"
    monkeypatch.setenv("ROBOLEARN_STATE", str(tmp_path / "state"))
    assert doctor.check_leases().level == "pass"


def test_the_arm_is_stepped_in_a_process_of_its_own() -> None:
    check = doctor.check_robot()
    assert check.level == "pass", check
    assert "steps per CPU second" in check.found


@pytest.mark.render
def test_a_picture_is_drawn_in_a_process_of_its_own() -> None:
    check = doctor.check_rendering()
    assert check.level == "pass", check


def test_an_opengl_that_is_not_there_is_a_warning_with_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "none-such")
    check = doctor.check_rendering()
    assert check.level == "warn"
    assert "none-such" in check.found
    assert "apt-get install" in check.fix


@pytest.mark.parametrize(("state", "level"), [(0, "pass"), (5, "warn"), (None, "pass")])
def test_the_clock(monkeypatch: pytest.MonkeyPatch, state: int | None, level: str) -> None:
    monkeypatch.setattr(doctor, "_clock_state", lambda: state)
    assert doctor.check_clock().level == level
