"""Holders that die, sleep and come back, messages that are late, doubled or overtaken, hosts that restart.

A thousand random histories in invented time. In every one: once the host has carried out an order of one lease, it
never again carries out one of an older lease, whatever arrives and however often the host itself is replaced.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from host_rig import bounds_broken, config

from robolearn.hal.host.core import RobotHost
from robolearn.hal.host.feedback import Reading
from robolearn.hal.host.fence import EpochFence
from robolearn.hal.host.wire import Mode, Order, OrderKind, Report

TRIALS = 1000
TICKS = 30
CONFIG = replace(config(), rate_hz=100.0, control_hz=25.0, max_translation=0.004, max_rotation=0.04)
STEP_NS = 10_000_000
DOWN = np.array([0.0, 1.0, 0.0, 0.0])


class Gantry:
    """An arm whose joints are the position of its tip; the tool looks down."""

    joints = ("x", "y", "z")
    home = np.array([0.5, 0.0, 0.15])

    def pose(self, q: np.ndarray) -> np.ndarray:
        return np.concatenate([q, DOWN])

    def jacobian(self, q: np.ndarray) -> np.ndarray:
        return np.eye(6, 3)


class Holder:
    """Somebody with a lease who answers reports, unless asleep or dead; a sleeper wakes with what it knew."""

    def __init__(self, epoch: int, rng: np.random.Generator) -> None:
        self.epoch, self.sender, self.sequence = epoch, epoch, 0
        self.asleep = False
        self.seen: Report | None = None
        self.push = rng.uniform(-0.008, 0.008, 3)

    def answer(self) -> Order | None:
        if self.asleep or self.seen is None:
            return None
        report, self.seen = self.seen, None
        self.sequence += 1
        values = np.array([*self.push, 0.0, 0.0, 0.0, 0.2])
        return Order(OrderKind.DELTA, self.epoch, self.sender, self.sequence, report.number, 0.0, values)


class World:
    """One history."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.rng, self.path = np.random.default_rng(seed), folder / "arm.epoch"
        self.q = np.array([0.5, 0.0, 0.15])
        self.now, self.epoch, self.restarts = 10**12, 0, 0
        self.holders = [self._lease()]
        self.flying: list[tuple[int, Order]] = []
        self.executed: list[int] = []
        self.runs: list[list] = []
        self.start_host()

    def _lease(self) -> Holder:
        self.epoch += 1
        return Holder(self.epoch, self.rng)

    def start_host(self) -> None:
        self.host = RobotHost(CONFIG, cast(Any, Gantry()), EpochFence(self.path))
        self.runs.append([])

    def tick(self) -> None:
        rng = self.rng
        self.now += STEP_NS
        if rng.random() < 0.06:  # the lease goes on to somebody else; the one before sleeps, lives on, or is cut off
            self.holders[-1].asleep = rng.random() < 0.7
            self.holders.append(self._lease())
        for holder in self.holders:
            if holder.asleep and rng.random() < 0.08:
                holder.asleep = False
            self._send(holder.answer())
        if rng.random() < 0.02:
            self.restarts += 1
            self.start_host()
        due = [order for at, order in self.flying if at <= self.now]
        self.flying = [(at, order) for at, order in self.flying if at > self.now]
        rng.shuffle(due)
        self._let_host(due)

    def _send(self, order: Order | None) -> None:
        """Most orders arrive at once, some late, some twice, some never."""
        if order is None or self.rng.random() < 0.05:
            return
        for _ in range(2 if self.rng.random() < 0.2 else 1):
            late = int(self.rng.choice([0, 0, 0, 30, 90, 300])) * 1_000_000
            self.flying.append((self.now + late, order))

    def _let_host(self, orders: list[Order]) -> None:
        for order in orders:
            before = self.host.counts["applied"]
            self.host._take(order, self.now)
            if self.host.counts["applied"] > before:
                self.executed.append(order.epoch)
        idle = self.host.mode is Mode.IDLE and not orders
        reading = Reading(self.q, np.zeros(3), self.now, self.now, np.zeros(6), self.now)
        tick = self.host.tick(self.now, reading, [])
        if idle and tick.setpoint is not None:
            raise AssertionError("an idle host publishes without an order")
        if tick.setpoint is not None:
            self.runs[-1].append(tick.setpoint)
            self.q = self.q + 0.3 * (tick.setpoint.pose[:3] - self.q)
        elif self.runs[-1]:
            self.runs.append([])
        if tick.report is not None:
            for holder in self.holders:
                holder.seen = holder.seen if holder.asleep else tick.report


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    shutil.rmtree(tmp_path, ignore_errors=True)


def test_in_a_thousand_histories_no_older_lease_ever_moves_the_arm_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robolearn.core.files.os.fsync", lambda fd: None)  # a power cut is not what is tried here
    totals = dict.fromkeys(("executed", "refused as stale", "restarts", "takeovers", "repeated", "old"), 0)
    for seed in range(TRIALS):
        path = folder / str(seed)
        world = World(seed, path)
        counted: list[RobotHost] = []
        for _ in range(TICKS):
            if not counted or counted[-1] is not world.host:
                counted.append(world.host)
            world.tick()
        if world.host is not counted[-1]:
            counted.append(world.host)
        assert world.executed == sorted(world.executed), f"history {seed}: an older lease moved the arm after a newer"
        assert world.host.fence.epoch == max([-1, *world.executed, world.host.fence.epoch])
        totals["executed"] += len(world.executed)
        totals["takeovers"] += len(set(world.executed)) - 1
        totals["restarts"] += world.restarts
        for name, key in (("refused as stale", "stale_epoch"), ("repeated", "repeated"), ("old", "old")):
            totals[name] += sum(host.counts[key] for host in counted)
        if seed % 20 == 0:
            for run in world.runs:
                assert bounds_broken(run, CONFIG, STEP_NS * 1e-9) == []
    sys.stdout.write(f"\n  {TRIALS} histories: {totals}\n")
    assert min(totals.values()) > TRIALS / 10, f"the histories did not meet everything: {totals}"
