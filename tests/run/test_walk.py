"""The skeleton walks: a robot step reaches a gradient, and a new weight reaches the robot."""

from pathlib import Path

import numpy as np

from robolearn.buffer.replay import Replay
from robolearn.buffer.schema import Schema
from robolearn.buffer.writer import Writer
from robolearn.core import plugins
from robolearn.run.act import run_episode
from robolearn.run.base import unit_statistics
from robolearn.run.complete import complete
from robolearn.run.config import TrainConfig
from robolearn.run.learn import Cadence, LearnLoop
from robolearn.run.limiter import UpdateLimiter
from robolearn.run.station import build_policy, build_station
from robolearn.sync.local import LocalFollower, LocalPublisher


def test_a_robot_step_reaches_a_gradient_and_a_new_weight_reaches_the_robot(tmp_path: Path) -> None:
    config = complete(TrainConfig(tier="smoke", steps=100))
    station = build_station(config)
    spec = station.task.spec
    schema = Schema(spec.observation, spec.action)
    policy = build_policy(config, station.task, seed=0)

    with Writer(tmp_path / "buffer", schema, name="actor0", robot="r", task="t") as writer:
        episode = run_episode(
            station,
            lambda observation, raw: policy.act(observation, explore=True),
            np.random.default_rng(0),
            append=writer.append,
        )
        writer.end_episode(success=episode.success)

    replay = Replay(tmp_path / "buffer", schema, capacity_rows=None, seed=0)
    replay.refresh()
    assert replay.online_transitions == episode.steps

    learner = plugins.load("policy", "rlpd").build_learner(
        config.policy, spec, seed=0, device="cpu", statistics=unit_statistics(spec)
    )
    lines: list[object] = []
    loop = LearnLoop(
        learner,
        replay,
        UpdateLimiter(ratio=float(learner.updates_per_call)),
        np.random.default_rng(0),
        cadence=Cadence(publish_calls=1, log_s=0.0),
        publish=LocalPublisher(tmp_path / "weights").publish,
        checkpoint=lambda _: None,
        log=lines.append,
    )
    follower = LocalFollower(tmp_path / "weights")
    loop.publish()
    first = follower.poll()
    assert first is not None
    policy.load(first.weights)
    observation = station.task.observe(station.robot.observe())
    before = policy.act(observation, explore=False)
    for _ in range(3):
        assert loop.once()
    newest = follower.poll()
    assert newest is not None
    assert (newest.version, newest.steps) == (3, episode.steps)
    policy.load(newest.weights)
    assert not np.array_equal(before, policy.act(observation, explore=False))
    assert len(lines) == 3
    station.robot.close()
