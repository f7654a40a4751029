"""Checks of a machine: what works, what does not, and how to mend it."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

Level = Literal["pass", "warn", "fail"]

_PYTHON = (3, 11)
_WRITE_BYTES, _SYNCS = 32 << 20, 8
_SLOW_MB_S, _SLOW_SYNC_MS = 40.0, 50.0
_LOW_GB, _NO_GB = 5.0, 0.5
_PROBE_TIMEOUT_S = 60.0
_TIME_ERROR = 5
"""Return value of adjtimex(2) when nothing keeps the clock right."""


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: what was looked at.
        level: ``pass``, ``warn`` (something does not work or is slow) or ``fail`` (robolearn cannot run).
        found: what was seen, with numbers.
        fix: what to do; empty when there is nothing to do.
    """

    name: str
    level: Level
    found: str
    fix: str = ""


def examine(folder: Path) -> Iterator[Check]:
    """Make all checks, one after another.

    Args:
        folder: where runs would be written.
    """
    checks: tuple[Callable[[], Check], ...] = (
        check_python,
        check_packages,
        check_pins,
        check_cores,
        check_gpu,
        check_robot,
        check_rendering,
        lambda: check_free(folder),
        lambda: check_disk(folder),
        check_leases,
        check_ros,
        check_clock,
    )
    for check in checks:
        yield check()


def check_python() -> Check:
    """Interpreter version."""
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < _PYTHON:
        return Check("python", "fail", found, f"install Python {_PYTHON[0]}.{_PYTHON[1]} or newer and make .venv again")
    return Check("python", "pass", found)


def check_packages() -> Check:
    """Every required package is there in an accepted version (read from metadata; nothing is imported)."""
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(line) for line in requires("robolearn") or []]
    except PackageNotFoundError:
        return Check("packages", "fail", "robolearn is not installed", "make setup")
    wrong, count = [], 0
    for requirement in wanted:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        count += 1
        got = _version(requirement.name)
        if got is None or not requirement.specifier.contains(got, prereleases=True):
            wrong.append(f"{requirement} (got {got or 'nothing'})")
    if wrong:
        return Check("packages", "fail", "wrong: " + ", ".join(wrong), "pip install -c constraints.txt -e .")
    return Check("packages", "pass", f"{count} required packages are there")


