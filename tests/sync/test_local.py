from pathlib import Path

import numpy as np

from robolearn.sync.codec import Snapshot
from robolearn.sync.local import LocalFollower, LocalPublisher


def snapshot(version: int) -> Snapshot:
    return Snapshot(version, 10 * version, {"w": np.full(3, version, dtype=np.float32)})


def test_a_follower_sees_each_version_once_and_skips_superseded_ones(tmp_path: Path) -> None:
    publisher, follower = LocalPublisher(tmp_path / "weights"), LocalFollower(tmp_path / "weights")
    assert follower.poll() is None
    publisher.publish(snapshot(0))
    first = follower.poll()
    assert first is not None
    assert first.version == 0
    assert follower.poll() is None
    publisher.publish(snapshot(1))
    publisher.publish(snapshot(2))
    newest = follower.poll()
    assert newest is not None
    assert (newest.version, newest.steps) == (2, 20)
    np.testing.assert_array_equal(newest.weights["w"], np.full(3, 2, dtype=np.float32))


def test_a_follower_that_comes_later_gets_the_newest(tmp_path: Path) -> None:
    LocalPublisher(tmp_path).publish(snapshot(5))
    late = LocalFollower(tmp_path).poll()
    assert late is not None
    assert late.version == 5


def test_damaged_weights_are_rejected_and_the_next_good_ones_taken(tmp_path: Path) -> None:
    publisher, follower = LocalPublisher(tmp_path), LocalFollower(tmp_path)
    publisher.publish(snapshot(1))
    (tmp_path / "latest.weights").write_bytes(b"half a file")
    assert follower.poll() is None
    assert follower.rejected == 1
    publisher.publish(snapshot(2))
    recovered = follower.poll()
    assert recovered is not None
    assert recovered.version == 2
