"""Our buffer behind the few calls the bench needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from buffer_data import Workload
from buffer_peers import HORIZON, OBSERVATIONS
from buffer_timing import System

from robolearn.buffer.replay import Replay


def replay(root: Path, workload: Workload, **more: Any) -> Replay:
    """A replay over a buffer, with everything taken in; ``more`` goes to its constructor."""
    found = Replay(root, workload.schema, **more)
    try:
        found.refresh()
    except BaseException:
        found.close()
        raise
    return found


def transitions(replay: Replay, workload: Workload) -> System:
    """Draws transitions uniformly over everything."""
    return lambda: replay.sample(workload.batch, demo_fraction=0.0)


def chunks(replay: Replay, workload: Workload) -> System:
    """Draws observation histories with action chunks."""
    return lambda: replay.sample_chunks(workload.batch, history=OBSERVATIONS, chunk=HORIZON, demo_fraction=0.0)
