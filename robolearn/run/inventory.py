"""What is in a replay buffer, from its index alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from robolearn.buffer.index import EpisodeRecord, Index
from robolearn.buffer.store import StorePaths, read_schema
from robolearn.core.errors import StoreError


def inventory(root: Path) -> dict[str, Any]:
    """Episodes and steps of a buffer (or of a run's buffer), by source, demonstration, success and robot.

    Raises:
        StoreError: there is no buffer, or its index cannot be read.
    """
    root = buffer_root(root)
    paths = StorePaths(root)
    schema = read_schema(root)
    index = Index(paths.index, writable=False)
    try:
        records = [record for record in index.changes() if record.state != "dropped"]
    finally:
        index.close()
    return {
        "buffer": str(root),
        "bytes": sum(file.stat().st_size for file in root.rglob("*") if file.is_file()),
        "observation": {key: list(spec.shape) for key, spec in schema.observation.items()},
        "action": list(schema.action.shape),
        "episodes": len(records),
        "steps": sum(record.transitions for record in records),
        "open_episodes": sum(record.state == "open" for record in records),
        "recovered_episodes": sum(record.recovered for record in records),
        "successes": sum(record.success for record in records),
        "demo_steps": sum(record.transitions for record in records if record.demo),
        "intervention_steps": sum(record.interventions for record in records),
        "steps_by_source": _steps(records, "source"),
        "steps_by_robot": _steps(records, "robot"),
    }


def steps_of_writer(root: Path, writer: str) -> int:
    """Steps in the buffer ``root`` that were appended under a writer's name.

    Raises:
        StoreError: its index cannot be read.
    """
    index = Index(StorePaths(root).index, writable=False)
    try:
        return sum(record.transitions for record in index.of_writer(writer))
    finally:
        index.close()


def buffer_root(root: Path) -> Path:
    """The buffer in ``root``, which may be a run directory.

    Raises:
        StoreError: there is none.
    """
    for candidate in (root, root / "buffer"):
        if StorePaths(candidate).schema.is_file():
            return candidate
    raise StoreError(f"no buffer in {root} (expected {StorePaths(root).schema.name} there or in its buffer/)")


def _steps(records: list[EpisodeRecord], attribute: str) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for record in records:
        counts[getattr(record, attribute)] += record.transitions
    return dict(counts.most_common())
