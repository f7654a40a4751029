"""Which orders a robot host carries out: numbers, epochs, repetitions, age."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from host_rig import START, TICK_NS, Rig, bounds_broken, config, ready

from robolearn.core.errors import RobolearnError, SpecError
from robolearn.hal.host.fence import EpochFence
from robolearn.hal.host.wire import Mode, Order, OrderKind, Report, split

BAD_ACTIONS = {
    "NaN": np.full(7, np.nan),
    "infinity": np.array([0, 0, np.inf, 0, 0, 0, 0]),
    "too short": np.zeros(6),
    "too long": np.zeros(8),
    "nothing": np.zeros(0),
}


@pytest.mark.parametrize("name", BAD_ACTIONS)
def test_a_bad_action_is_rejected_counted_and_holds(name: str) -> None:
    rig = ready()
    rig.drive(0.5, 0.004)
    rig.next_report()
    rig.tick(rig.order(values=BAD_ACTIONS[name]))
    assert rig.host.mode is Mode.HOLDING
    assert rig.count("rejected") == 1
    report = rig.next_report()
    assert report.rejected
    assert report.sequence == rig.sequence
    assert not report.executed[:6].any()
    assert bounds_broken(rig.published, rig.config) == []


@pytest.mark.parametrize("name", BAD_ACTIONS)
def test_a_bad_action_does_not_engage_an_idle_host(name: str) -> None:
    rig = ready()
    assert rig.tick(rig.order(values=BAD_ACTIONS[name])).setpoint is None
    assert rig.host.mode is Mode.IDLE


@pytest.mark.parametrize(
    "pose",
    [
        [0.5, 0.0, 0.15, 0.0, 2.0, 0.0, 0.0],
        [0.5, 0.0, 0.15, 0.0, 0.0, 0.0, 0.0],
        [np.nan, 0.0, 0.15, 0.0, 1.0, 0.0, 0.0],
        [0.5, 0.0, 0.15],
        [0.8, 0.0, 0.15, 0.0, 1.0, 0.0, 0.0],
        [0.5, 0.0, 0.002, 0.0, 1.0, 0.0, 0.0],
        [0.5, 0.0, 0.15, 0.0, np.cos(0.2), 0.0, np.sin(0.2)],
    ],
)
def test_a_bad_goto_is_rejected(pose: list[float]) -> None:
    rig = ready()
    assert rig.tick(rig.goto(pose)).setpoint is None
    assert rig.count("rejected") == 1
    assert rig.next_report().rejected
    assert rig.host.refusal


def test_an_unreadable_message_is_counted_and_holds() -> None:
    rig = ready()
    rig.host.malformed("no field 'kind'")
    assert rig.host.mode is Mode.IDLE
    rig.drive(0.3)
    rig.host.malformed("no field 'kind'")
    assert rig.host.mode is Mode.HOLDING
    assert rig.count("rejected") == 2


def test_the_newest_epoch_drives_and_an_older_one_moves_nothing() -> None:
    rig = ready()
    rig.drive(0.3, epoch=5)
    rig.next_report()
    rig.tick(rig.delta(0.008, epoch=6, sender=8))
    assert rig.host.fence.epoch == 6
    rig.next_report()
    goal = rig.host._shaper.goal.copy()
    rig.tick(rig.delta(-0.008, epoch=5))
    assert rig.count("stale_epoch") == 1
    assert np.array_equal(rig.host._shaper.goal, goal)
    report = rig.next_report()
    assert (report.epoch, report.sender, report.rejected) == (6, 8, False), "it is not answered either"


def test_a_newer_epoch_takes_over_without_a_step() -> None:
    rig = ready(tip=[0.4, -0.1, 0.16, 0, 1, 0, 0])
    for _ in range(3):
        rig.next_report()
        rig.tick(rig.goto([0.6, 0.1, 0.3, 0, 1, 0, 0]))
    rig.next_report()
    rig.tick(rig.delta(-0.008, epoch=2, sender=8))
    rig.run(0.5)
    assert len(rig.runs) == 1
    assert bounds_broken(rig.published, rig.config) == []


def test_the_epoch_outlives_the_host(tmp_path: Path) -> None:
    rig = ready(fence=tmp_path / "hosts" / "arm.epoch")
    rig.tick(rig.delta(0.001, epoch=41))
    assert (tmp_path / "hosts" / "arm.epoch").read_text() == "41"
    rig.start_host()
    rig.next_report()
    rig.tick(rig.delta(0.001, epoch=40, sender=9))
    assert rig.count("stale_epoch") == 1
    assert rig.host.mode is Mode.IDLE
    assert rig.next_report().epoch == 41
    rig.tick(rig.delta(0.001, epoch=41))
    assert rig.host.mode is Mode.DRIVING


@pytest.mark.parametrize("content", ["", "many", "1.5", "\udcff"])
def test_an_unreadable_epoch_refuses_to_start(tmp_path: Path, content: str) -> None:
    path = tmp_path / "arm.epoch"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(RobolearnError, match="cannot be read"):
        EpochFence(path)


def test_an_epoch_that_cannot_be_written_down_is_not_admitted(tmp_path: Path) -> None:
    folder = tmp_path / "hosts"
    rig = ready(fence=folder / "arm.epoch")
    folder.rmdir()
    assert rig.tick(rig.delta(0.001, epoch=3)).setpoint is None
    assert rig.count("unwritten") == 1
    assert rig.host.fence.epoch == -1
    assert "cannot be written" in rig.host.refusal
    folder.mkdir()
    rig.next_report()
    assert rig.tick(rig.delta(0.001, epoch=3)).setpoint is not None


def test_a_repeated_or_overtaken_order_is_dropped() -> None:
    rig = ready()
    first, second = rig.delta(0.004), rig.delta(0.002)
    rig.tick(second)
    goal = rig.host._shaper.goal.copy()
    rig.tick(first, second)
    assert rig.count("repeated") == 2
    assert rig.count("applied") == 1
    assert np.array_equal(rig.host._shaper.goal, goal)


def test_each_sender_counts_for_itself() -> None:
    rig = ready()
    rig.tick(rig.delta(0.004, sequence=100), rig.delta(0.002, sender=8, sequence=1))
    assert rig.count("applied") == 2


def test_senders_are_forgotten_in_the_end() -> None:
    rig = ready()
    for sender in range(3000):
        rig.tick(rig.delta(sender=sender, sequence=1))
    assert len(rig.host._last) < 2000


@pytest.mark.parametrize("kind", [OrderKind.DELTA, OrderKind.GOTO])
def test_an_old_answer_is_refused(kind: OrderKind) -> None:
    rig = ready()
    values = START if kind is OrderKind.GOTO else np.zeros(7)
    late = rig.order(kind, values)
    rig.run(0.15)
    in_time = rig.order(kind, values, answers=late.answers, sender=8)
    rig.tick(in_time)
    assert rig.count("applied") == 1
    rig.run(0.06 if kind is OrderKind.DELTA else 1.0)
    rig.tick(replace(late, sender=8, sequence=rig.sequence + 1))
    assert rig.count("old") == 1
    assert rig.next_report().rejected


def test_an_answer_to_nothing_or_to_the_future_is_refused() -> None:
    rig = Rig()
    rig.tick(rig.delta(0.001, answers=-1))
    rig.next_report()
    rig.tick(rig.delta(0.001, answers=-1), rig.delta(0.001, answers=rig.report.number + 1))
    assert rig.count("old") + rig.count("refused") == 3
    assert rig.host.mode is Mode.IDLE


def test_nothing_is_done_before_the_arm_has_been_seen() -> None:
    rig = Rig()
    rig.changes["problem"] = "nothing arrives"
    rig.tick(rig.delta(0.001), rig.goto(START), rig.order(OrderKind.HOLD))
    assert rig.host.mode is Mode.IDLE
    assert not rig.host.counts["applied"]


def test_a_hold_order_holds_however_old_it_is() -> None:
    rig = ready()
    rig.drive(0.3)
    rig.tick(rig.order(OrderKind.HOLD, answers=0))
    assert rig.host.mode is Mode.HOLDING
    rig.run(0.4)
    assert rig.host.at_rest


def test_a_hold_order_of_a_newer_lease_fences_the_older_one() -> None:
    rig = ready()
    rig.tick(rig.delta(0.001, epoch=3))
    rig.tick(rig.order(OrderKind.HOLD, np.zeros(0), epoch=4, sender=8))
    assert rig.host.fence.epoch == 4
    rig.next_report()
    rig.tick(rig.delta(0.001, epoch=3))
    assert rig.count("stale_epoch") == 1


def test_a_newer_process_of_the_same_lease_drives_and_the_one_before_is_out() -> None:
    rig = ready()
    rig.tick(rig.delta(0.001, sender=7))
    rig.tick(rig.delta(0.001, sender=8))
    rig.tick(rig.delta(0.001, sender=7))
    assert (rig.count("applied"), rig.count("stale_sender")) == (2, 1)
    rig.tick(rig.delta(0.001, sender=7, epoch=2))
    assert rig.count("applied") == 3, "a newer lease lets everybody in again"


def test_an_arm_that_moves_by_itself_is_not_engaged() -> None:
    rig = ready()
    rig.changes["velocity"] = np.full(7, 0.2)
    rig.tick()
    assert rig.tick(rig.delta(0.001)).setpoint is None
    assert rig.count("moving") == 1


def test_a_pause_of_the_process_starts_anew_from_where_the_arm_is() -> None:
    rig = ready()
    rig.drive(0.3)
    before = rig.delta(0.008)
    rig.now += 500_000_000
    rig.tick(before)
    assert rig.count("gap") == 1
    assert rig.count("old") == 1
    assert rig.host.mode is Mode.IDLE


def test_a_flood_of_orders_breaks_no_bound() -> None:
    """10 kHz: 50 orders a tick, in random directions, most of them malformed, old or too large."""
    rng = np.random.default_rng(0)
    rig = ready()
    for _ in range(400):
        orders = []
        for _ in range(50):
            values = rng.normal(0, 0.02, 7)
            if rng.random() < 0.2:
                values[rng.integers(7)] = rng.choice([np.nan, np.inf, 1e300, -1e300])
            number = rig.report.number + int(rng.integers(-3, 2))
            orders.append(rig.order(values=values, answers=number, epoch=int(rng.integers(1, 3))))
        rig.tick(*orders)
    counts = rig.host.counts
    assert counts["applied"] + counts["rejected"] + counts["old"] + counts["stale_epoch"] == 400 * 50
    assert min(counts[name] for name in ("applied", "rejected", "old", "stale_epoch")) > 100
    assert len(rig.reports) >= 6, "it still reports, at the least every 2 + dwell periods"
    for run in rig.runs:
        assert bounds_broken(run, rig.config) == []


def test_an_order_survives_the_wire() -> None:
    order = Order(OrderKind.GOTO, 7, 2**47 + 1, 12, 5, 0.003, np.arange(7.0))
    again = Order.unpack(dict(order.pack()))
    assert replace(again, values=order.values) == order
    assert np.array_equal(again.values, order.values)


def test_a_report_survives_the_wire() -> None:
    report = ready().report
    again = Report.unpack(dict(report.pack()))
    assert again.stamp_ns == report.stamp_ns
    assert again.mode is Mode.IDLE
    assert again.observation.keys() == report.observation.keys()
    for key, value in report.observation.items():
        assert np.array_equal(again.observation[key], value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.5, 99.0, -1.0])
def test_an_unknown_kind_or_mode_is_malformed(value: float) -> None:
    fields = dict(Order(OrderKind.HOLD, 1, 1, 1, 1, 0.0, np.zeros(0)).pack()) | {"kind": np.array([value])}
    with pytest.raises(SpecError, match="kind"):
        Order.unpack(fields)
    fields = dict(ready().report.pack()) | {"mode": np.array([value])}
    with pytest.raises(SpecError, match="mode"):
        Report.unpack(fields)


@pytest.mark.parametrize("name", ["kind", "epoch", "sender", "sequence", "answers", "policy_s", "values"])
def test_a_missing_field_is_malformed(name: str) -> None:
    fields = dict(Order(OrderKind.HOLD, 1, 1, 1, 1, 0.0, np.zeros(0)).pack())
    del fields[name]
    with pytest.raises(SpecError, match=name):
        Order.unpack(fields)


@pytest.mark.parametrize("labels", [[("a", 2)], [("a", 4)], [("a", 4), ("b", -1)], []])
def test_a_layout_that_does_not_fit_is_malformed(labels: list[tuple[str, int]]) -> None:
    with pytest.raises(SpecError, match="expected"):
        split(labels, np.zeros(3))


def test_latency_is_from_observation_to_application_less_policy_time() -> None:
    rig = ready()
    rig.run(0.04)
    rig.tick(rig.delta(0.001, policy_s=0.03))
    report = rig.next_report()
    assert report.latency_s == pytest.approx(0.045 - 0.03)


def test_reports_come_once_a_period_and_wait_for_the_dwell() -> None:
    rig = ready(config(dwell=0.8))
    at = []
    for _ in range(5):
        rig.next_report()
        at.append(rig.now)
    assert np.diff(at).tolist() == [100_000_000] * 4
    rig.run(0.06)
    rig.tick(rig.delta(0.001))
    applied = rig.now
    rig.next_report()
    assert rig.now - applied >= 80_000_000
    assert rig.now - applied <= 80_000_000 + TICK_NS


def test_a_report_tells_what_was_executed() -> None:
    rig = ready()
    rig.tick(rig.delta(0.004, turn=(0.01, 0.0, 0.0)))
    report = rig.next_report()
    assert report.executed.tolist() == [0.004, 0, 0, 0.01, 0, 0, 0.2]
    assert not report.altered
    rig.tick(rig.delta(0.02))
    report = rig.next_report()
    assert report.executed[0] == 0.008
    assert report.altered
    assert not report.rejected
