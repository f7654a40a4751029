"""What killed processes leave in shared memory is removed; what runs is not."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ros_world import Process

from robolearn.ros.shared_memory import FOLDER, sweep


def segment(folder: Path, name: str) -> tuple[Path, Path]:
    data, lock = folder / f"fastdds_{name}", folder / f"fastdds_{name}_el"
    data.write_bytes(bytes(100))
    lock.touch()
    return data, lock


def test_only_old_segments_nobody_locks_are_removed(tmp_path: Path) -> None:
    dead = segment(tmp_path, "0123456789abcdef")
    alive = segment(tmp_path, "1123456789abcdef")
    port = segment(tmp_path, "port7411")
    other = tmp_path / "psm_something"
    other.touch()
    assert sweep(tmp_path) == 0  # all are young
    descriptor = os.open(alive[1], os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert sweep(tmp_path, min_age_s=0.0) == 100
    finally:
        os.close(descriptor)
    assert not any(path.exists() for path in dead)
    assert all(path.exists() for path in (*alive, *port, other))


def test_a_folder_that_is_not_there_is_no_error(tmp_path: Path) -> None:
    assert sweep(tmp_path / "nothing") == 0


def test_a_killed_arm_is_swept_and_a_running_one_stays(start: Callable[..., Process]) -> None:
    pytest.importorskip("rclpy")
    before = set(FOLDER.glob("fastdds_*_el"))
    process = start("robolearn.ros.sim_arm", namespace="/short")
    new = set(FOLDER.glob("fastdds_*_el")) - before
    mine = {path for path in new if _locked(path) and "port" not in path.name}
    if not mine:
        pytest.skip("this middleware keeps no segments in /dev/shm")
    sweep(min_age_s=0.5)
    assert any(path.exists() for path in mine)  # others may have ended meanwhile
    process.child.kill()
    process.child.wait(10.0)
    dead = {path for path in mine if path.exists() and not _locked(path)}
    time.sleep(0.6)
    sweep(min_age_s=0.5)
    assert not any(path.exists() for path in dead)


def _locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
