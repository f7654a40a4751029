"""Whatever arrives, and in whatever order: what is published keeps its bounds."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from host_rig import START, Rig, bounds_broken, config, ready
from hypothesis import example, given, settings
from hypothesis import strategies as st

from robolearn.core.errors import RobotStoppedError
from robolearn.hal.host.wire import Mode, OrderKind

WORST = 1e300


class Chaos:
    """A stream of orders, stops, resets, pauses, lost feedback and jumps of the arm, by a generator of numbers."""

    def __init__(self, rig: Rig, rng: np.random.Generator) -> None:
        self.rig, self.rng = rig, rng
        self.home = rig.q.copy()
        self.direction = np.zeros(7)
        self.epoch = 1

    def tick(self) -> None:
        rig = self.rig
        rig.tick(*self._orders())
        self._disturb()
        for setpoint in rig.runs[-1][-1:] if rig.runs else ():
            assert np.isfinite(setpoint.pose).all()

    def _orders(self) -> list:
        rig, rng = self.rig, self.rng
        if rng.random() < 0.85 or not rig.reports:
            return []
        if rng.random() < 0.1:
            self.direction = rng.choice([-1.0, 1.0], 7) * rng.choice([0.0, 0.004, 0.03, 0.2, WORST])
        if rng.random() < 0.02:
            self.epoch += 1
        kind = OrderKind(rng.choice(3, p=[0.7, 0.25, 0.05]))
        values = self.direction.copy()
        if kind is OrderKind.GOTO:
            values = START.copy()
            values[:3] += rng.uniform(-0.3, 0.3, 3)
        if rng.random() < 0.05:
            values[rng.integers(7)] = rng.choice([np.nan, np.inf, -np.inf])
        number = rig.report.number - int(rng.choice(4, p=[0.85, 0.05, 0.05, 0.05]))
        epoch = self.epoch - int(rng.random() < 0.1)
        return [rig.order(kind, values, answers=number, epoch=epoch) for _ in range(rng.integers(1, 4))]

    def _disturb(self) -> None:
        rig, rng = self.rig, self.rng
        what = rng.random()
        if what < 0.002:
            rig.host.stop("chaos")
        elif what < 0.012:
            with suppress(RobotStoppedError):
                rig.host.reset("chaos")
        elif what < 0.014:
            rig.host.hold("chaos")
        elif what < 0.024:
            rig.host.resume()
        elif what < 0.026:
            rig.feeds = not rig.feeds
        elif what < 0.03:
            rig.feeds = True
        elif what < 0.036:
            rig.q = self.home + rng.normal(0, rng.choice([0.0, 0.01, 0.1, 0.5]), 7)
        elif what < 0.038:
            rig.wrench = rng.normal(0, 60.0, 6)
        elif what < 0.05:
            rig.wrench = np.zeros(6)
        elif what < 0.052:
            rig.follows = float(rng.choice([0.0, 0.02, 0.2, 1.0]))
        elif what < 0.054:
            rig.stamp_offset = int(rng.choice([0, -(10**9), 3600 * 10**9]))


def check(rig: Rig) -> None:
    """Bounds of every engagement, and the tip within the padded box, or no further out than it started."""
    box, pad = rig.config.limits(), float(np.linalg.norm(rig.config.tip))
    for run in rig.runs:
        assert bounds_broken(run, rig.config) == []
        positions = np.array([setpoint.pose[:3] for setpoint in run])
        low, high = np.array(box.low) - pad, np.array(box.high) + pad
        slack = 2e-4  # the first step of an engagement is published, the pose it started from is not
        assert (positions >= np.minimum(low, positions[0] - slack)).all()
        assert (positions <= np.maximum(high, positions[0] + slack)).all()


def chaos(profile: str, seed: int, ticks: int) -> Rig:
    rig = ready(config(profile=profile))
    world = Chaos(rig, np.random.default_rng(seed))
    for _ in range(ticks):
        world.tick()
    check(rig)
    return rig


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["cartesian_pose", "joint_position"]))
def test_no_stream_of_orders_breaks_a_bound(seed: int, profile: str) -> None:
    chaos(profile, seed, 400)


@pytest.mark.parametrize("profile", ["cartesian_pose", "joint_position"])
def test_a_long_stream_of_everything_breaks_no_bound(profile: str) -> None:
    rig = chaos(profile, 0, 5_000)
    counts = rig.host.counts
    for name in ("applied", "rejected", "stale_epoch", "old", "refused", "clipped", "workspace", "stale", "stopped"):
        assert counts[name] > 0, f"the stream never met '{name}'"
    assert len(rig.runs) > 10


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["cartesian_pose", "joint_position"])
def test_a_hundred_thousand_steps_break_no_bound(profile: str) -> None:
    for seed in range(20):
        chaos(profile, 100 + seed, 5_000)


@example([(OrderKind.GOTO, [0.0] * 6 + [1.4e154], 0, 0, 0)])
@example([(OrderKind.GOTO, [1e200, -1e200, 1e308, 1.0, 0.0, 0.0, 0.0], 0, 0, 30)])
@example([(OrderKind.DELTA, [1e200, -1e308, 1e200, 1e160, 1e200, -1e308], 0, 0, 30)])
@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(OrderKind),
            st.lists(st.floats(width=64), min_size=0, max_size=9),
            st.integers(-2, 3),
            st.integers(-1, 4),
            st.integers(0, 30),
        ),
        max_size=40,
    )
)
def test_any_numbers_in_orders_break_no_bound(stream: list[tuple]) -> None:
    rig = ready()
    for kind, values, back, epoch, wait in stream:
        rig.tick(rig.order(kind, values, answers=rig.report.number - back, epoch=epoch))
        rig.run(wait * 5e-3)
    check(rig)
    for run in rig.runs:
        for setpoint in run:
            assert np.isfinite(setpoint.pose).all()


def test_a_restarted_host_does_not_jump(tmp_path: Path) -> None:
    rig = ready(fence=tmp_path / "arm.epoch")
    for _ in range(5):
        rig.drive(0.4, 0.008)
        last = rig.published[-1].pose
        rig.start_host()
        rig.next_report()
        rig.tick(rig.delta(0.008))
        first = rig.published[0].pose
        assert np.linalg.norm(first[:3] - rig.report.observation["tool_pose"][:3]) < 1e-3
        assert np.linalg.norm(first[:3] - last[:3]) < 0.01
        assert rig.host.mode is Mode.DRIVING
    for run in rig.runs:
        assert bounds_broken(run, rig.config) == []


def test_two_senders_of_one_epoch_break_no_bound() -> None:
    rig = ready()
    for k in range(200):
        sign = 1 if k % 2 else -1
        rig.tick(rig.delta(0.008 * sign, sender=k % 2))
        rig.run(0.02)
    assert rig.count("applied") > 50
    check(rig)


def test_bounds_broken_sees_a_broken_bound() -> None:
    """The judge itself: a reference that steps is found out."""
    rig = ready()
    rig.drive(0.5, 0.004)
    run = list(rig.published)
    pose = run[-1].pose.copy()
    pose[0] += 1e-3
    assert bounds_broken([*run, replace(run[-1], pose=pose)], rig.config)
