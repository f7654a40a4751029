"""What is in a replay buffer, from its index alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from robolearn.buffer.index import EpisodeRecord, Index
from robolearn.buffer.retain import disk_use, is_pinned
from robolearn.buffer.store import StorePaths, read_schema
from robolearn.core.errors import StoreError


def inventory(root: Path) -> dict[str, Any]:
    """Episodes, steps and files of a buffer (or of a run's buffer), and what they consist of.

    Returns:
        Counts; times are wall-clock [ns]. ``composition`` has one entry per robot, task and source; ``source`` is who
        executed most steps of an episode.

    Raises:
        StoreError: there is no buffer, or its index cannot be read.
    """
    root = buffer_root(root)
    paths = StorePaths(root)
    schema = read_schema(root)
    index = Index(paths.index, writable=False)
    try:
        with index.snapshot():
            found = index.changes()
            segments = [s for s in index.segments().values() if s.state == "live"]
            logs = [log for log in index.logs().values() if log.length or not log.closed]
    finally:
        index.close()
    records = [record for record in found if record.state != "dropped"]
    pinned = [record for record in records if is_pinned(record)]
    held = {record.segment for record in pinned}
    use = disk_use(paths)
    return {
        "buffer": str(root),
        "bytes": use.total,
        "log_bytes": use.logs,
        "segment_bytes": use.segments,
        "index_bytes": use.index,
        "damaged_bytes": use.damaged,
        "segments": len(segments),
        "logs": len(logs),
        "observation": {key: list(spec.shape) for key, spec in schema.observation.items()},
        "action": list(schema.action.shape),
        "episodes": len(records),
        "steps": _total(records),
        "open_episodes": sum(record.state == "open" for record in records),
        "dropped_episodes": len(found) - len(records),
        "recovered_episodes": sum(record.recovered for record in records),
        "successes": sum(record.success for record in records),
        "demo_steps": _total([record for record in records if record.demo]),
        "intervention_steps": sum(record.interventions for record in records),
        "relabelled_episodes": sum(record.relabels > 0 for record in records),
        "oldest_unix_ns": min((record.unix_ns for record in records), default=None),
        "newest_unix_ns": max((record.unix_ns for record in records), default=None),
        "policy_versions": _versions(records),
        "pinned_episodes": len(pinned),
        "pinned_steps": _total(pinned),
        "pinned_segments": sum(segment.name in held for segment in segments),
        "pinned_bytes": sum(segment.bytes for segment in segments if segment.name in held),
        "steps_by_source": _steps(records, "source"),
        "steps_by_robot": _steps(records, "robot"),
        "steps_by_task": _steps(records, "task"),
        "composition": _composition(records),
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


def _composition(records: Sequence[EpisodeRecord]) -> list[dict[str, Any]]:
    groups: dict[tuple[str, str, str], list[EpisodeRecord]] = {}
    for record in records:
        groups.setdefault((record.robot, record.task, record.source), []).append(record)
    return [
        {
            "robot": robot,
            "task": task,
            "source": source,
            "episodes": len(group),
            "steps": _total(group),
            "successes": sum(record.success for record in group),
            "demos": sum(record.demo for record in group),
            "intervention_steps": sum(record.interventions for record in group),
            "policy_versions": _versions(group),
        }
        for (robot, task, source), group in sorted(groups.items())
    ]


def _versions(records: Sequence[EpisodeRecord]) -> list[int] | None:
    """Smallest and largest version of the weights that acted, of episodes in which any did (-1: none)."""
    acted = [record for record in records if record.transitions and record.policy_max >= 0]
    if not acted:
        return None
    return [min(record.policy_min for record in acted), max(record.policy_max for record in acted)]


def _total(records: Sequence[EpisodeRecord]) -> int:
    return sum(record.transitions for record in records)


def _steps(records: Sequence[EpisodeRecord], attribute: str) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for record in records:
        counts[getattr(record, attribute)] += record.transitions
    return dict(counts.most_common())
