"""The actor process: one robot, acting with the newest weights, storing everything."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack

import numpy as np

from robolearn.buffer.schema import Schema
from robolearn.buffer.writer import Writer
from robolearn.core.errors import RobotStoppedError
from robolearn.core.protocols import Policy
from robolearn.core.spec import Array, Observation
from robolearn.run.act import Episode, run_episode
from robolearn.run.config import TrainConfig
from robolearn.run.counters import Field, Row
from robolearn.run.curve import OwnCurve
from robolearn.run.limiter import UpdateLimiter
from robolearn.run.process import Process
from robolearn.run.robots import shared
from robolearn.run.seeds import Stream, stream
from robolearn.run.station import annotate, build_policy, build_station, close_policy, stored_spec
from robolearn.run.watch import build_human, build_reward
from robolearn.sync.local import LocalFollower

_POLL_S = 0.001


class Actor:
    """Runs episodes until the run has its steps."""

    def __init__(self, process: Process, config: TrainConfig, index: int, limiter: UpdateLimiter) -> None:
        self.process, self.config, self.index, self.limiter = process, config, index, limiter
        self.station = build_station(config, process.grant, on_event=process.safety_event)
        robot = process.grant.robot if process.grant is not None else config.robot
        self.robot = robot if ":" in robot else f"{robot}/{index}"
        self.task = self.station.task
        self.policy: Policy = build_policy(
            config, self.task, seed=config.seed + index, realtime=self.station.realtime
        )  # noise of its own
        self.follower = LocalFollower(process.paths.weights)
        self.version = -1
        self.version_since_ns = time.monotonic_ns()
        self.counters, self.row = process.counters, process.row
        spec = stored_spec(config, self.task.spec)
        schema = Schema(spec.observation, spec.action)
        self.writer = Writer(process.paths.buffer, schema, name=f"actor{index}", robot=self.robot, task=config.task)
        self.curve = OwnCurve(process, config, self.station) if shared(config) and config.eval_every else None
        self.policy_s: list[float] = []
        self.annotate_s = 0.0
        self.steps = self.writer.transitions
        self.episodes = self.writer.episodes
        noise = stream(config.seed, Stream.HUMAN, index, self.episodes)
        self.human = build_human(config, self.task, noise, episodes=self.episodes)
        self.reward = build_reward(config, self.task.spec)
        self._count()

    def run(self) -> None:
        """Act until told to stop or until all actors together have the steps of the run."""
        with ExitStack() as stack:  # the robot first, the policy last: it may be planning
            stack.callback(close_policy, self.policy)
            stack.callback(self.writer.close)
            stack.callback(self.station.robot.close)
            while not self.process.stopping() and not self._enough():
                if self._wait_for_weights():
                    self.process.hold()
                    self._episode()
                    if self.curve is not None:
                        self.curve.point_if_due()

    def _count(self) -> None:
        counters, row = self.counters, self.row
        counters.set(row, Field.STEPS, self.steps)
        counters.set(row, Field.EPISODES, self.episodes)
        counters.set(row, Field.ROBOT_MS, int(1e3 * self.steps / self.task.spec.control_hz))

    def _enough(self) -> bool:
        return self.counters.actor_steps() >= self.config.steps

    def _wait_for_weights(self) -> bool:
        self._take_weights()
        while self.version < 0 and not self.process.stopping():
            time.sleep(_POLL_S)
            self._take_weights()
        return self.version >= 0

    def _take_weights(self) -> None:
        if not getattr(self.policy, "boundary", True):
            return  # a chunk is executed to its end, by the weights that planned it
        snapshot = self.follower.poll()
        if snapshot is not None:
            self.policy.load(snapshot.weights)
            self.version, self.version_since_ns = snapshot.version, time.monotonic_ns()

    def _before_step(self) -> bool:
        """Wait for the learner, take new weights where the policy is at a boundary (step by step: always)."""
        if not self.config.realtime and not self._may_act():
            self.writer.flush()
            while not self._may_act():
                if self.process.stopping():
                    return False
                time.sleep(_POLL_S)
        self.process.hold()
        self._take_weights()
        self.steps += 1
        self.counters.set(self.row, Field.STEPS, self.steps)
        return not self.process.stopping() and not self._enough()

    def _may_act(self) -> bool:
        return self.limiter.actor_may(self.counters.actor_steps(), self.counters.get(Row.LEARNER, Field.UPDATES))

    def _act(self, observation: Observation, raw: Observation) -> Array:
        started = time.perf_counter()
        action = self.policy.act(observation, explore=True)
        self.policy_s.append(self.annotate_s + time.perf_counter() - started)
        return action

    def _annotate(self, observation: Observation) -> Mapping[str, Array]:
        started = time.perf_counter()
        added = annotate(self.policy, observation)
        self.annotate_s = time.perf_counter() - started  # part of what the next action takes
        return added

    def _episode(self) -> None:
        self.policy.reset()
        self.policy_s.clear()
        rng = stream(self.config.seed, Stream.TRAIN, self.index, self.episodes)
        episode = run_episode(
            self.station,
            self._act,
            rng,
            append=self.writer.append,
            before_step=self._before_step,
            version=lambda: self.version,
            annotate=self._annotate,
            human=self.human,
            abandon=getattr(self.policy, "abandon", lambda: None),
            reward=self.reward,
        )
        self.writer.end_episode(success=episode.success)
        if self.station.robot.stopped:
            raise RobotStoppedError(f"{self.robot} stopped: {self.station.robot.stopped}")
        self.episodes += 1
        self._count()
        self._report(episode)

    def _report(self, episode: Episode) -> None:
        newest = self.counters.get(Row.LEARNER, Field.VERSION)
        periods = np.asarray(episode.periods_s)
        policy = np.asarray(self.policy_s)
        timing = self.station.timing() if self.station.timing is not None else {}
        planning = self.policy.timing() if hasattr(self.policy, "timing") else {}
        self.process.metric(
            "episode",
            steps=self.counters.actor_steps(),
            robot_s=self.counters.robot_seconds(),
            episode=episode.id,
            success=episode.success,
            length=episode.steps,
            peak_force_n=round(episode.peak_force_n, 2),
            interventions=episode.interventions / max(episode.steps, 1),
            policy_version=self.version,
            staleness_versions=max(newest - self.version, 0),
            staleness_s=round((time.monotonic_ns() - self.version_since_ns) * 1e-9, 3),
            rate_p50_hz=round(1.0 / max(float(np.median(periods)), 1e-9), 1),
            rate_p99_ms=round(1e3 * float(np.percentile(periods, 99)), 2),
            robot=self.robot,
            policy_p50_ms=round(1e3 * float(np.median(policy)), 2),
            policy_p99_ms=round(1e3 * float(np.percentile(policy, 99)), 2),
            overruns=int((periods > 1.5 / self.task.spec.control_hz).sum()) if self.config.realtime else 0,
            **{f"timing_{name}": round(float(value), 3) for name, value in timing.items()},
            **{name: round(value, 3) for name, value in planning.items()},
            safety_events=episode.safety,
            interrupted=episode.interrupted,
            **{"return": episode.reward},
        )
