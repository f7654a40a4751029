"""The learning curve, drawn while the run goes on: by a process with a robot of its own, or by an actor in between."""

from __future__ import annotations

import time
from dataclasses import asdict, replace

from robolearn.core.protocols import Policy
from robolearn.run.config import TrainConfig
from robolearn.run.counters import Field
from robolearn.run.evaluate import POLICY, evaluate, summarise
from robolearn.run.process import Process
from robolearn.run.seeds import Stream, stream
from robolearn.run.station import Station, build_policy, build_station, close_policy, greedily
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
        self.station = build_station(replace(config, realtime=False))
        self.policy: Policy = build_policy(config, self.station.task, seed=config.seed, realtime=self.station.realtime)
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
        draw_point(self.process, self.config, self.station, self.policy, steps=snapshot.steps, version=snapshot.version)


class OwnCurve:
    """Lets an actor draw points of the curve on its robot, between two of its episodes.

    Robots that exist once have no copy to be evaluated on. Each point is drawn by whichever actor first notices that it
    is due; the others go on training. An actor that is killed meanwhile leaves the point out.
    """

    def __init__(self, process: Process, config: TrainConfig, station: Station) -> None:
        self.process, self.config, self.station = process, config, station
        self.policy: Policy = build_policy(config, station.task, seed=config.seed, realtime=station.realtime)
        self.follower = LocalFollower(process.paths.weights)
        self.newest: Snapshot | None = None

    def point_if_due(self) -> None:
        """Evaluate the newest weights if the run has come to a point nobody has drawn."""
        steps = self.process.counters.actor_steps() // self.config.eval_every * self.config.eval_every
        if not steps or not self._mine(steps):
            return
        self.newest = self.follower.poll() or self.newest
        if self.newest is None:
            return
        self.policy.load(self.newest.weights)
        draw_point(self.process, self.config, self.station, self.policy, steps=steps, version=self.newest.version)

    def _mine(self, steps: int) -> bool:
        """True for the one process that makes the mark of this point."""
        try:
            (self.process.paths.evaluation / f"curve-{steps}.mark").open("x").close()
        except FileExistsError:
            return False
        return True


def draw_point(
    process: Process, config: TrainConfig, station: Station, policy: Policy, *, steps: int, version: int
) -> None:
    """Evaluate a policy on the episodes of the curve and log the point; nothing is logged when it is cut short.

    A thread in which the policy plans is ended.
    """

    def going_on() -> bool:
        process.hold()
        return not process.stopping()

    rngs = ((i, stream(config.seed, Stream.CURVE, i)) for i in range(config.eval_curve_episodes))
    try:
        results = evaluate(station, POLICY, greedily(policy), rngs, reset=policy.reset, going_on=going_on)
    finally:
        close_policy(policy)
    hz = station.task.spec.control_hz
    if len(results) < config.eval_curve_episodes:
        return
    summary = asdict(summarise(POLICY, results, control_hz=hz, seed=config.seed))
    summary.pop("policy")
    process.metric(
        "eval",
        steps=steps,
        robot_s=steps / hz,
        policy_version=version,
        final=False,
        **{key: None if value != value else value for key, value in summary.items()},
    )
