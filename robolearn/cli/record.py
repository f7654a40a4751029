"""``robolearn record``: scripted demonstrations into a buffer of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from robolearn.cli.options import TaskArgument, parse
from robolearn.cli.output import print_json
from robolearn.core import plugins
from robolearn.core.errors import ConfigError, suggest

WHAT = "Record scripted episodes of a task into a replay buffer; use them with: robolearn train --demos-from DIR."


@dataclass(frozen=True)
class RecordOptions:
    """Options of record.

    Attributes:
        task: task, optionally with a tier (peg_insert or peg_insert:hard).
        out: directory of the buffer to write; empty makes ``runs/demos-<task>-<tier>-<n>``.
        tier: difficulty; empty for the one named with the task, else default.
        episodes: how many episodes; of the informed script, successful ones.
        policy: script knows the truth, blind only the estimate.
        seed: seed of the episodes.
        obs: what is observed.
        json: print one JSON document.
    """

    task: TaskArgument
    out: str = ""
    tier: str = ""
    episodes: int = 20
    policy: Literal["script", "blind"] = "script"
    seed: int = 0
    obs: Literal["state", "pixels"] = "state"
    json: bool = False


def main(arguments: Sequence[str]) -> int:
    """Record and say what became of it."""
    options = parse(RecordOptions, arguments, verb="record", what=WHAT)
    task, _, tier = options.task.partition(":")
    if tier and options.tier not in ("", tier):
        raise ConfigError(f"two tiers are given: '{tier}' and '{options.tier}'")
    tier = tier or options.tier or "default"
    tiers = plugins.load("task", task).TIERS
    if tier not in tiers:
        raise ConfigError(f"unknown tier '{tier}' of {task}{suggest(tier, tiers)}")
    if options.episodes < 1:
        raise ConfigError(f"--episodes: expected at least 1, got {options.episodes}")
    from robolearn.run.record import record
    from robolearn.run.rundir import first_free

    out = options.out or str(first_free(f"demos-{task}-{tier}"))
    result = record(
        task,
        tier=tier,
        episodes=options.episodes,
        policy=options.policy,
        out=out,
        seed=options.seed,
        obs=options.obs,
    )
    if options.json:
        print_json({"out": out, "task": task, "tier": tier, **result})
        return 0
    from robolearn.run.live import results_table

    print(results_table({"rows": [result]}))
    print(f"recorded in {out}")
    return 0
