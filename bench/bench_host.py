"""The robot host in real time: loop jitter at 200 Hz and observation-to-application latency, idle and under load.

    python bench/bench_host.py [--rounds N] [--seconds S] [--hogs N]

A simulated arm and its host run as processes of their own and are driven over ROS 2 by this one with the scripted
expert of peg_insert at 10 Hz. Under load, ``--hogs`` processes (default: one for each core and one more) multiply
matrices with torch without a pause. ``tick`` is the host's arithmetic alone, in this process, without topics.
Latency is from the stamp of the observation (joint states received) to the application of the action that answers
it, in the host's own clock, less the time the policy took.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from common import table, write

_HOG = "import torch\ntorch.set_num_threads(1)\na = torch.rand(512, 512)\nwhile True:\n    a = a @ a / a.norm()\n"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--hogs", type=int, default=len(os.sched_getaffinity(0)) + 1)
    options = parser.parse_args()
    os.environ |= {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "ROS_DOMAIN_ID": str(50 + os.getpid() % 40)}
    rows: dict[str, list[dict[str, float]]] = {"idle": [], "loaded": []}
    with tempfile.TemporaryDirectory() as folder, arm(Path(folder)):
        for round_ in range(options.rounds):
            for case, hogs in (("idle", 0), ("loaded", options.hogs)):
                with load(hogs):
                    rows[case].append(drive(options.seconds) | {"load_average": os.getloadavg()[0]})
                print(f"round {round_ + 1}, {case}: {rows[case][-1]}", file=sys.stderr)
    medians = {
        case: {key: round(statistics.median(row[key] for row in found), 3) for key in found[0]}
        for case, found in rows.items()
    }
    medians["idle"]["tick_us"] = round(tick_us(), 1)
    print(table([{"case": case, **values} for case, values in medians.items()], ["case", *medians["idle"]]))
    write("host", {"rounds": options.rounds, "seconds": options.seconds, "hogs": options.hogs, "cases": medians})


@contextmanager
def arm(folder: Path):
    """A simulated arm and its host."""
    from robolearn.ros import specs

    os.environ |= {"ROBOLEARN_STATE": str(folder), "ROS_LOG_DIR": str(folder)}
    with ExitStack() as stack:
        for spec in specs.robot_host(robot="fr3_sim", namespace="/bench"):
            env = specs.environment(spec, dict(os.environ))
            process = subprocess.Popen(
                specs.command(spec), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
        time.sleep(3.0)
        yield


@contextmanager
def load(count: int):
    """So many processes that never rest."""
    hogs = [subprocess.Popen([sys.executable, "-c", _HOG]) for _ in range(count)]
    try:
        if hogs:
            time.sleep(5.0)
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


def drive(seconds: float) -> dict[str, float]:
    """Drive the arm for a while; what its host measured meanwhile."""
    from robolearn.core.types import Skill
    from robolearn.hal.safety import SafeRobot
    from robolearn.ros.drivers import ros2
    from robolearn.sim.tasks import peg_insert

    config = peg_insert.TIERS["default"]
    task = peg_insert.build(config)
    robot = ros2.build(ros2.of_instance("/bench"))
    rng = np.random.default_rng(0)
    safe = SafeRobot(robot, peg_insert.limits(config), epoch=int(time.time()))
    try:
        missed = float(safe.timing()["missed_deadlines"])
        end, left, steps = time.monotonic() + seconds, 0, 0
        while time.monotonic() < end:
            if left == 0:
                task.reset(safe, rng)
                raw, left = safe.observe(), config.max_steps
                task.observe(raw)
            sent = safe.apply(task.command(task.expert(raw, rng, skill=Skill.INFORMED)))
            before, raw = raw, safe.observe()
            left = 0 if task.judge(before, sent, raw).kind.is_last else left - 1
            task.observe(raw)
            steps += 1
        time.sleep(1.2)  # the status brings fresh percentiles once a second
        timing = safe.timing()
    finally:
        safe.close()
    return timing | {"missed_deadlines": timing["missed_deadlines"] - missed, "steps": float(steps)}


def tick_us(ticks: int = 4000) -> float:
    """Median time of the core's tick while it drives [us]."""
    from robolearn.hal.chain import Chain
    from robolearn.hal.host.config import preset
    from robolearn.hal.host.core import RobotHost
    from robolearn.hal.host.feedback import Reading
    from robolearn.hal.host.fence import EpochFence
    from robolearn.hal.host.wire import Order, OrderKind

    config = preset("fr3_sim")
    chain = Chain.load(config.model, config.tip)
    host = RobotHost(config, chain, EpochFence(None))
    joints = chain.solve(np.array([0.5, 0.0, 0.1, 0.0, 1.0, 0.0, 0.0]), chain.home).q
    now, number, took = 1_000_000_000, -1, []
    for index in range(ticks):
        now += 5_000_000
        orders = []
        if number >= 0 and index % 20 == 1:
            action = np.array([0.004, -0.002, 0.001, 0.0, 0.0, 0.01, 0.0])
            orders = [Order(OrderKind.DELTA, 1, 1, index, number, 0.0, action)]
        started = time.perf_counter()
        tick = host.tick(now, Reading(joints, np.zeros(7), now, now, np.zeros(6), now), orders)
        took.append(time.perf_counter() - started)
        number = tick.report.number if tick.report else number
    return 1e6 * statistics.median(took)


if __name__ == "__main__":
    main()
