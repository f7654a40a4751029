"""A buffer whose images are five times as large as the memory they may take."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from buffer_rows import uuid_of

from robolearn.buffer.replay import Replay
from robolearn.buffer.schema import Schema
from robolearn.buffer.seal import seal
from robolearn.buffer.writer import Writer
from robolearn.core.spec import ArraySpec
from robolearn.core.types import Array, Kind, Source, Transition

FRAME = (64, 64, 3)
SCHEMA = Schema(
    {"camera": ArraySpec("camera", FRAME, "uint8", "rgb"), "q": ArraySpec("q", (2,), unit="rad")},
    ArraySpec("action", (2,), low=-1.0, high=1.0),
)
BUDGET = 24 << 20
TIMES = 5
STEPS = 99
BATCH = 64
MARGIN = 12 << 20
"""Rows on their way from disk (at most 8 MiB at once), and what the allocator keeps; batches are in the baseline."""


def image(number: int, index: int) -> Array:
    """That of a row; no two are alike."""
    return np.random.default_rng([number, index]).integers(0, 256, FRAME, np.uint8)


def write(root: Path, numbers: Sequence[int], name: str) -> None:
    with Writer(root, SCHEMA, name=name, robot="arm", task="peg", log_bytes=16 << 20) as w:
        for number in numbers:
            for index in range(STEPS + 1):
                kind = Kind.FIRST if index == 0 else Kind.TERMINATED if index == STEPS else Kind.MID
                action = np.full(2, index / 100, np.float32) * (index > 0)
                w.append(
                    Transition(
                        episode=uuid_of(number),
                        index=index,
                        observation={"camera": image(number, index), "q": np.array([number, index], np.float32)},
                        proposed=action,
                        executed=action,
                        human=None,
                        source=Source.POLICY,
                        reward=float(index),
                        discount=1.0 if kind.bootstraps else 0.0,
                        kind=kind,
                        policy_version=0,
                        stamp_ns=index,
                    )
                )
            w.end_episode(True, demo=number % 4 == 0)


def status(name: str) -> int:
    """A size of this process [bytes]."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))


def draw(root: Path, mode: str, batches: int) -> set[int]:
    """Draw, and compare every row with what was written; numbers of the episodes seen."""
    seen = set()
    with Replay(root, SCHEMA, ram_bytes=BUDGET, mode=mode) as replay:  # type: ignore[arg-type]
        replay.refresh()
        with replay.prefetch(BATCH, demo_fraction=0.25) as ahead:
            for _ in range(batches):
                batch = next(ahead)
                for row, (number, index) in enumerate(batch.next_observation["q"].astype(int).tolist()):
                    assert np.array_equal(batch.observation["q"][row], [number, index - 1])
                    assert np.array_equal(batch.next_observation["camera"][row], image(number, index))
                    assert np.array_equal(batch.observation["camera"][row], image(number, index - 1))
                    assert batch.reward[row] == index
                    assert batch.action[row, 0] == np.float32(index / 100)
                    assert batch.discount[row] == (index < STEPS)
                    seen.add(number)
                assert sum(batch.next_observation["q"][:, 0] % 4 == 0) == BATCH // 4
        assert replay.metrics()["ram_bytes"] <= BUDGET + 100 * replay.rows  # and tables of where each row is
    return seen


def main(small: Path, large: Path, mode: str) -> None:
    """Print what sampling took of memory at most, over what a process has that sampled a little [bytes]."""
    draw(small, mode, 2)  # imports, thread stacks, outputs
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    seen = draw(large, mode, 400)
    sys.stdout.write(f"{len(seen)} {status('VmHWM') - before}\n")


@pytest.fixture(scope="module")
def buffers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One of a few episodes, and the large one: half in segments, half in logs."""
    folder = tmp_path_factory.mktemp("beyond")
    write(folder / "small", range(2), "a")
    write(folder / "large", range(episodes() // 2), "a")
    seal(folder / "large", everything=True)
    write(folder / "large", range(episodes() // 2, episodes()), "b")
    return folder / "small", folder / "large"


def episodes() -> int:
    """So many that their images are ``TIMES`` as large as the budget."""
    return -(-TIMES * BUDGET // ((STEPS + 1) * int(np.prod(FRAME))))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", ["exact", "cached"])
def test_all_of_it_is_sampled_and_memory_stays_within_the_budget(buffers: tuple[Path, Path], mode: str) -> None:
    script = f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    script += "from test_buffer_beyond_ram import *\nmain(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])"
    command = [sys.executable, "-c", script, *map(str, buffers), mode]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    seen, peak = map(int, done.stdout.split())
    assert seen == episodes()
    assert peak <= BUDGET + MARGIN, f"{peak >> 20} MiB"
    assert peak > BUDGET // 2  # it does use what it may
