"""``robolearn eval``: how good is the policy of a run, on episodes nobody trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from robolearn.cli.options import RunArgument, parse
from robolearn.cli.output import print_json
from robolearn.core.errors import ConfigError

WHAT = "Evaluate the newest policy of a run: policy only, greedy, on unseen episodes; with its 95 % Wilson interval."


@dataclass(frozen=True)
class EvalOptions:
    """Options of eval.

    Attributes:
        run: run directory.
        episodes: how many episodes.
        seed: seed of the episodes; the same seed gives the same episodes.
        robot: robots to use instead of the run's (as in train); those that exist once are leased.
        wait: seconds to wait for them before failing.
        experts: evaluate the scripted experts of the task on the same episodes as well.
        mode: how plans of actions are executed, instead of as trained.
        delay: steps between an observation and the availability of its plan (modes naive and realtime).
        execute: actions of a plan that are executed before the next one.
        json: print one JSON document.
    """

    run: RunArgument
    episodes: int = 100
    seed: int = 1000
    robot: str = ""
    wait: float = 0.0
    experts: bool = False
    mode: Literal["receding", "ensemble", "naive", "realtime"] | None = None
    delay: int | None = None
    execute: int | None = None
    json: bool = False


def _execution(options: EvalOptions) -> dict[str, Any]:
    """What is to be executed otherwise than as trained."""
    asked = {"mode": options.mode, "delay": options.delay, "execute": options.execute}
    return {key: value for key, value in asked.items() if value is not None}


def main(arguments: Sequence[str]) -> int:
    """Evaluate and print."""
    options = parse(EvalOptions, arguments, verb="eval", what=WHAT)
    if options.episodes < 1:
        raise ConfigError(f"--episodes: expected at least 1, got {options.episodes}")
    from robolearn.run.borrow import borrowed, config_with
    from robolearn.run.evaluate import POLICY, experts_of
    from robolearn.run.examine import evaluate_run
    from robolearn.run.station import build_task

    config = config_with(options.run, options.robot)
    who = (POLICY, *(experts_of(build_task(config).spec) if options.experts else ()))
    with borrowed(config, holder=f"eval {Path(options.run).name}", wait_s=options.wait) as loan:
        found = evaluate_run(
            options.run,
            options.episodes,
            options.seed,
            who=who,
            grants=loan.grants,
            robot=options.robot,
            execution=_execution(options),
            tick=loan.check,
        )
    results = [result.to_json() for result in found]
    if options.json:
        print_json({"run": options.run, "seed": options.seed, "rows": results})
        return 0
    from robolearn.run.live import results_table

    print(results_table({"rows": results}))
    return 0
