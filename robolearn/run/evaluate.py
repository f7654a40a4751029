"""Policy-only evaluation on episodes nobody has trained on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from robolearn.core.errors import RobolearnError
from robolearn.run.act import Act, run_episode
from robolearn.run.checkpoint import checkpoint_path, load_checkpoint, require_checkpoint
from robolearn.run.config import RunPaths, TrainConfig
from robolearn.run.process import PARENT, worker_environment
from robolearn.run.rundir import load_config
from robolearn.run.seeds import Stream, stream
from robolearn.run.station import Station, build_policy, build_station
from robolearn.run.stats import wilson

POLICY, BLIND, INFORMED = "final", "blind expert", "informed expert"
"""Who can be evaluated: the learned policy, and the scripted experts of the task."""


@dataclass(frozen=True)
class EpisodeResult:
    """One evaluated episode."""

    policy: str
    index: int
    success: bool
    steps: int
    peak_force_n: float


@dataclass(frozen=True)
class EvalResult:
    """Success of one policy with its 95 % Wilson interval.

    Attributes:
        median_peak_force_n: median over episodes of the largest contact force [N].
        median_cycle_s: median duration of successful episodes [s]; NaN when there is none.
    """

    policy: str
    episodes: int
    successes: int
    success: float
    wilson_low: float
    wilson_high: float
    median_peak_force_n: float
    median_cycle_s: float
    seed: int

    def to_json(self) -> dict[str, Any]:
        """A JSON object; a missing cycle time is null."""
        data = asdict(self)
        if not np.isfinite(self.median_cycle_s):
            data["median_cycle_s"] = None
        return data


def summarise(policy: str, results: Sequence[EpisodeResult], *, control_hz: float, seed: int) -> EvalResult:
    """Numbers of a set of episodes."""
    successes = [result for result in results if result.success]
    low, high = wilson(len(successes), len(results))
    cycles = [result.steps / control_hz for result in successes]
    return EvalResult(
        policy=policy,
        episodes=len(results),
        successes=len(successes),
        success=len(successes) / max(len(results), 1),
        wilson_low=low,
        wilson_high=high,
        median_peak_force_n=round(float(np.median([r.peak_force_n for r in results])), 2) if results else 0.0,
        median_cycle_s=round(float(np.median(cycles)), 2) if cycles else float("nan"),
        seed=seed,
    )


def evaluate(
    station: Station,
    who: str,
    act: Act,
    rngs: Iterable[tuple[int, np.random.Generator]],
    *,
    reset: Callable[[], None] = lambda: None,
    going_on: Callable[[], bool] = lambda: True,
) -> list[EpisodeResult]:
    """Run one episode for each (index, generator)."""
    results = []
    for index, rng in rngs:
        reset()
        episode = run_episode(station, act, rng, before_step=going_on)
        if episode.interrupted:
            break
        results.append(EpisodeResult(who, index, episode.success, episode.steps, episode.peak_force_n))
    return results


def make_act(who: str, config: TrainConfig, station: Station, seed: int, weights: Any = None) -> tuple[Act, Any]:
    """How ``who`` acts on this station, and what to call before each episode.

    Args:
        weights: weights of the learned policy, for ``POLICY``.
    """
    if who == POLICY:
        policy = build_policy(config, station.task, seed=seed)
        policy.load(weights)
        return lambda observation, raw: policy.act(observation, explore=False), policy.reset
    noise = stream(seed, Stream.EVAL, 2**31)
    informed = who == INFORMED
    return lambda observation, raw: station.task.expert(raw, noise, informed=informed), lambda: None


def examine(
    run: Path, out: Path, *, who: Sequence[str], episodes: int, seed: int, part: int, parts: int, calls: int
) -> None:
    """Evaluate episodes ``part, part+parts, ...`` of each policy and write one JSON line an episode to ``out``.

    Args:
        calls: which checkpoint the learned policy is from.
    """
    paths = RunPaths(run)
    config = load_config(paths, policy=POLICY in who)
    station = build_station(replace(config, realtime=False), epoch=0)
    weights = load_checkpoint(checkpoint_path(paths.checkpoints, calls)).policy if POLICY in who else None
    with closing(station.robot), open(out, "w", encoding="utf-8") as file:
        for name in who:
            act, reset = make_act(name, config, station, seed, weights)
            rngs = ((i, stream(seed, Stream.EVAL, i)) for i in range(part, episodes, parts))
            for result in evaluate(station, name, act, rngs, reset=reset):
                file.write(json.dumps(asdict(result)) + "\n")


def evaluate_run(
    run_dir: str | Path,
    episodes: int = 100,
    seed: int = 1_000,
    *,
    who: Sequence[str] = (POLICY,),
    processes: int | None = None,
) -> list[EvalResult]:
    """Evaluate the newest checkpoint of a run (and, if named, the experts) with several processes.

    All of them take the same checkpoint, also while the run goes on.

    Raises:
        RobolearnError: a process failed; the message has its last words.
    """
    paths = RunPaths(Path(run_dir).resolve())
    config = load_config(paths, policy=False)
    calls = require_checkpoint(paths.checkpoints).progress.calls if POLICY in who else 0
    paths.evaluation.mkdir(exist_ok=True)
    parts = max(1, min(processes or len(os.sched_getaffinity(0)), episodes))
    outs = [paths.evaluation / f"seed{seed}-{part}of{parts}.jsonl" for part in range(parts)]
    workers = []
    try:
        for part, out in enumerate(outs):
            share = {"part": part, "parts": parts, "calls": calls}
            request = json.dumps({"who": list(who), "episodes": episodes, "seed": seed, **share})
            command = [sys.executable, "-m", "robolearn.run.worker", str(paths.root), "examiner", str(out), request]
            workers.append(
                subprocess.Popen(
                    command,
                    env=worker_environment(**{PARENT: str(os.getpid())}),
                    stderr=subprocess.PIPE,
                    text=True,
                    start_new_session=True,
                )
            )
        for worker in workers:
            _, errors = worker.communicate()
            if worker.returncode != 0:
                words = (errors or "").strip().splitlines()
                raise RobolearnError(f"evaluation failed: {words[-1] if words else worker.returncode}")
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.kill()
                worker.wait()
            if worker.stderr is not None:
                worker.stderr.close()
    rows = [EpisodeResult(**json.loads(line)) for out in outs for line in out.read_text().splitlines()]
    hz = _control_hz(config)
    return [summarise(name, [r for r in rows if r.policy == name], control_hz=hz, seed=seed) for name in who]


def _control_hz(config: TrainConfig) -> float:
    from robolearn.run.station import build_task

    return build_task(config).spec.control_hz
