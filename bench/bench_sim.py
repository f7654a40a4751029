"""Control steps per CPU second: physics, control, observation, task; without images and with two 128 px cameras.

    python bench/bench_sim.py [--rounds N] [--steps N]

One control step is 50 physics steps of 2 ms with ten torque updates, both observations, the action mapping and the
verdict. ``free`` follows the informed expert, which hardly touches anything; ``pressing`` the blind one on the hard
tier, which mostly presses on the rim. The CPU time of the whole process counts
(software OpenGL has threads of its own).
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
from common import table, write

from robolearn.core.types import Command, Skill
from robolearn.sim.drivers import fr3_sim
from robolearn.sim.tasks import peg_insert

CASES = {
    "free, state": ("default", Skill.INFORMED, "state", 600),
    "pressing, state": ("hard", Skill.BLIND, "state", 600),
    "free, two cameras": ("default", Skill.INFORMED, "pixels", 250),
    "pressing, two cameras": ("hard", Skill.BLIND, "pixels", 250),
}
"""Case -> tier, expert, observations, floor [control steps per CPU second]."""


class Station:
    """One robot and task that keeps stepping, with a new episode whenever one ends."""

    def __init__(self, tier: str, skill: Skill, obs: str) -> None:
        config = peg_insert.TIERS[tier]
        self.task = peg_insert.build(config, obs="pixels" if obs == "pixels" else "state")
        cameras = peg_insert.IMAGES if obs == "pixels" else ()
        self.robot = fr3_sim.build(fr3_sim.Config(), scene=peg_insert.scene(config), cameras=cameras)
        self.rng = np.random.default_rng(0)
        self.skill = skill
        self.left = 0

    def step(self, steps: int) -> float:
        """Control steps per CPU second over ``steps`` steps; resets count."""
        started = time.process_time()
        for _ in range(steps):
            if self.left == 0:
                self.task.reset(self.robot, self.rng)
                self.raw = self.robot.observe()
                self.task.observe(self.raw)
                self.left = self.task.spec.max_steps
            action = self.task.expert(self.raw, self.rng, skill=self.skill)
            sent = self.robot.apply(Command(self.task.command(action), 0))
            self.task.normalise(sent)
            before, self.raw = self.raw, self.robot.observe()
            verdict = self.task.judge(before, sent, self.raw)
            self.task.observe(self.raw)
            self.left = 0 if verdict.kind.is_last else self.left - 1
        return steps / (time.process_time() - started)


def main() -> None:
    """Measure all cases in interleaved rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    stations = {name: Station(*case[:3]) for name, case in CASES.items()}
    rates: dict[str, list[float]] = {name: [] for name in CASES}
    for station in stations.values():
        station.step(50)
    for _ in range(options.rounds):
        for name, station in stations.items():
            rates[name].append(station.step(options.steps))
    rows = [
        {
            "case": name,
            "steps_per_cpu_s": round(statistics.median(rates[name]), 1),
            "lowest": round(min(rates[name]), 1),
            "highest": round(max(rates[name]), 1),
            "floor": CASES[name][3],
        }
        for name in CASES
    ]
    print(table(rows, ("case", "steps_per_cpu_s", "lowest", "highest", "floor")))
    print(write("sim", {"rounds": options.rounds, "steps": options.steps, "rows": rows}, ("numpy", "mujoco")))
    for station in stations.values():
        station.robot.close()


if __name__ == "__main__":
    main()
