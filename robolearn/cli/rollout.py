"""``robolearn rollout``: run a learned policy and film it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from robolearn.cli.options import RunArgument, parse
from robolearn.cli.output import columns, print_json
from robolearn.core.errors import ConfigError

WHAT = "Run the newest policy of a run for some episodes, and film it."


@dataclass(frozen=True)
class RolloutOptions:
    """Options of rollout.

    Attributes:
        run: run directory.
        video: where to write the film (.mp4); empty for none.
        episodes: how many episodes.
        seed: seed of the episodes.
        robot: robot to use instead of the run's (as in train); one that exists once is leased.
        wait: seconds to wait for it before failing.
        json: print one JSON document.
    """

    run: RunArgument
    video: str = ""
    episodes: int = 1
    seed: int = 0
    robot: str = ""
    wait: float = 0.0
    json: bool = False


def main(arguments: Sequence[str]) -> int:
    """Run, film, print."""
    options = parse(RolloutOptions, arguments, verb="rollout", what=WHAT)
    if options.episodes < 1:
        raise ConfigError(f"--episodes: expected at least 1, got {options.episodes}")
    if options.video and not options.video.lower().endswith(".mp4"):
        raise ConfigError(f"--video: expected a name that ends in .mp4, got '{options.video}'")
    from robolearn.run.borrow import borrowed, config_with
    from robolearn.run.rollout import rollout

    config = config_with(options.run, options.robot, robots=1)
    with borrowed(config, holder=f"rollout {Path(options.run).name}", wait_s=options.wait) as loan:
        grant = loan.grants[0] if loan.grants else None
        result = rollout(
            options.run,
            video=options.video or None,
            episodes=options.episodes,
            seed=options.seed,
            robot=options.robot,
            grant=grant,
            hold=loan.guard(grant),
        )
    if options.json:
        print_json(result)
        return 0
    rows = [
        [str(i + 1), "success" if e["success"] else "failure", str(e["steps"]), f"{e['peak_force_n']:.1f} N"]
        for i, e in enumerate(result["episodes"])
    ]
    print(columns(rows, head=("episode", "outcome", "steps", "peak force")))
    if result["video"]:
        print(f"video: {result['video']}")
    return 0
