"""Parts of the simulated arm's node that need no ROS."""

from __future__ import annotations

import numpy as np
import pytest

from robolearn.core.clock import FakeClock
from robolearn.core.errors import ConfigError
from robolearn.ros.sim_arm_faults import JOINT_FAULTS, JointFault, Joints
from robolearn.ros.sim_arm_pace import CATCH_UP, Pacer

MS = 1_000_000


def test_the_loop_keeps_absolute_deadlines() -> None:
    clock = FakeClock()
    pacer = Pacer(0.002, clock)
    for tick in range(1, 6):
        assert pacer.wait() == 1
        assert clock.now_ns() == tick * 2 * MS
        clock.advance(0.0015)  # work shorter than a period does not shift the next deadline
    assert (pacer.overruns, pacer.skipped) == (0, 0)


def test_it_catches_up_a_little_and_never_in_a_burst() -> None:
    clock = FakeClock()
    pacer = Pacer(0.002, clock)
    pacer.wait()
    clock.advance(0.007)
    assert pacer.wait() == 3  # due at 4, 6 and 8 ms; it is 9 ms
    assert pacer.wait() == 1
    clock.advance(0.03)
    done = []
    while clock.now_ns() < 100 * MS:
        done.append(pacer.wait())
    assert max(done) == 1 + CATCH_UP
    assert sum(done) == (clock.now_ns() - 10 * MS) // (2 * MS)  # nothing was lost
    assert pacer.skipped == 0


def test_what_is_long_gone_is_skipped_and_counted() -> None:
    clock = FakeClock()
    pacer = Pacer(0.002, clock)
    pacer.wait()
    clock.advance(0.2)
    assert pacer.wait() == 1
    assert pacer.skipped == 99
    assert pacer.wait() == 1
    assert pacer.overruns == 1


def state(stamp_ms: int) -> Joints:
    numbers = np.arange(8.0) + 1e-3 * stamp_ms
    return Joints(tuple("abcdefgh"), numbers, numbers, numbers, stamp_ms * MS)


def run(kind: str, ticks: int = 500) -> list[tuple[int, Joints]]:
    """(time [ms], what was published) of a fault."""
    fault = JointFault(kind)
    published = [(2 * tick, fault.apply(state(2 * tick))) for tick in range(ticks)]
    return [(time, joints) for time, joints in published if joints is not None]


def test_faults_do_what_they_are_called() -> None:
    assert all(joints.stamp_ns == time * MS for time, joints in run("none"))
    assert len({id(joints) for _, joints in run("frozen")}) == 1
    assert {time - joints.stamp_ns // MS for time, joints in run("delayed")} == {300}
    assert 0.6 < len(run("drop30")) / 500 < 0.8
    assert all(joints.stamp_ns == -time * MS for time, joints in run("backwards"))
    jumps = {round((joints.stamp_ns / MS - time) / 3_600_000) for time, joints in run("clock_jump", 1000)}
    assert jumps == {1, -1}


def test_names_and_numbers_stay_together() -> None:
    for kind in ("reordered", "missing_joint"):
        _, joints = run(kind, 1)[0]
        assert joints.position.tolist() == [float("abcdefgh".index(name)) for name in joints.names]
    assert run("reordered", 1)[0][1].names == tuple("hgfedcba")
    assert "d" not in run("missing_joint", 1)[0][1].names


def test_an_unknown_fault_is_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'frozen'"):
        JointFault("frosen")
    assert len(set(JOINT_FAULTS)) == 8
