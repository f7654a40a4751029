"""The right half of the system: how transitions become weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from robolearn.buffer.replay import Replay
from robolearn.buffer.sampler import Parts
from robolearn.core.protocols import Learner
from robolearn.core.types import Batch, ChunkBatch, Rollouts
from robolearn.run.checkpoint import Checkpoint, Progress
from robolearn.run.limiter import UpdateLimiter
from robolearn.sync.codec import Snapshot


@dataclass(frozen=True)
class Cadence:
    """How often a learner does what is not learning: calls between publications, seconds between the rest."""

    publish_calls: int = 10
    checkpoint_s: float = 30.0
    log_s: float = 2.0


class LearnLoop:
    """Owns the counters of a learner and does one thing at a time."""

    def __init__(
        self,
        learner: Learner,
        replay: Replay,
        limiter: UpdateLimiter,
        rng: np.random.Generator,
        *,
        cadence: Cadence,
        pretrain_calls: int = 0,
        publish: Callable[[Snapshot], None],
        checkpoint: Callable[[Checkpoint], None],
        log: Callable[[Mapping[str, Any]], None],
    ) -> None:
        self.learner, self.replay, self.limiter, self.rng = learner, replay, limiter, rng
        self.cadence, self.pretrain_calls = cadence, pretrain_calls
        self._publish, self._checkpoint, self._log = publish, checkpoint, log
        self.calls = self.updates = 0
        self.version = -1
        self._last_checkpoint = self._last_log = time.monotonic()

    @property
    def steps(self) -> int:
        """Robot steps the learner can see."""
        return self.replay.online_transitions

    @property
    def on_policy(self) -> int:
        """Robot steps between two updates of a learner on policy, else 0.

        It learns from what the version published last did and publishes at once. Steps of other versions are ignored:
        the few that robots made during the update, and those found when a run goes on. Where these are more than half,
        the updates they would be worth are forgone and the version goes on.
        """
        return int(getattr(self.learner, "on_policy", 0))

    @property
    def pretraining(self) -> bool:
        """True while calls are due that need no robot: on demonstrations alone, outside the update-to-data ratio."""
        return self.learner.online and self.calls < self.pretrain_calls and self.replay.demo_transitions > 0

    def resume(self, saved: Checkpoint) -> None:
        """Go on from a checkpoint."""
        self.learner.restore(saved.learner)
        self.calls, self.updates = saved.progress.calls, saved.progress.updates
        self.version = saved.progress.version
        self.rng.bit_generator.state = saved.progress.rng

    def once(self) -> bool:
        """Make one update call if the limiter lets it; False when there is nothing to do yet."""
        self.replay.refresh()
        pretraining = self.pretraining
        ready = self.replay.transitions > 0 and (
            pretraining
            or not self.learner.online
            or self.limiter.learner_may(self.updates, self.learner.updates_per_call, self.steps)
        )
        if ready:
            self._update(pretraining)
        now = time.monotonic()
        if now - self._last_checkpoint >= self.cadence.checkpoint_s and self.calls:
            self.save()
        return ready

    def _update(self, pretraining: bool) -> None:
        batch = self._batch()
        if batch is None:
            self.updates += self.learner.updates_per_call  # forgone
            return
        metrics = self.learner.update(batch)
        self.calls += 1
        if not pretraining:
            self.updates += self.learner.updates_per_call
            if self.on_policy or self.calls % self.cadence.publish_calls == 0:
                self.publish()
        if self.on_policy or time.monotonic() - self._last_log >= self.cadence.log_s:
            self._last_log = time.monotonic()
            self._log(self._line(metrics))

    def _batch(self) -> Batch | ChunkBatch | Rollouts | None:
        learner, replay = self.learner, self.replay
        if self.on_policy:
            rollouts = replay.rollouts(self.version)
            return rollouts if 2 * len(rollouts) >= self.on_policy else None
        if learner.online and learner.demo_fraction == 1.0 and not replay.demo_transitions:
            return None  # nobody has shown or corrected anything yet: the robot goes on as it is
        mixture: Parts | None = getattr(learner, "mixture", None)
        if learner.chunk:
            return replay.sample_chunks(
                learner.batch_rows,
                history=learner.history,
                chunk=learner.chunk,
                demo_fraction=learner.demo_fraction,
                mixture=mixture,
                rng=self.rng,
            )
        return replay.sample(
            learner.batch_rows,
            demo_fraction=learner.demo_fraction,
            mixture=mixture,
            rng=self.rng,
            horizon=learner.horizon,
            gamma=learner.gamma,
        )

    def _line(self, metrics: Mapping[str, float]) -> dict[str, Any]:
        replay = self.replay
        return {
            "steps": self.steps,
            "updates": self.updates,
            "utd": round(self.updates / max(self.steps, 1), 3),
            "version": self.version,
            "buffer_rows": replay.rows,
            "demo_rows": replay.demo_transitions,
            "online_rows": replay.online_transitions,
            **metrics,
        }

    def publish(self) -> None:
        """Send the current weights to the actors under the next version."""
        self.version += 1
        self._publish(Snapshot(self.version, self.steps, self.learner.snapshot()))

    def save(self) -> None:
        """Write a checkpoint."""
        self._last_checkpoint = time.monotonic()
        state = self.rng.bit_generator.state
        progress = Progress(self.calls, self.updates, self.steps, self.version, dict(state))
        self._checkpoint(Checkpoint(progress, self.learner.state(), self.learner.snapshot()))
