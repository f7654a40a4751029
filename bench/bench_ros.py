"""Transport of a simulated arm over ROS 2: latency of joint states at 500 Hz, images received, processor time.

    python bench/bench_ros.py [--rounds N] [--seconds S] [--load N]

The arm (and its camera process: one camera, 640x480 at 30 Hz, raw) and the subscriber are processes of their own; the
subscriber gets joint states through callbacks of a SingleThreadedExecutor and takes images by polling. Latency is from
the stamp of a joint state to its callback, both in the wall time of this machine. Under load, ``--load`` processes
(default: one for each core) multiply matrices without a pause, at normal priority. ``take`` is the time of polling a
subscription in which nothing, or one joint state, waits.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from common import table, write

SPACE, CAMERA, CAMERA_HZ, JOINT_HZ = "/bench", "side", 30.0, 500.0
TARGETS = {"joint_p50_ms": 1.0, "images_percent": 95.0}
_HOG = "import numpy as np\na = np.random.rand(400, 400)\nwhile True:\n    a = a @ a / np.linalg.norm(a)\n"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--load", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--subscribe", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.subscribe:
        print(json.dumps(subscribe(options.subscribe)))
        return
    os.environ |= {
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_DOMAIN_ID": str(1 + os.getpid() % 100),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    cases = {"quiet": 0, f"load {options.load}": options.load}
    rows: dict[str, list[dict[str, float]]] = {case: [] for case in cases}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ROS_LOG_DIR"] = folder
        with arm(folder) as process:
            for number in range(options.rounds):
                for case, hogs in cases.items():
                    with load(hogs):
                        rows[case].append(measure(process, options.seconds))
                    print(f"round {number + 1}, {case}: {rows[case][-1]}", file=sys.stderr)
        takes = take_us()
    medians = {
        case: {key: round(statistics.median(row[key] for row in found), 3) for key in found[0]}
        for case, found in rows.items()
    }
    print(
        table([{"case": case, **values} for case, values in medians.items()], ["case", *next(iter(medians.values()))])
    )
    print(f"take: {takes['empty_us']:.1f} us of nothing, {takes['joint_state_us']:.1f} us of a joint state")
    results = {
        "rounds": options.rounds,
        "seconds": options.seconds,
        "targets": TARGETS,
        "cases": medians,
        "take": takes,
    }
    write("ros", results | {"rounds_raw": rows})


@contextmanager
def arm(folder: str) -> Iterator[psutil.Process]:
    """A running arm."""
    command = [sys.executable, "-m", "robolearn.ros.sim_arm", "--ros-args", "-r", f"__ns:={SPACE}"]
    command += ["-p", f"cameras:=[{CAMERA}]", "-p", f"camera_hz:={CAMERA_HZ}"]
    said = Path(folder) / "arm.txt"
    with said.open("w") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            while "ready" not in said.read_text():
                if child.poll() is not None:
                    raise SystemExit(f"the arm did not start: {said.read_text()}")
                time.sleep(0.1)
            yield psutil.Process(child.pid)
        finally:
            child.terminate()
            child.wait(10)


@contextmanager
def load(hogs: int) -> Iterator[None]:
    """Busy processes."""
    children = [subprocess.Popen([sys.executable, "-c", _HOG]) for _ in range(hogs)]
    try:
        time.sleep(0.5 if hogs else 0.0)
        yield
    finally:
        for child in children:
            child.kill()
            child.wait()


def measure(process: psutil.Process, seconds: float) -> dict[str, float]:
    """One round: what a subscriber of its own process saw, and what the arm's processes used."""
    (cameras,) = process.children()
    processes = {"arm": process, "cameras": cameras}
    command = [sys.executable, __file__, "--subscribe", str(seconds)]
    before = {name: sum(one.cpu_times()[:2]) for name, one in processes.items()}
    begin = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=60 + 3 * seconds)
    took = time.monotonic() - begin
    used = {
        f"cpu_{name}_percent": 100 * (sum(one.cpu_times()[:2]) - before[name]) / took for name, one in processes.items()
    }
    return {key: round(value, 3) for key, value in {**json.loads(done.stdout), **used}.items()}


def subscribe(seconds: float) -> dict[str, float]:
    """Listen for some seconds after the first joint state and image."""
    from robolearn.ros import context

    rclpy = context.require_rclpy()
    from rclpy.executors import SingleThreadedExecutor
    from sensor_msgs.msg import Image, JointState

    latencies: list[float] = []
    joints: list[float] = []

    def arrived(message: Any) -> None:
        stamp = message.header.stamp.sec + 1e-9 * message.header.stamp.nanosec
        latencies.append(time.time() - stamp)
        joints.append(stamp)

    with context.context() as ros:
        node = rclpy.create_node("bench", namespace=SPACE, context=ros)
        node.create_subscription(JointState, "joint_states", arrived, context.NEWEST)
        images = context.Newest(node, Image, f"{CAMERA}/image_raw")
        executor = SingleThreadedExecutor(context=ros)
        executor.add_node(node)
        deadline = time.monotonic() + 20
        while (not joints or images.take() is None) and time.monotonic() < deadline:
            executor.spin_once(timeout_sec=0.1)
        settled = time.monotonic() + 0.5
        while time.monotonic() < settled:
            executor.spin_once(timeout_sec=0.01)
            images.take()
        latencies.clear(), joints.clear()
        stamps: list[float] = []
        cpu, end = time.process_time(), time.monotonic() + seconds
        while time.monotonic() < end:
            executor.spin_once(timeout_sec=0.01)
            if (image := images.take()) is not None:
                stamps.append(image.header.stamp.sec + 1e-9 * image.header.stamp.nanosec)
        cpu = time.process_time() - cpu
        executor.shutdown()
        node.destroy_node()
    p50, p99 = np.percentile(1e3 * np.array(latencies), [50, 99])
    return {
        "joint_p50_ms": float(p50),
        "joint_p99_ms": float(p99),
        "joint_max_ms": 1e3 * max(latencies),
        "joint_percent": 100 * len(joints) / (seconds * JOINT_HZ),
        "images_percent": 100 * len(stamps) / (seconds * CAMERA_HZ),
        "cpu_subscriber_percent": 100 * cpu / seconds,
        "load_average": os.getloadavg()[0],
    }


def take_us() -> dict[str, float]:
    """Time of ``Newest.take`` [us], empty and with one joint state, in one process."""
    from robolearn.ros import context

    rclpy = context.require_rclpy()
    from sensor_msgs.msg import JointState

    with context.context() as ros:
        node = rclpy.create_node("take", context=ros)
        out = node.create_publisher(JointState, "joint_states", context.STATE)
        newest = context.Newest(node, JointState, "joint_states")
        while not out.get_subscription_count():
            time.sleep(0.01)
        message = JointState(name=[f"fr3_joint{i}" for i in range(7)])
        message.position = message.velocity = message.effort = [0.0] * 7
        times: dict[str, list[float]] = {"empty_us": [], "joint_state_us": []}
        for _ in range(1000):
            for case in times:
                if case != "empty_us":
                    out.publish(message)
                    time.sleep(0.0005)
                begin = time.perf_counter()
                taken = newest.take()
                if (taken is None) == (case == "empty_us"):
                    times[case].append(1e6 * (time.perf_counter() - begin))
        node.destroy_node()
    return {case: round(statistics.median(values), 2) for case, values in times.items()}


if __name__ == "__main__":
    main()