def check_pins(constraints: Path | None = None) -> Check:
    """Versions against the set that is tested together, where ``constraints.txt`` is at hand (a checkout)."""
    path = constraints or Path(__file__).resolve().parents[2] / "constraints.txt"
    if not path.is_file():
        return Check("tested versions", "pass", "no constraints.txt here (not a checkout)")
    lines = [line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    pins = dict(line.split("==") for line in lines if "==" in line)
    other = []
    for name, pin in pins.items():
        got = _version(name)
        if got is not None and got.partition("+")[0] != pin:
            other.append(f"{name} {got} (tested: {pin})")
    if other:
        return Check("tested versions", "warn", ", ".join(other), "pip install -c constraints.txt -e .")
    return Check("tested versions", "pass", f"as in constraints.txt ({len(pins)} pins)")


def check_cores() -> Check:
    """Cores this process may use, who else uses them, and threads asked for."""
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    threads = os.environ.get("ROBOLEARN_THREADS", "1")
    found = f"{cores} cores, load {load:.1f}, {threads} thread(s) of numerics a process"
    if cores < 2:
        return Check("cores", "warn", found, "use at least 2 cores: one acts while the other learns")
    if threads.isdigit() and int(threads) > cores:
        return Check("cores", "warn", found, f"set ROBOLEARN_THREADS to at most {cores}")
    if load > 1.5 * cores:
        return Check("cores", "warn", found, "other programs are using the cores; training will be slower")
    return Check("cores", "pass", found)


def check_gpu() -> Check:
    """NVIDIA GPUs, and whether the installed torch can use them."""
    from robolearn.hal.resources import probe_gpus

    found = probe_gpus()
    if not found.resources:
        return Check("gpu", "pass", f"none; learning runs on the CPU ({found.problem or 'none is visible'})")
    names = ", ".join(f"{gpu.labels.get('name')} ({gpu.labels.get('memory_mib')} MiB)" for gpu in found.resources)
    if "+cpu" in (_version("torch") or ""):
        return Check("gpu", "warn", f"{names}, but torch {_version('torch')} is a CPU build", "install torch with CUDA")
    return Check("gpu", "pass", names)


def check_robot() -> Check:
    """One step of the simulated arm, in a process of its own."""
    code, words = _probe("robot")
    if code == 0:
        return Check("simulated robot", "pass", words)
    return Check("simulated robot", "fail", words, "pip install -c constraints.txt -e . (mujoco)")


def check_rendering() -> Check:
    """A camera image that is not black, in a process of its own: a broken driver can take the process down."""
    code, words = _probe("render")
    if code == 0:
        return Check("rendering", "pass", words)
    fix = "apt-get install libegl1 libgl1-mesa-dri, or libosmesa6 with MUJOCO_GL=osmesa; needed for images and videos"
    return Check("rendering", "warn", words, fix)


def check_free(folder: Path) -> Check:
    """Free space where runs are written."""
    free = shutil.disk_usage(_existing(folder)).free / 1e9
    found = f"{free:.1f} GB free in {folder}"
    if free < _NO_GB:
        return Check("disk space", "fail", found, "free some space, or write elsewhere with --run-dir")
    if free < _LOW_GB:
        return Check("disk space", "warn", found, "camera runs write about 5 GB per 100,000 steps; free some space")
    return Check("disk space", "pass", found)


def check_disk(folder: Path) -> Check:
    """Write rate, and how long the disk takes to make one append durable."""
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)) as file:
            block, started = bytes(1 << 20), time.perf_counter()
            for _ in range(_WRITE_BYTES // len(block)):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            rate = _WRITE_BYTES / 1e6 / (time.perf_counter() - started)
            syncs = []
            for _ in range(_SYNCS):
                file.write(b"x" * 4096)
                file.flush()
                started = time.perf_counter()
                os.fsync(file.fileno())
                syncs.append(1e3 * (time.perf_counter() - started))
    except OSError as error:
        return Check("disk", "fail", f"cannot write in {folder}: {error.strerror}", "choose another --run-dir")
    sync = statistics.median(syncs)
    found = f"{rate:.0f} MB/s with fsync, {sync:.1f} ms for a small durable write"
    if rate < _SLOW_MB_S or sync > _SLOW_SYNC_MS:
        return Check("disk", "warn", found, "a local disk is better than a network share: choose --run-dir")
    return Check("disk", "pass", found)


def check_leases() -> Check:
    """The table that keeps two programs from driving one robot."""
    from robolearn.core.errors import LeaseError
    from robolearn.hal.leases import LeaseTable

    try:
        with LeaseTable.default() as table:
            states = [status.state for status in table.status()]
            found = f"{table.path}: {len(states)} resources, {states.count('leased')} leased"
    except LeaseError as error:
        return Check("leases", "fail", str(error), "set ROBOLEARN_STATE to a writable directory")
    held_up = len(states) - states.count("leased") - states.count("free")
    if held_up:
        return Check("leases", "warn", f"{found}, {held_up} suspect or quarantined", "robolearn hal ls says why")
    return Check("leases", "pass", found)


def check_ros() -> Check:
    """Whether rclpy can be found (not imported)."""
    if importlib.util.find_spec("rclpy") is None:
        return Check("ros 2", "pass", "no rclpy here; only robots behind ROS 2 need it")
    return Check("ros 2", "pass", f"rclpy is here, distribution {os.environ.get('ROS_DISTRO', 'not set')}")


def check_clock() -> Check:
    """Whether something keeps the clock of this machine right (adjtimex(2), read only)."""
    state = _clock_state()
    if state is None:
        return Check("clock", "pass", "cannot be asked here; matters only with several machines")
    if state == _TIME_ERROR:
        return Check("clock", "warn", "not synchronised", "install chrony (matters only with several machines)")
    return Check("clock", "pass", "synchronised")


def _clock_state() -> int | None:
    try:
        adjtimex = ctypes.CDLL(None).adjtimex
    except AttributeError:
        return None
    state = int(adjtimex(ctypes.create_string_buffer(512)))
    return None if state < 0 else state


def _probe(what: str) -> tuple[int, str]:
    """Exit status and last line of a probe process."""
    command = [sys.executable, "-m", "robolearn.run.probe", what]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        return 1, f"no answer within {_PROBE_TIMEOUT_S:.0f} s"
    lines = (done.stdout if done.returncode == 0 else done.stderr or done.stdout).strip().splitlines()
    return done.returncode, lines[-1] if lines else f"it ended with status {done.returncode}"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _existing(folder: Path) -> Path:
    """``folder``, or the nearest parent that is there."""
    folder = folder.resolve()
    while not folder.exists():
        folder = folder.parent
    return folder
