"""Merge: episodes of several buffers in one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from robolearn.buffer.filters import Filter
from robolearn.buffer.store import StorePaths, read_schema
from robolearn.buffer.transfer import Copied, check_schema, copy_episodes
from robolearn.core.errors import StoreError


@dataclass(frozen=True)
class Merged:
    """What ``merge`` did.

    Attributes:
        target: the buffer that has all now.
        sources: source -> what was copied from it.
    """

    target: Path
    sources: dict[Path, Copied] = field(default_factory=dict)

    @property
    def episodes(self) -> int:
        """Episodes copied by this call."""
        return sum(copied.episodes for copied in self.sources.values())

    @property
    def steps(self) -> int:
        """Steps copied by this call."""
        return sum(copied.steps for copied in self.sources.values())

    @property
    def known(self) -> int:
        """Episodes that were there already."""
        return sum(copied.known for copied in self.sources.values())


def merge(sources: Sequence[Path], target: Path, *, select: str = "") -> Merged:
    """Copy complete episodes of other buffers of the same schema into one; the sources are only read.

    Episodes keep ids, robot, task, times, success, tags and corrections. Call again after an interruption, or when
    the sources have grown: what is there already is not copied again.

    Args:
        sources: buffers to copy from.
        target: buffer to copy into; made with the schema of the first source when it does not exist.
        select: a filter (see ``filters``); an episode is copied whole if any of its steps passes.

    Raises:
        StoreError: a source is no buffer, is the target, or has another schema (nothing is copied then), or the filter
            makes no sense, or the target does not take it.
        CorruptDataError: a source is damaged; what was copied before stays.
    """
    Filter.parse(select)
    if not sources:
        raise StoreError("merge: expected at least one buffer to copy from, got none")
    sources, target = [Path(source) for source in sources], Path(target)
    schema = read_schema(target if StorePaths(target).schema.exists() else sources[0])
    for source in sources:
        if source.resolve() == target.resolve():
            raise StoreError(f"merge: {source} is the target as well")
        check_schema(source, schema)
    merged = Merged(target)
    for source in sources:
        merged.sources[source] = copy_episodes(source, target, schema, select=select)
    return merged
