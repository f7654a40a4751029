"""A run directory as a finished training leaves it, with made-up numbers and a small real buffer."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from robolearn.buffer.schema import Schema
from robolearn.buffer.writer import Writer
from robolearn.core import config as typed
from robolearn.core.spec import ArraySpec
from robolearn.core.types import Kind, Source, Transition
from robolearn.run.config import RunPaths, TrainConfig
from robolearn.run.metrics import JsonlWriter
from robolearn.run.stats import wilson
from robolearn.run.video import write_video

SCHEMA = Schema({"state": ArraySpec("state", (3,))}, ArraySpec("action", (2,), low=-1.0, high=1.0))
TOTAL = 15_000


def make_run(root: Path, *, done: bool = True, upto: int = TOTAL, video: bool = False) -> RunPaths:
    """Write the files of a run that learned up to ``upto`` steps; a run that is not done has no results."""
    paths = RunPaths(root)
    for folder in (root, paths.videos, paths.plots):
        folder.mkdir(parents=True, exist_ok=True)
    data = typed.to_dict(TrainConfig(steps=TOTAL, seed=1))
    data |= {"env": {"clearance_mm": 1.0, "error_mm": 3.0, "history": [0, 1, 3]}, "policy": {"utd": 8, "hidden": 128}}
    paths.config.write_text(typed.dump_yaml(data))
    paths.command.write_text("robolearn train peg_insert --seed 1\n")
    paths.environment.write_text(json.dumps({"robolearn": "0.1.0", "python": "3.11", "packages": {"numpy": "2"}}))
    _metrics(paths, upto, final=done)
    _events(paths)
    _buffer(paths.buffer)
    status = {"state": "done" if done else "training", "task": "peg_insert", "tier": "default", "algo": "rlpd"}
    status |= {"seed": 1, "steps": upto, "total_steps": TOTAL, "robot_s": upto / 10, "utd": 7.9, "utd_target": 8.0}
    paths.status.write_text(json.dumps({**status, "elapsed_s": 531.0, "restarts": 1, "message": ""}))
    if done:
        paths.results.write_text(json.dumps(_results(upto)))
    if video:
        gradient = np.linspace(40, 220, 320, dtype=np.uint8)
        frames = (np.dstack([np.tile(np.roll(gradient, 4 * i), (240, 1))] * 3) for i in range(20))
        write_video(paths.videos / "policy.mp4", frames, fps=10.0, caption="episode 1   contact  4.2 N")
    return paths


def row(policy: str, successes: int, episodes: int, force: float, cycle: float | None) -> dict[str, object]:
    """A row of results."""
    low, high = wilson(successes, episodes)
    return {
        "policy": policy,
        "episodes": episodes,
        "successes": successes,
        "success": successes / episodes,
        "wilson_low": low,
        "wilson_high": high,
        "median_peak_force_n": force,
        "median_cycle_s": cycle,
        "seed": 1_000_003,
    }


def skill(steps: int) -> float:
    """Chance of success after so many steps."""
    return 0.2 + 0.78 / (1 + math.exp(-(steps - 4_500) / 900))


def _results(steps: int) -> dict[str, object]:
    names = {"task": "peg_insert", "tier": "default", "algo": "rlpd", "seed": 1, "demos": 20, "obs": "state"}
    rows = [
        row("rlpd (final)", 98, 100, 8.4, 3.1),
        row("blind expert", 22, 100, 14.9, 3.9),
        row("informed expert", 100, 100, 9.6, 3.4),
    ]
    numbers = {"steps": steps, "robot_s": steps / 10, "updates": 119_000, "utd": 7.93, "wall_s": 531.0, "cpu_s": 980.0}
    return {**names, **numbers, "episodes": 412, "restarts": 1, "safety_events": 7, "rows": rows}


def _metrics(paths: RunPaths, upto: int, *, final: bool) -> None:
    rng, steps, version = np.random.default_rng(0), 0, 0
    with JsonlWriter(paths.metrics) as out:
        while steps < upto:
            success = bool(rng.random() < skill(steps) * 0.93)
            length = int(rng.integers(24, 45)) if success else 100
            steps, version = steps + length, version + length // 10
            force = float(rng.gamma(4.0, 2.2) + (0 if success else 4))
            clock = {"time_s": round(steps / 28, 2), "steps": steps}
            episode = {"kind": "episode", "role": "actor0", **clock, "robot_s": steps / 10, "episode": f"{steps:032x}"}
            episode |= {"success": success, "return": float(success), "length": length, "peak_force_n": round(force, 2)}
            episode |= {"interventions": 0.2 if steps < 3000 and not success else 0.0, "policy_version": version}
            episode |= {"staleness_versions": int(rng.integers(0, 3)), "staleness_s": round(float(rng.random()), 2)}
            episode |= {"rate_p50_hz": 31.0, "rate_p99_ms": 44.0, "overruns": 0, "interrupted": False}
            out.write({**episode, "safety_events": int(rng.random() < 0.02)})
            learner = {"kind": "learner", "role": "learner", **clock, "updates": 8 * steps, "version": version}
            learner |= {"utd": round(8 - 300 / (steps + 40), 2), "buffer_rows": steps, "demo_rows": 700}
            q_mean = 0.75 * skill(steps) + float(rng.normal(0, 0.02))
            out.write({**learner, "online_rows": steps, "q_mean": q_mean, "q_max": q_mean + 0.25, "critic_loss": 0.01})
        for at in range(0, upto, 1000):
            successes = int(rng.binomial(20, skill(at)))
            line = {**row("final", successes, 20, 9.0, 3.3), "seed": 1}
            line |= {"kind": "eval", "role": "evaluator", "time_s": at / 28, "steps": at, "robot_s": at / 10}
            out.write({**line, "policy_version": at // 10, "final": False})
        if final:
            line = {"kind": "eval", "role": "supervisor", "time_s": 530, "steps": upto, "robot_s": upto / 10}
            out.write({**row("final", 98, 100, 8.4, 3.1), **line, "policy_version": version, "final": True})


def _events(paths: RunPaths) -> None:
    with JsonlWriter(paths.events) as out:
        out.write({"time_s": 0.0, "level": "info", "role": "supervisor", "event": "start", "leases": ["fr3_sim/0@1"]})
        values = {"worker": "learner", "code": -9, "words": "<script>alert('not a message')</script>"}
        out.write({"time_s": 91.2, "level": "error", "role": "supervisor", "event": "worker died", **values})
        out.write({"time_s": 95.0, "level": "info", "role": "learner", "event": "resumed", "updates": 20_000})


def _buffer(root: Path) -> None:
    for name, source, demo, episodes in (
        ("demonstrations", Source.SCRIPT, True, 3),
        ("actor0", Source.POLICY, False, 5),
    ):
        with Writer(root, SCHEMA, name=name, robot="fr3_sim/0", task="peg_insert", demo=demo) as writer:
            for number in range(episodes):
                for transition in _episode(f"{name}-{number}".encode().hex().ljust(32, "0")[:32], source):
                    writer.append(transition)
                writer.end_episode(success=True)


def _episode(uuid: str, source: Source, steps: int = 6) -> list[Transition]:
    zeros, rows = np.zeros(2, np.float32), []
    for index in range(steps + 1):
        kind = Kind.FIRST if index == 0 else Kind.TERMINATED if index == steps else Kind.MID
        state, last = {"state": np.full(3, index, np.float32)}, index == steps
        values = (zeros, zeros, None, source, float(last), 0.0 if last else 1.0, kind, 0, index + 1)
        rows.append(Transition(uuid, index, state, *values))
    return rows
