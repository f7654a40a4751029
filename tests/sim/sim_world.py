"""Where things are, and how a scripted episode runs."""

from __future__ import annotations

import numpy as np

from robolearn.core.types import Command, Skill
from robolearn.sim.drivers.fr3_sim import Fr3Sim
from robolearn.sim.tasks import peg_insert
from robolearn.sim.tasks.peg_insert import PegInsert

OPENING = np.array(peg_insert.OPENING_M)
DOWN = np.array([0.0, 1.0, 0.0, 0.0])


def at(x_mm: float, y_mm: float, depth_mm: float, turn: np.ndarray = DOWN) -> np.ndarray:
    """(7,) tip pose relative to the nominal opening."""
    return np.concatenate([OPENING + 1e-3 * np.array([x_mm, y_mm, -depth_mm]), turn])


def place(robot: Fr3Sim, task: PegInsert, tip: np.ndarray, error_mm: tuple[float, float] = (0.0, 0.0)) -> None:
    """Start an episode with the estimate at the nominal opening and the tip where it is wanted."""
    task.place(robot, at(0, 0, 0), 1e-3 * np.array([*error_mm, 0.0]), 0.0, tip)
    task.observe(robot.observe())


def run(robot: Fr3Sim, task: PegInsert, seed: int, *, skill: Skill) -> tuple[bool, list[np.ndarray], float]:
    """One scripted episode: success, the observations, the largest force."""
    rng = np.random.default_rng(seed)
    task.reset(robot, rng)
    raw, seen, peak = robot.observe(), [], 0.0
    seen.append(task.observe(raw)["state"])
    for _ in range(task.spec.max_steps):
        sent = robot.apply(Command(task.command(task.expert(raw, rng, skill=skill)), 0))
        after = robot.observe()
        verdict = task.judge(raw, sent, after)
        raw = after
        seen.append(task.observe(raw)["state"])
        peak = max(peak, verdict.info["peak_force_n"])
        if verdict.kind.is_last:
            break
    return verdict.success, seen, peak
