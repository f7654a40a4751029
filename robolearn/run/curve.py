"""The evaluator process: draws the learning curve while the run goes on."""

from __future__ import annotations

import time
from dataclasses import asdict, replace

from robolearn.core.protocols import Policy
from robolearn.run.config import TrainConfig
from robolearn.run.counters import Field
from robolearn.run.evaluate import POLICY, evaluate, summarise
from robolearn.run.process import Process
from robolearn.run.seeds import Stream, stream
from robolearn.run.station import build_policy, build_station
from robolearn.sync.codec import Snapshot
from robolearn.sync.local import LocalFollower

_POLL_S = 0.05


class CurveEvaluator:
    """Evaluates the newest weights each time the learner has seen ``eval_every`` more steps.

    Its episodes are the same at every point of the curve, and none of them is trained on or used in the final
    evaluation. Greedy actions, no human, no exploration.
    """

    def __init__(self, process: Process, config: TrainConfig) -> None:
        self.process, self.config = process, config
        self.station = build_station(replace(config, realtime=False), epoch=process.epoch)
        self.policy: Policy = build_policy(config, self.station.task, seed=config.seed)
        self.follower = LocalFollower(process.paths.weights)
        self.next_steps = process.counters.get(process.row, Field.STEPS)

    def run(self) -> None:
        """Evaluate until the run stops."""
        newest: Snapshot | None = None
        while not self.process.stopping():
            newest = self.follower.poll() or newest
            if newest is None or newest.steps < self.next_steps:
                time.sleep(_POLL_S)
                continue
            self._evaluate(newest)
            self.next_steps = (newest.steps // self.config.eval_every + 1) * self.config.eval_every
            self.process.counters.set(self.process.row, Field.STEPS, self.next_steps)
        self.station.robot.close()

    def _evaluate(self, snapshot: Snapshot) -> None:
        self.policy.load(snapshot.weights)
        results = evaluate(
            self.station,
            POLICY,
            lambda observation, raw: self.policy.act(observation, explore=False),
            ((i, stream(self.config.seed, Stream.CURVE, i)) for i in range(self.config.eval_curve_episodes)),
            reset=self.policy.reset,
            going_on=lambda: not self.process.stopping(),
        )
        hz = self.station.task.spec.control_hz
        if len(results) < self.config.eval_curve_episodes:
            return
        summary = asdict(summarise(POLICY, results, control_hz=hz, seed=self.config.seed))
        summary.pop("policy")
        self.process.metric(
            "eval",
            steps=snapshot.steps,
            robot_s=snapshot.steps / hz,
            policy_version=snapshot.version,
            final=False,
            **{key: None if value != value else value for key, value in summary.items()},
        )
