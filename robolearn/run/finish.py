"""The end of a run: its numbers, its video, its report."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Sequence
from typing import Any

from robolearn.core.errors import RobolearnError
from robolearn.core.files import write_atomic
from robolearn.core.types import Skill
from robolearn.run.config import TrainConfig
from robolearn.run.counters import Field, Row
from robolearn.run.evaluate import POLICY, EvalResult, expert_name, experts_of
from robolearn.run.examine import evaluate_run
from robolearn.run.guard import Grant
from robolearn.run.process import Process
from robolearn.run.station import build_task
from robolearn.run.watch import person

EXAM_SEED = 1_000_003
_KEYS = ("task", "tier", "algo", "seed", "demos", "obs", "robots", "robot")
_COUNTS = ("steps", "robot_s", "updates", "utd", "episodes", "restarts")


def final_numbers(
    process: Process,
    config: TrainConfig,
    status: dict[str, Any],
    *,
    grants: Sequence[Grant],
    tick: Callable[[], None],
    failed: Callable[[Grant, RobolearnError], Grant | None] | None,
) -> dict[str, Any]:
    """Evaluate the policy, and the experts if asked for, and write ``results.json``.

    Args:
        status: counts of the run.
        grants, tick, failed: see ``evaluate_run``.
    """
    who = (POLICY, *_experts(config))
    found = evaluate_run(
        process.paths.root, config.eval_episodes, EXAM_SEED, who=who, grants=grants, tick=tick, failed=failed
    )
    _log_final(process, found[0])
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    labels = (f"{config.algo} (final)", *who[1:])
    results = {
        **{key: getattr(config, key) for key in _KEYS},
        **{key: status[key] for key in _COUNTS},
        "wall_s": round(process.elapsed_s, 1),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
        "safety_events": status["safety_events"],
        "placement": status["placement"],
        "robots_lost": status["robots_lost"],
        "rows": [{**result.to_json(), "policy": label} for label, result in zip(labels, found, strict=True)],
        "experts": "evaluated" if config.eval_experts else "n/a",
    }
    write_atomic(process.paths.results, json.dumps(results, indent=1).encode())
    return results


def _experts(config: TrainConfig) -> list[str]:
    """Experts worth a row beside the policy: the imperfect one only where it taught the policy."""
    if not config.eval_experts:
        return []
    taught = person(config) == "script" and config.script.skill is Skill.WEAK
    names = experts_of(build_task(config).spec)
    return [name for name in names if taught or name != expert_name(Skill.WEAK)]


def _log_final(process: Process, result: EvalResult) -> None:
    line = result.to_json()
    line.pop("policy")
    process.metric(
        "eval",
        steps=process.counters.get(Row.LEARNER, Field.STEPS),
        robot_s=process.counters.robot_seconds(),
        policy_version=process.counters.get(Row.LEARNER, Field.VERSION),
        final=True,
        **line,
    )


def film(process: Process, config: TrainConfig, grants: Sequence[Grant], hold: Callable[[], None]) -> None:
    """A video of two episodes; a machine that cannot render, or a robot that cannot be filmed, goes without."""
    from robolearn.run.rollout import rollout

    grant = grants[0] if grants and grants[0].shared else None
    try:
        rollout(
            process.paths.root,
            video=process.paths.videos / "policy.mp4",
            episodes=2,
            seed=config.seed,
            grant=grant,
            hold=hold,
        )
    except RobolearnError as error:
        process.event("no video", "warn", why=str(error))
