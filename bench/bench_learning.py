"""Learning on peg_insert: RLPD with 20 demonstrations beside RLPD without, behaviour cloning and the blind expert.

Every number is of the final policy at the tier's fixed budget on 100 unseen episodes, one row a seed. Runs that are
already there (same --out) are not repeated, so the bench can be interrupted.

    python bench/bench_learning.py --tiers smoke default hard --seeds 0 1 2 --methods rlpd rlpd-no-demos bc
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from common import table, write

from robolearn.run.stats import wilson

METHODS = {"rlpd": [], "rlpd-no-demos": ["--demos", "0"], "bc": ["--algo", "bc"]}
COLUMNS = ("tier", "method", "seed", "success", "low", "high", "peak_N", "cycle_s", "steps", "wall_s")


def run(out: Path, tier: str, method: str, seed: int, extra: list[str]) -> dict[str, Any]:
    """One training run through the command line; returns its results."""
    directory = out / f"{tier}-{method}-{seed}"
    results = directory / "results.json"
    if not results.exists():
        start = ["--resume", str(directory)] if (directory / "config.yaml").exists() else None
        arguments = start or [
            *("peg_insert", "--tier", tier, "--seed", str(seed), "--run-dir", str(directory)),
            *METHODS[method],
            *extra,
        ]
        command = [sys.executable, "-m", "robolearn.cli.main", "train", *arguments, "--headless"]
        directory.parent.mkdir(parents=True, exist_ok=True)
        with open(out / f"{directory.name}.log", "w") as log:
            subprocess.run(command, stdout=log, stderr=log, check=True)
    data: dict[str, Any] = json.loads(results.read_text())
    return data


def rows_of(data: dict[str, Any], tier: str, method: str, seed: int) -> list[dict[str, Any]]:
    """The learned policy's row, and for RLPD the experts' of the same episodes."""
    rows = []
    for index, row in enumerate(data["rows"]):
        if index and method != "rlpd":
            continue
        rows.append(
            {
                "tier": tier,
                "method": row["policy"] if index else method,
                "seed": seed,
                "successes": row["successes"],
                "episodes": row["episodes"],
                "success": row["success"],
                "low": row["wilson_low"],
                "high": row["wilson_high"],
                "peak_N": row["median_peak_force_n"],
                "cycle_s": row["median_cycle_s"],
                "steps": data["steps"] if index == 0 else 0,
                "wall_s": data["wall_s"] if index == 0 else 0,
                "restarts": data["restarts"],
            }
        )
    return rows


def pooled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All seeds of a tier and method together."""
    out = []
    for tier, method in dict.fromkeys((row["tier"], row["method"]) for row in rows):
        mine = [row for row in rows if (row["tier"], row["method"]) == (tier, method)]
        successes, episodes = sum(r["successes"] for r in mine), sum(r["episodes"] for r in mine)
        low, high = wilson(successes, episodes)
        out.append(
            {
                "tier": tier,
                "method": method,
                "seeds": len(mine),
                "success": successes / episodes,
                "worst_seed": min(r["success"] for r in mine),
                "low": low,
                "high": high,
                "median_peak_N": sorted(r["peak_N"] for r in mine)[len(mine) // 2],
                "wall_s": max(r["wall_s"] for r in mine),
            }
        )
    return out


def main() -> None:
    """Run everything asked for and write bench/results/learning.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiers", nargs="+", default=["smoke", "default", "hard"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time; wall clock counts only with 1")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-learning"))
    parser.add_argument("--name", default="learning", help="bench/results/NAME.json")
    parser.add_argument("extra", nargs="*", help="further arguments of robolearn train, after --")
    options = parser.parse_args()
    jobs = [(t, m, s) for t in options.tiers for m in options.methods for s in options.seeds]
    with ThreadPoolExecutor(options.jobs) as pool:
        done = list(pool.map(lambda job: run(options.out, *job, options.extra), jobs))
    rows = [row for data, job in zip(done, jobs, strict=True) for row in rows_of(data, *job)]
    print(table(rows, COLUMNS))
    print()
    summary = pooled(rows)
    print(table(summary, list(summary[0])))
    print(write(options.name, {"jobs": options.jobs, "runs": rows, "pooled": summary}))


if __name__ == "__main__":
    main()
