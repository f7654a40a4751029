"""Clocks are monotonic and sleep to absolute deadlines."""

from hypothesis import given
from hypothesis import strategies as st

from robolearn.core.clock import FakeClock, MonotonicClock


@given(st.lists(st.integers(-(10**9), 10**12), max_size=20), st.lists(st.floats(0, 100), max_size=5))
def test_fake_time_never_runs_backwards(deadlines: list[int], advances: list[float]) -> None:
    clock, last = FakeClock(5), 5
    for deadline in deadlines:
        clock.sleep_until_ns(deadline)
        assert clock.now_ns() == max(last, deadline)
        last = clock.now_ns()
    for seconds in advances:
        clock.advance(seconds)
        assert clock.now_ns() == last + int(seconds * 1e9)
        last = clock.now_ns()


def test_real_time_sleeps_to_the_deadline_and_not_at_all_for_a_past_one() -> None:
    clock = MonotonicClock()
    deadline = clock.now_ns() + 5_000_000
    clock.sleep_until_ns(deadline)
    assert clock.now_ns() >= deadline
    clock.sleep_until_ns(deadline - 10**12)
    assert clock.now_ns() < deadline + 60 * 10**9
