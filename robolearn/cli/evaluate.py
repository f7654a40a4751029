"""``robolearn eval``: how good is the policy of a run, on episodes nobody trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
        json: print one JSON document.
    """

    run: RunArgument
    episodes: int = 100
    seed: int = 1000
    robot: str = ""
    wait: float = 0.0
    experts: bool = False
    json: bool = False


def main(arguments: Sequence[str]) -> int:
    """Evaluate and print."""
    options = parse(EvalOptions, arguments, verb="eval", what=WHAT)
    if options.episodes < 1:
        raise ConfigError(f"--episodes: expected at least 1, got {options.episodes}")
    from robolearn.run.borrow import borrowed, config_with
    from robolearn.run.evaluate import BLIND, INFORMED, POLICY
    from robolearn.run.examine import evaluate_run

    who = (POLICY, BLIND, INFORMED) if options.experts else (POLICY,)
    config = config_with(options.run, options.robot)
    with borrowed(config, holder=f"eval {Path(options.run).name}", wait_s=options.wait) as loan:
        found = evaluate_run(
            options.run,
            options.episodes,
            options.seed,
            who=who,
            grants=loan.grants,
            robot=options.robot,
            tick=loan.check,
        )
    results = [result.to_json() for result in found]
    if options.json:
        print_json({"run": options.run, "seed": options.seed, "rows": results})
        return 0
    from robolearn.run.live import results_table

    print(results_table({"rows": results}))
    return 0
