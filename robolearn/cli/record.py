"""``robolearn record``: scripted demonstrations into a buffer of their own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, make_dataclass
from typing import Any, Literal

from robolearn.cli.by_id import by_id, spell_out
from robolearn.cli.options import TaskArgument, parse
from robolearn.cli.output import print_json
from robolearn.core import plugins
from robolearn.core.errors import ConfigError, suggest
from robolearn.run.config import TrainConfig

WHAT = """Record scripted episodes of a task into a replay buffer; use them with: robolearn train --demos-from DIR.

Options of the task come as in train, for example: robolearn record peg_insert --env.clearance-mm 0.5, or
robolearn record gym:Pendulum-v1 --expert MODULE:CALLABLE --env.max-steps 100"""


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
        robot: a private simulated copy (DRIVER), or a robot that exists once and is leased (DRIVER:INSTANCE, or a
            name of the site file); empty for the one that belongs to the task.
        wait: seconds to wait for the robot before failing.
        json: print one JSON document.
    """

    task: TaskArgument
    out: str = ""
    tier: str = ""
    episodes: int = 20
    policy: Literal["script", "blind"] = "script"
    seed: int = 0
    obs: Literal["state", "pixels"] = "state"
    robot: str = ""
    wait: float = 0.0
    json: bool = False


def main(arguments: Sequence[str]) -> int:
    """Record and say what became of it."""
    known = next((word for word in arguments if by_id(word.partition(":")[0])), "")
    if known:  # what follows the colon is no tier, and its options have short names
        index, (name, _, rest) = list(arguments).index(known), known.partition(":")
        arguments = [name, *spell_out(rest, [*arguments[:index], *arguments[index + 1 :]])]
    own, others = _split(arguments)
    options = parse(RecordOptions, others, verb="record", what=WHAT)
    task, _, tier = options.task.partition(":")
    if tier and options.tier not in ("", tier):
        raise ConfigError(f"two tiers are given: '{tier}' and '{options.tier}'")
    tier = tier or options.tier or "default"
    module = plugins.load("task", task)
    tiers = module.TIERS
    if tier not in tiers:
        raise ConfigError(f"unknown tier '{tier}' of {task}{suggest(tier, tiers)}")
    robot = getattr(module, "ROBOT", "")
    if robot and options.robot not in ("", robot):
        raise ConfigError(f"{task} brings its own robot '{robot}'; leave out --robot {options.robot}")
    if options.episodes < 1:
        raise ConfigError(f"--episodes: expected at least 1, got {options.episodes}")
    from robolearn.run.record import record
    from robolearn.run.rundir import claimed

    with ExitStack() as stack:
        env = _environment(tiers[tier], own)
        stem = module.label(env) if known else f"{task}-{tier}"
        out = options.out or str(stack.enter_context(claimed(f"demos-{stem}")))
        result = record(
            task,
            tier=tier,
            episodes=options.episodes,
            policy=options.policy,
            out=out,
            seed=options.seed,
            obs=options.obs,
            robot=options.robot or robot or TrainConfig().robot,
            env=env,
            wait_s=options.wait,
        )
    if options.json:
        print_json({"out": out, "task": task, "tier": tier, **result})
        return 0
    from robolearn.run.live import results_table

    print(results_table({"rows": [result]}))
    print(f"recorded in {out}")
    return 0


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Options of the task (``--env.NAME`` and their values), and the rest."""
    own: list[str] = []
    others: list[str] = []
    into = others
    for argument in arguments:
        if argument.startswith("--"):
            into = own if argument.startswith("--env.") else others
        into.append(argument)
    return own, others


def _environment(tier: Any, arguments: Sequence[str]) -> Any:
    """The task's configuration: the tier's values with options on top."""
    cls: Any = make_dataclass("TaskOptions", [("env", type(tier))], frozen=True, namespace={"__doc__": "Options."})
    return parse(cls, arguments, verb="record", what=WHAT, default=cls(tier)).env
