"""Whether a pruned buffer is sound, for the tests."""

from __future__ import annotations

from pathlib import Path

from buffer_rows import IMAGES, episode, same

from robolearn.buffer.files import EpisodeFiles
from robolearn.buffer.index import EpisodeRecord, Index
from robolearn.buffer.rows import unpack
from robolearn.buffer.selecting import wherever
from robolearn.buffer.store import StorePaths
from robolearn.buffer.verify import verify
from robolearn.core.types import Source, Transition

STEPS = 6


def intact(root: Path) -> set[str]:
    """Ids of the episodes that are there; raises if one is not as it was written, or the buffer is not sound."""
    report = verify(root)
    assert report.ok, report.problems
    index = Index(StorePaths(root).index, writable=False)
    try:
        with EpisodeFiles(StorePaths(root), index) as files:
            found = {r.uuid for r in index.changes() if r.state != "dropped" and check(r, index, files)}
    finally:
        index.close()
    return found


def check(record: EpisodeRecord, index: Index, files: EpisodeFiles) -> bool:
    """Read an episode; False when it is dropped meanwhile."""
    rows = wherever(record, index, files.rows)
    if rows is None:
        return False
    stored = [unpack(r, files.schema) for r in rows]
    assert same(stored, written(stored))
    return True


def written(stored: list[Transition]) -> list[Transition]:
    """What was written under the number of an episode."""
    humans = [t.index for t in stored if t.source is Source.HUMAN]
    number = int(stored[0].observation["count"]) // 1000
    return episode(number, STEPS, humans=humans, schema=IMAGES)[: len(stored)]
