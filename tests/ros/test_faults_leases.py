"""Holders of a lease that freeze or die while they drive: the arm is held, checked, cleared and leased again.

A holder is a process with a lease of the table and a client that drives. Recorded at the arm's side: once a newer
lease has moved the arm no older one does, also when the process that held it wakes up again.
"""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from faults import SPACE, TIME_TO_REST_S, Taken, World, broken_bounds, last_order, rest_after, tell, world
from ros_world import Process, until

pytest.importorskip("rclpy")

from robolearn.core.errors import LeaseError
from robolearn.hal.host.wire import Mode, Report
from robolearn.hal.leases import LeaseTable
from robolearn.hal.resources import Resource
from robolearn.ros.drivers import ros2
from robolearn.ros.messages import from_message

__all__ = ["world"]
LEASABLE_S = 3.0
BUDGET_S = 240.0


@dataclass
class Figures:
    """What trials measured [s], and the epochs of all reports in order."""

    rest: list[float] = field(default_factory=list)
    leasable: list[float] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)
    woken: int = 0


def epochs(reports: list[Taken]) -> list[int]:
    return [Report.unpack(from_message(one.message)).epoch for one in reports]


def cleared(table: LeaseTable) -> bool:
    """Check the arm as ``robolearn hal check`` does and clear it; False while that is refused."""
    try:
        table.clear_checked("arm", ros2.check(SPACE))
    except LeaseError as error:
        tell(str(error))
        return False
    return True


def wake(world: World, sleepers: list[Process], epoch: int) -> None:
    """Wake holders of older leases: they are fenced and move nothing."""
    before = int(world.client.status.get("count/stale_epoch", 0))
    for sleeper in sleepers:
        sleeper.child.send_signal(signal.SIGCONT)
    time.sleep(0.5)
    assert world.client.report.epoch == epoch, "an older lease has come back"
    until("it is refused", lambda: int(world.client.status.get("count/stale_epoch", 0)) >= before, 5.0)
    for sleeper in sleepers:
        sleeper.kill()


def trials(world: World, path: Path, count: int, seconds: float) -> Figures:
    rng, figures, begun = np.random.default_rng(0), Figures(), time.monotonic()
    sleepers: list[Process] = []
    seen = max(world.epoch(), world.client.report.epoch)
    with LeaseTable(path) as table:
        table.register(Resource("arm", "robot", simulated=True, seen_epoch=seen))
        while len(figures.rest) < count and time.monotonic() - begun < seconds:
            process = world.driver("lease", 0, path=path)
            epoch = int(process.text.split("epoch ")[1].split()[0])
            if sleepers:
                figures.woken += len(sleepers)
                wake(world, sleepers, epoch)
                sleepers = []
            world.forget()
            time.sleep(float(rng.uniform(0.1, 0.5)))
            frozen = len(figures.rest) % 2 == 0
            process.child.send_signal(signal.SIGSTOP if frozen else signal.SIGKILL)
            until("the arm is held", lambda: world.mode in (Mode.HOLDING, Mode.IDLE), 5.0)
            until("the lease runs out", lambda: table.status()[0].state in ("suspect", "quarantined"), 10.0)
            gone = time.monotonic()
            until("it is checked and cleared", lambda: cleared(table), 20.0)
            figures.leasable.append(time.monotonic() - gone)
            poses = world.poses.take()
            figures.rest.append(rest_after(poses, last_order(world.orders.take(), epoch).sent_ns))
            figures.epochs += epochs(world.reports.take())
            assert broken_bounds(poses) == []
            sleepers += [process] if frozen else []
    return figures


def judge(figures: Figures) -> None:
    rest = 1e3 * np.array(figures.rest)
    tell(
        f"{len(rest)} holders ended: at rest after {np.median(rest):.0f} ms (p50), {rest.max():.0f} ms (max); "
        f"leasable {max(figures.leasable):.2f} s (max) after the lease ran out; {figures.woken} woken moved nothing"
    )
    assert rest.max() <= 1e3 * TIME_TO_REST_S + 5.0
    assert max(figures.leasable) <= LEASABLE_S
    assert figures.epochs == sorted(figures.epochs)


def test_a_holder_that_freezes_and_one_that_dies(world: World, tmp_path: Path) -> None:
    judge(trials(world, tmp_path / "leases.db", 3, 60.0))


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_holders_that_freeze_or_die_for_minutes(world: World, tmp_path: Path) -> None:
    judge(trials(world, tmp_path / "leases.db", 1000, BUDGET_S))
