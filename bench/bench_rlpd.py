"""RLPD critic updates per CPU second on one thread, sampling included, beside the same update in jitted JAX.

python bench/bench_rlpd.py [--rounds 9]     (JAX comes with the ``bench`` extra; without it only our figures appear)

Both sides draw the same kind of rows from plain numpy arrays (39 observations, 4 actions), make one ``update`` call
(UTD critic updates, one actor and one temperature update), and bring the metrics back as floats. Rounds of the two
alternate in one process; CPU time is the process's, so a hidden second thread would count. Compiling is not counted.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ["JAX_PLATFORMS"] = "cpu"

import numpy as np
import torch
from common import table, write

from robolearn.core.spec import Array, ArraySpec
from robolearn.core.types import Batch, TaskSpec
from robolearn.policies import rlpd

try:
    import jax
    import rlpd_jax
except ImportError:
    jax = None

OBSERVATION, ACTION, STORED = 39, 4, 20_000
PROFILES = {
    "reference (E=10 H=256 B=256 UTD 20)": replace(rlpd.REFERENCE, bc_weight=0.0),
    "small (E=4 H=128 B=128 UTD 8)": replace(rlpd.Config(), utd=8, bc_weight=0.0),
}
Call = Callable[[], object]


class Store:
    """Transitions in plain arrays; half of a sample comes from the first tenth, interleaved."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.observation = rng.standard_normal((STORED + 1, OBSERVATION)).astype(np.float32)
        self.action = rng.uniform(-1.0, 1.0, (STORED, ACTION)).astype(np.float32)
        self.reward = (rng.random(STORED) < 0.02).astype(np.float32)
        self.discount = 1.0 - self.reward

    def sample(self, rows: int) -> dict[str, Array]:
        """``rows`` transitions."""
        index = self.rng.integers(0, STORED, rows)
        index[0::2] = self.rng.integers(0, STORED // 10, (rows + 1) // 2)
        return {
            "observation": self.observation[index],
            "action": self.action[index],
            "reward": self.reward[index],
            "discount": self.discount[index],
            "next_observation": self.observation[index + 1],
        }


def ours(config: rlpd.Config, store: Store) -> Call:
    """One sampled update of robolearn's learner."""
    key = "state"
    spec = TaskSpec(
        "bench",
        {key: ArraySpec(key, (OBSERVATION,))},
        ArraySpec("action", (ACTION,), low=-1.0, high=1.0),
        100,
        10.0,
    )
    normal = {key: (np.zeros(OBSERVATION, np.float32), np.ones(OBSERVATION, np.float32))}
    learner = rlpd.build_learner(config, spec, seed=0, device="cpu", statistics=normal)
    demo = np.arange(learner.batch_rows) % 2 == 0

    def call() -> object:
        rows = store.sample(learner.batch_rows)
        before, after = {key: rows["observation"]}, {key: rows["next_observation"]}
        return learner.update(Batch(before, rows["action"], rows["reward"], rows["discount"], after, demo))

    return call


def theirs(config: rlpd.Config, store: Store) -> Call:
    """One sampled update in JAX."""
    update = rlpd_jax.make_update(config, ACTION)
    holder: dict[str, Any] = {"state": rlpd_jax.init(config, OBSERVATION, ACTION, seed=0)}
    mean, std = np.zeros(OBSERVATION, np.float32), np.ones(OBSERVATION, np.float32)

    def call() -> object:
        holder["state"], metrics = update(holder["state"], mean, std, store.sample(config.utd * config.batch))
        return {name: float(value) for name, value in metrics.items()}

    return call


def rate(call: Call, calls: int, updates: int) -> float:
    """Critic updates per CPU second."""
    start = time.process_time()
    for _ in range(calls):
        call()
    return calls * updates / (time.process_time() - start)


def measure(config: rlpd.Config, rounds: int) -> dict[str, Any]:
    """Rates of both sides in alternating rounds of about a second."""
    sides = {"robolearn": ours(config, Store(np.random.default_rng(0)))}
    if jax is not None:
        sides["jax"] = theirs(config, Store(np.random.default_rng(0)))
    for call in sides.values():  # twice: the second JAX call compiles once more, for its own output's types
        for _ in range(2):
            call()
    calls = max(1, round(rate(sides["robolearn"], 1, config.utd) / config.utd))
    samples: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, call in sides.items():
            samples[name].append(rate(call, calls, config.utd))
    result: dict[str, Any] = {name: round(statistics.median(values), 1) for name, values in samples.items()}
    if jax is not None:
        ratios = [a / b for a, b in zip(samples["robolearn"], samples["jax"], strict=True)]
        result["ratio"] = round(statistics.median(ratios), 3)
    result["rounds"] = {name: [round(v, 1) for v in values] for name, values in samples.items()}
    return result


def acting() -> float:
    """CPU microseconds of one greedy action of the small profile's policy."""
    key = "state"
    spec = TaskSpec(
        "bench",
        {key: ArraySpec(key, (OBSERVATION,))},
        ArraySpec("action", (ACTION,), low=-1.0, high=1.0),
        100,
        10.0,
    )
    policy = rlpd.build_policy(rlpd.Config(), spec, seed=0)
    observation = {key: np.zeros(OBSERVATION, np.float32)}
    times = []
    for _ in range(9):
        start = time.process_time()
        for _ in range(2000):
            policy.act(observation, explore=True)
        times.append((time.process_time() - start) / 2000 * 1e6)
    return round(statistics.median(times), 1)


def main() -> None:
    """Measure, print a table, write bench/results/rlpd.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    results = {name: measure(config, rounds) for name, config in PROFILES.items()}
    rows = [{"critic updates per CPU second": name, **result} for name, result in results.items()]
    print(table(rows, ["critic updates per CPU second", *(c for c in ("robolearn", "jax", "ratio") if c in rows[0])]))
    act = acting()
    print(f"one exploring action, small profile: {act} us")
    figures = {"threads": 1, "load": os.getloadavg(), "critic_updates_per_cpu_s": results, "act_us": act}
    write("rlpd", figures, ("numpy", "torch", "jax"))


if __name__ == "__main__":
    main()
