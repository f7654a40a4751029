"""The scripted experts on every tier: success with a 95 % Wilson interval, length, contact force.

    python bench/bench_expert.py [--episodes N]

The informed expert gives the demonstrations; the blind one trusts the wrong estimate and is the baseline.
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np
from common import table, write

from robolearn.core.types import Command, Skill
from robolearn.run.stats import wilson
from robolearn.sim.drivers import fr3_sim
from robolearn.sim.tasks import peg_insert


def measure(tier: str, skill: Skill, episodes: int) -> dict[str, object]:
    """Run one expert on one tier."""
    config = peg_insert.TIERS[tier]
    task = peg_insert.build(config)
    robot = fr3_sim.build(fr3_sim.Config(), scene=peg_insert.scene(config))
    lengths, peaks = [], []
    for seed in range(episodes):
        rng = np.random.default_rng(seed)
        task.reset(robot, rng)
        raw, peak = robot.observe(), 0.0
        task.observe(raw)
        for step in range(1, config.max_steps + 1):
            sent = robot.apply(Command(task.command(task.expert(raw, rng, skill=skill)), 0))
            before, raw = raw, robot.observe()
            verdict = task.judge(before, sent, raw)
            task.observe(raw)
            peak = max(peak, verdict.info["peak_force_n"])
            if verdict.success:
                lengths.append(step)
                break
        peaks.append(peak)
    robot.close()
    low, high = wilson(len(lengths), episodes)
    return {
        "tier": tier,
        "expert": skill.value,
        "episodes": episodes,
        "successes": len(lengths),
        "success": len(lengths) / episodes,
        "wilson_low": round(low, 4),
        "wilson_high": round(high, 4),
        "median_steps": statistics.median(lengths) if lengths else None,
        "median_peak_n": round(statistics.median(peaks), 2),
        "max_peak_n": round(max(peaks), 2),
    }


def main() -> None:
    """Measure both experts on all tiers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=200)
    options = parser.parse_args()
    rows = [
        measure(tier, skill, options.episodes) for tier in peg_insert.TIERS for skill in (Skill.INFORMED, Skill.BLIND)
    ]
    columns = ("tier", "expert", "success", "wilson_low", "wilson_high", "median_steps", "median_peak_n", "max_peak_n")
    print(table(rows, columns))
    print(write("expert", {"rows": rows}, ("numpy", "mujoco")))


if __name__ == "__main__":
    main()
