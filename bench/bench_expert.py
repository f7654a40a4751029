"""The scripted experts of every task, on both arms: success with a 95 % Wilson interval, length, contact force.

    python bench/bench_expert.py [--tasks TASK ...] [--tiers TIER ...] [--arms ARM ...] [--episodes N] [--first SEED]
        [--add]

Results are written as they come; ``--add`` keeps those of the file that are not measured again.
The informed expert gives the demonstrations; the blind one trusts a wrong estimate and is the baseline; the weak one
plays an imperfect person. Actions go straight to the driver, without a safety layer.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics

import numpy as np
from common import RESULTS, table, write

from robolearn.core import plugins
from robolearn.core.types import Command, Skill
from robolearn.run.stats import wilson

TASKS = ("peg_insert", "charger", "cap_tighten", "pick_place")
ARMS = ("fr3_sim", "ur5e_sim")
TIERS = ("smoke", "default", "hard")


def measure(name: str, tier: str, arm: str, skill: Skill, seeds: range) -> dict[str, object]:
    """Run one expert of one task on one tier and arm."""
    module, driver = plugins.load("task", name), plugins.load("robot", arm)
    config = module.TIERS[tier]
    task = module.build(config)
    robot = driver.build(driver.Config(), scene=module.scene(config))
    lengths, peaks = [], []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        task.reset(robot, rng)
        raw, peak = robot.observe(), 0.0
        for step in range(task.spec.max_steps):
            task.observe(raw)
            sent = robot.apply(Command(task.command(task.expert(raw, rng, skill=skill)), 0))
            after = robot.observe()
            judgement = task.judge(raw, sent, after)
            raw, peak = after, max(peak, judgement.info["peak_force_n"])
            if judgement.success:
                lengths.append(step + 1)
                break
        peaks.append(peak)
    robot.close()
    low, high = wilson(len(lengths), len(seeds))
    return {
        "task": name,
        "tier": tier,
        "arm": arm,
        "expert": str(skill),
        "success": len(lengths) / len(seeds),
        "wilson_low": low,
        "wilson_high": high,
        "median_steps": statistics.median(lengths) if lengths else None,
        "median_peak_n": statistics.median(peaks),
        "max_peak_n": max(peaks),
        "episodes": len(seeds),
        "first_seed": seeds[0],
    }


def earlier() -> list[dict[str, object]]:
    """Rows of bench/results/expert.json."""
    path = RESULTS / "expert.json"
    return list(json.loads(path.read_text())["rows"]) if path.exists() else []


def main() -> None:
    """Run everything and write bench/results/expert.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--tiers", nargs="+", default=list(TIERS), choices=TIERS)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="seed of the first episode")
    parser.add_argument("--add", action="store_true", help="keep earlier results that are not measured again")
    options = parser.parse_args()
    rows = earlier() if options.add else []
    for name, tier, arm in itertools.product(options.tasks, options.tiers, options.arms):
        module = plugins.load("task", name)
        skills = module.build(module.TIERS[tier]).spec.skills
        seeds = range(options.first, options.first + options.episodes)
        fresh = [measure(name, tier, arm, skill, seeds) for skill in skills]
        rows = [row for row in rows if (row["task"], row["tier"], row["arm"]) != (name, tier, arm)] + fresh
        write("expert", {"rows": rows}, ("numpy", "mujoco"))
    columns = (
        "task", "tier", "arm", "expert", "success", "wilson_low", "wilson_high", "median_steps", "median_peak_n",
        "max_peak_n",
    )  # fmt: skip
    print(table(rows, columns))


if __name__ == "__main__":
    main()
