"""Learning, suite by suite: numbers are of the final policy at a fixed budget, alone and greedy, on unseen episodes.

A suite is a list of cases; a case is one ``robolearn train`` command line for each seed. A case over a base starts from
the run that its base case made with the same seed, and learns from the same demonstrations. Runs that are already there
(same --out) are not repeated, so the bench can be interrupted, and suites that share a case share its runs.

    python bench/bench_learning.py --suites imitation refine --seeds 40 41 42

Suites: ``peg`` (RLPD on all tiers of peg_insert), ``imitation``, ``refine`` (residual RL and EXPO over a base),
``ablations``, ``corrections`` (people who help), ``execution`` (how chunks of actions are executed).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from common import table, write
from suites import SUITES, Case, Evaluation

from robolearn.run.stats import wilson

COLUMNS = (
    "case",
    "seed",
    "success",
    "low",
    "high",
    "steps",
    "to_95",
    "cpu_min",
    "helped",
    "corrected",
    "peak_N",
    "cycle_s",
)
POOLED = ("case", "seeds", "success", "worst_seed", "low", "high", "steps", "to_95", "cpu_min", "helped")
_GOOD = 0.95


@dataclass(frozen=True)
class Bench:
    """Where runs lie, and what all of them are told."""

    out: Path
    extra: tuple[str, ...]

    def directory(self, case: Case, seed: int) -> Path:
        """The run of a case and a seed."""
        return self.out / f"{case.name}-{seed}"

    def train(self, case: Case, seed: int) -> dict[str, Any]:
        """One training run through the command line; returns its results."""
        directory = self.directory(case, seed)
        results = directory / "results.json"
        if not results.exists():
            if case.base is not None:
                self.train(case.base, seed)
            resumable = (directory / "config.yaml").exists()
            self._robolearn(directory.name, ["--resume", str(directory)] if resumable else self._new(case, seed))
        data: dict[str, Any] = json.loads(results.read_text())
        return data

    def _new(self, case: Case, seed: int) -> list[str]:
        base: list[str] = []
        if case.base is not None:
            at = str(self.directory(case.base, seed))
            base = [*(["--base", at] if case.starts_from_base else []), "--demos-from", at]
        if case.labelled_like is not None:
            base += ["--demos", str(self._as_many(case.labelled_like, seed))]
        return [
            *(case.task, "--algo", case.algo, "--seed", str(seed), "--run-dir", str(self.directory(case, seed))),
            *(*base, *case.options, "--eval-experts", str(case.experts), "--no-video", *self.extra),
        ]

    def _as_many(self, like: Case, seed: int) -> int:
        """Demonstrations that have as many steps as a case's demonstrations and corrections."""
        self.train(like, seed)
        began = self.directory(like.base or like, seed)
        demos = int(yaml.safe_load((began / "config.yaml").read_text())["demos"])
        rows = [self._learned_from(directory) for directory in (self.directory(like, seed), began)]
        return round(demos * rows[0] / rows[1])

    @staticmethod
    def _learned_from(directory: Path) -> int:
        """Steps that people have driven, demonstrations and corrections, at the end of a run."""
        return int([line for line in metrics(directory) if line["kind"] == "learner"][-1]["demo_rows"])

    def _robolearn(self, name: str, arguments: Sequence[str]) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "robolearn.cli.main", "train", *arguments, "--headless"]
        with open(self.out / f"{name}.log", "a") as log:
            subprocess.run(command, stdout=log, stderr=log, check=True)

    def evaluate(self, evaluation: Evaluation, seed: int, episodes: int) -> dict[str, Any]:
        """One evaluation of a trained case, executed in its own way; kept beside the run."""
        self.train(evaluation.of, seed)
        directory = self.directory(evaluation.of, seed)
        kept = directory / f"eval-{evaluation.name}-{episodes}.json"
        if not kept.exists():
            command = [sys.executable, "-m", "robolearn.cli.main", "eval", str(directory), "--json"]
            command += ["--episodes", str(episodes), *evaluation.options]
            kept.write_bytes(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
        data: dict[str, Any] = json.loads(kept.read_text())
        return data

    def rows(self, case: Case, seed: int) -> list[dict[str, Any]]:
        """A row of the learned policy, and one of each expert that was examined on the same episodes."""
        data = self.train(case, seed)
        lines = metrics(self.directory(case, seed))
        rows = []
        for index, row in enumerate(data["rows"]):
            learned = index == 0
            rows.append(
                {
                    "case": case.name if learned else f"{case.task} {row['policy']}",
                    "seed": seed,
                    **numbers(row),
                    "steps": data["steps"] if learned else 0,
                    "to_95": steps_to_good(lines) if learned else None,
                    "cpu_min": round(data["cpu_s"] / 60, 1) if learned else 0,
                    "wall_s": data["wall_s"] if learned else 0,
                    "helped": helped(lines) if learned else None,
                    "corrected": corrected(lines) if learned else None,
                    "restarts": data["restarts"],
                }
            )
        return rows


def metrics(directory: Path) -> list[dict[str, Any]]:
    """What a run has measured, line by line."""
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def corrected(lines: Sequence[dict[str, Any]]) -> int | None:
    """Training episodes in which a person took over; None where nobody acted."""
    episodes = [line for line in lines if line["kind"] == "episode"]
    return sum(line["interventions"] > 0 for line in episodes) if episodes else None


def numbers(row: dict[str, Any]) -> dict[str, Any]:
    """Success and its interval, force and duration of one evaluation."""
    return {
        "successes": row["successes"],
        "episodes": row["episodes"],
        "success": row["success"],
        "low": row["wilson_low"],
        "high": row["wilson_high"],
        "peak_N": row["median_peak_force_n"],
        "cycle_s": row["median_cycle_s"],
    }


def steps_to_good(lines: Sequence[dict[str, Any]]) -> int | None:
    """Robot steps at the first of two points of the learning curve in a row that reach 95 %; None when never.

    Points have 20 episodes, so one alone may be luck.
    """
    curve = [line for line in lines if line["kind"] == "eval" and not line["final"]]
    for first, second in pairwise(curve):
        if min(first["success"], second["success"]) >= _GOOD:
            return int(first["steps"])
    return None


def helped(lines: Sequence[dict[str, Any]]) -> float | None:
    """Share of the steps of the last quarter of training that a person drove; None where nobody acted."""
    episodes = [line for line in lines if line["kind"] == "episode"]
    if not episodes:
        return None
    last = [line for line in episodes if line["steps"] > 0.75 * episodes[-1]["steps"]]
    steps = sum(line["length"] for line in last)
    return round(sum(line["interventions"] * line["length"] for line in last) / max(steps, 1), 4)


def pooled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All seeds of a case together; steps to 95 % only where every seed got there (the slowest counts)."""
    out = []
    for case in dict.fromkeys(row["case"] for row in rows):
        mine = [row for row in rows if row["case"] == case]
        successes, episodes = sum(r["successes"] for r in mine), sum(r["episodes"] for r in mine)
        low, high = wilson(successes, episodes)
        reached = [r.get("to_95") for r in mine]
        out.append(
            {
                "case": case,
                "seeds": len(mine),
                "success": successes / episodes,
                "worst_seed": min(r["success"] for r in mine),
                "low": low,
                "high": high,
                "steps": max(r.get("steps", 0) for r in mine),
                "to_95": None if None in reached else max(reached),
                "cpu_min": max(r.get("cpu_min", 0) for r in mine),
                "helped": max((r["helped"] for r in mine if r.get("helped") is not None), default=None),
            }
        )
    return out


def jobs_of(
    bench: Bench, entries: Sequence[Case | Evaluation], seeds: Sequence[int], episodes: int
) -> list[Callable[[], list[dict[str, Any]]]]:
    """What a suite has to do; a job returns its rows."""
    jobs: list[Callable[[], list[dict[str, Any]]]] = []
    for entry in entries:
        for seed in seeds:
            if isinstance(entry, Case):
                jobs.append(lambda case=entry, seed=seed: bench.rows(case, seed))  # type: ignore[misc]
            else:
                jobs.append(
                    lambda entry=entry, seed=seed: [  # type: ignore[misc]
                        {"case": entry.name, "seed": seed, **numbers(bench.evaluate(entry, seed, episodes)["rows"][0])}
                    ]
                )
    return jobs


def main() -> None:
    """Run everything asked for; one ``bench/results/learning_SUITE.json`` for each suite."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suites", nargs="+", default=list(SUITES), choices=list(SUITES))
    parser.add_argument("--cases", nargs="+", help="only these of the suites")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time; wall clock counts only with 1")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-learning"))
    parser.add_argument("--name", default="learning", help="bench/results/NAME_SUITE.json")
    parser.add_argument("--episodes", type=int, default=100, help="of evaluations apart from training")
    parser.add_argument("extra", nargs="*", help="further arguments of robolearn train, after --")
    options = parser.parse_args()
    bench = Bench(options.out, tuple(options.extra))
    for suite in options.suites:
        entries = [entry for entry in SUITES[suite] if not options.cases or entry.name in options.cases]
        with ThreadPoolExecutor(options.jobs) as pool:
            found = list(pool.map(lambda job: job(), jobs_of(bench, entries, options.seeds, options.episodes)))
        rows = [row for part in found for row in part]
        print(table(rows, COLUMNS))
        print()
        summary = pooled(rows)
        print(table(summary, POOLED))
        print(write(f"{options.name}_{suite}", {"jobs": options.jobs, "runs": rows, "pooled": summary}))


if __name__ == "__main__":
    main()
