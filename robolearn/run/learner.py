"""The learner process: reads the buffer, updates, publishes, checkpoints."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from robolearn.buffer.replay import Replay
from robolearn.buffer.schema import Schema
from robolearn.buffer.store import locked
from robolearn.core import plugins
from robolearn.core.errors import StoreError
from robolearn.core.protocols import Learner
from robolearn.run.base import load_base, needs_base, unit_statistics
from robolearn.run.checkpoint import Checkpoint, newest_checkpoint, save_checkpoint
from robolearn.run.config import TrainConfig
from robolearn.run.counters import Field
from robolearn.run.demos import parse_data
from robolearn.run.learn import Cadence, LearnLoop
from robolearn.run.limiter import UpdateLimiter
from robolearn.run.process import Process
from robolearn.run.seeds import Stream, stream
from robolearn.run.station import build_task, stored_spec
from robolearn.sync.codec import Snapshot
from robolearn.sync.local import LocalFollower, LocalPublisher

_POLL_S = 0.002
_PATIENCE_S = 30.0
_NICE = 5
"""How far the learner stands back while robots move in real time: a late update costs nothing, a late action does."""


@contextmanager
def only_learner(process: Process, patience_s: float = _PATIENCE_S) -> Iterator[None]:
    """Hold the run's learner lock: the learner of a killed supervisor may still be writing its last checkpoint.

    Args:
        patience_s: how long to wait for it to end [s].

    Raises:
        StoreError: it does not end.
    """
    deadline = time.monotonic() + patience_s
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(process.paths.learner_lock))
                break
            except BlockingIOError:
                if process.stopping() or time.monotonic() >= deadline:
                    raise StoreError(f"another learner of {process.paths.root} lives; end it first") from None
            time.sleep(_POLL_S)
        yield


def resolve_device(device: str) -> str:
    """``auto`` becomes ``cuda`` where there is a GPU, else ``cpu``."""
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


class LearnerProcess:
    """Learns until the run has its steps and every update they are worth."""

    def __init__(self, process: Process, config: TrainConfig, limiter: UpdateLimiter) -> None:
        self.process, self.config, self.limiter = process, config, limiter
        task = build_task(config)
        spec = stored_spec(config, task.spec)
        schema = Schema(spec.observation, spec.action)
        self.replay = Replay(
            process.paths.buffer,
            schema,
            others=parse_data(config.data),
            ram_bytes=int(1e9 * config.ram_gb) or None,
            mode=config.sampling,
            seed=config.seed,
        )
        self.replay.refresh()
        if self.replay.demo_transitions:
            statistics = self.replay.statistics("demo")
        else:
            statistics = unit_statistics(spec) | getattr(task, "statistics", dict)()  # a task may know its own scale
        extra = {"base": load_base(config)} if needs_base(config) else {}
        self.learner: Learner = plugins.load("policy", config.algo).build_learner(
            config.policy,
            spec,
            seed=config.seed,
            device=resolve_device(config.device),
            statistics=statistics,
            **extra,
        )
        if self.learner.online:
            limiter.check(self.learner.updates_per_call)
        self._final = False
        self.publisher = LocalPublisher(process.paths.weights)
        self.loop = LearnLoop(
            self.learner,
            self.replay,
            limiter,
            stream(config.seed, Stream.LEARNER),
            cadence=Cadence(config.publish_every, config.checkpoint_every_s),
            pretrain_calls=int(getattr(config.policy, "pretrain", 0)),
            publish=self._publish,
            checkpoint=self._save,
            log=self._log,
        )
        published = LocalFollower(process.paths.weights).poll()
        saved, problems = newest_checkpoint(process.paths.checkpoints)
        for problem in problems:
            process.event("checkpoint unusable, taking an older one", "warn", problem=problem)
        if saved is not None:
            self.loop.resume(saved)
            process.event("resumed", updates=self.loop.updates, steps=self.loop.steps)
        if published is not None:  # no version stands for two sets of weights, also after a crash
            self.loop.version = max(self.loop.version, published.version)

    def run(self) -> None:
        """Learn until told to stop or done; leave a checkpoint either way."""
        self._count()
        while self.loop.pretraining and not self.process.stopping():
            self.loop.once()
        self.loop.publish()
        if self.config.realtime and self.learner.online:
            os.nice(_NICE)  # the robots move from now on
        while not self.process.stopping():
            if not self.loop.once():
                if self._done():
                    break
                time.sleep(_POLL_S)
            self._count()
            if not self.learner.online and self._done():
                break
        self.loop.publish()
        self._final = True
        self.loop.save()
        if self._done():
            self.process.counters.set(self.process.row, Field.DONE, 1)

    def _done(self) -> bool:
        if not self.learner.online:
            return self.loop.updates >= int(self.config.policy.updates)
        steps = self.loop.steps
        return steps >= self.config.steps and not self.limiter.learner_may(
            self.loop.updates, self.learner.updates_per_call, steps
        )

    def _count(self) -> None:
        counters, row = self.process.counters, self.process.row
        counters.set(row, Field.UPDATES, self.loop.updates)
        counters.set(row, Field.STEPS, self.loop.steps)

    def _publish(self, snapshot: Snapshot) -> None:
        self.publisher.publish(snapshot)
        counters, row = self.process.counters, self.process.row
        counters.set(row, Field.VERSION, snapshot.version)
        counters.set(row, Field.PUBLISHED_NS, time.monotonic_ns())

    def _save(self, checkpoint: Checkpoint) -> None:
        """Save; a disk that is full now may have room later, only the last checkpoint has to succeed."""
        try:
            save_checkpoint(self.process.paths.checkpoints, checkpoint)
        except OSError as error:
            problem = f"checkpoint not written: {error.strerror}; the one before is kept"
            if self._final:
                raise StoreError(problem) from error
            with suppress(OSError):
                self.process.event("checkpoint not written", "error", problem=problem)

    def _log(self, line: Mapping[str, Any]) -> None:
        self.process.metric("learner", **line)
