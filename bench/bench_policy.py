"""How long a chunked policy takes for one chunk of actions, on one thread, observation to actions.

    python bench/bench_policy.py [--chunks 300]

16 actions of 7 numbers from 2 frames of 40 numbers, batch 1, 10 network evaluations, random weights (which cost the
same as learned ones). Chunks of all policies alternate, so that what else the machine does hits all of them. Wall time
is what a robot waits; CPU time of the thread is what is left of it when others want the core as well.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import torch
from common import table, write

from robolearn.core.spec import ArraySpec
from robolearn.core.types import TaskSpec
from robolearn.policies import diffusion, flow
from robolearn.policies.parts.realtime import Guide

CHUNK, ACTIONS, FRAMES, FEATURES = 16, 7, 2, 40
UNET = (56, 112, 224)
NETS: dict[str, dict[str, Any]] = {
    "unet": {"net": "unet", "unet_channels": UNET},
    "transformer": {"net": "transformer"},
    "mlp": {"net": "mlp"},
}
SAMPLERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddim 10": (diffusion, {"sampler": "ddim"}),
    "dpm 10": (diffusion, {"sampler": "dpm"}),
    "flow 10": (flow, {}),
}
COLUMNS = ("net", "parameters", "sampler", "wall_p50_ms", "wall_p99_ms", "cpu_p50_ms", "cpu_p99_ms")
Call = Callable[[], object]


def spec() -> TaskSpec:
    """The task that is planned for."""
    observation = {"state": ArraySpec("state", (FEATURES,))}
    return TaskSpec("bench", observation, ArraySpec("action", (ACTIONS,), low=-1.0, high=1.0), 100, 10.0)


def prepare(net: str, sampler: str, guided: bool) -> tuple[dict[str, Any], Call]:
    """A row of the table, and one chunk of it."""
    family, values = SAMPLERS[sampler]
    config = family.Config(chunk=CHUNK, history=FRAMES, **NETS[net], **values)
    normal = {"state": (np.zeros(FEATURES, np.float32), np.ones(FEATURES, np.float32))}
    weights = family.build_learner(config, spec(), seed=0, statistics=normal).snapshot()
    planner = family.build_planner(config, spec(), seed=0)
    planner.load(weights)
    rng = np.random.default_rng(0)
    frames = {"state": rng.standard_normal((FRAMES, FEATURES)).astype(np.float32)}
    guide = None
    if guided:
        guide = Guide(np.zeros((CHUNK, ACTIONS), np.float32), np.linspace(1, 0, CHUNK, dtype=np.float32), 5.0)
    size = sum(array.size for name, array in weights.items() if name.startswith("model."))
    row = {"net": net, "parameters": size, "sampler": sampler + (" guided" if guided else "")}
    return row, lambda: planner.plan(frames, 1, guide=guide)


def measure(cases: list[tuple[dict[str, Any], Call]], chunks: int) -> list[dict[str, Any]]:
    """Rows with the percentiles of alternating chunks [ms]."""
    for _, call in cases:
        for _ in range(10):
            call()
    wall, cpu = np.zeros((chunks, len(cases))), np.zeros((chunks, len(cases)))
    for i in range(chunks):
        for j, (_, call) in enumerate(cases):
            started, used = time.perf_counter(), time.thread_time()
            call()
            cpu[i, j], wall[i, j] = time.thread_time() - used, time.perf_counter() - started
    for j, (row, _) in enumerate(cases):
        for name, times in (("wall", wall[:, j]), ("cpu", cpu[:, j])):
            p50, p99 = np.percentile(1e3 * times, (50, 99))
            row |= {f"{name}_p50_ms": round(float(p50), 2), f"{name}_p99_ms": round(float(p99), 2)}
    return [row for row, _ in cases]


def main() -> None:
    """Measure, print a table, write bench/results/policy.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=300, help="of each policy")
    options = parser.parse_args()
    torch.set_num_threads(1)
    load = [os.getloadavg()[0]]
    cases = [prepare(net, sampler, guided=False) for net in NETS for sampler in SAMPLERS]
    cases += [prepare(net, "flow 10", guided=True) for net in NETS]
    rows = measure(cases, options.chunks)
    load.append(os.getloadavg()[0])
    print(table(rows, COLUMNS))
    print(f"load of the machine before and after: {load[0]:.1f}, {load[1]:.1f}")
    figures = {"threads": 1, "chunks": options.chunks, "load": load, "rows": rows}
    print(write("policy", figures, ("numpy", "torch", "diffusers")))


if __name__ == "__main__":
    main()
