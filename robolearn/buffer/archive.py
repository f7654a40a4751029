"""Archiving: images of old segments become JPEG files, which take a fraction of the disk and are not quite the same."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robolearn.buffer.files import EpisodeFiles
from robolearn.buffer.filters import Filter
from robolearn.buffer.index import EpisodeRecord, Index, SegmentRecord
from robolearn.buffer.jpeg import encodable, encoded
from robolearn.buffer.log import storage_error
from robolearn.buffer.retain import alone, by_age, is_pinned, unfinished, why_not
from robolearn.buffer.segment import SegmentReader, remove_segment, remove_unused, write_segment
from robolearn.buffer.store import StorePaths, read_versions
from robolearn.buffer.versions import Versions
from robolearn.core.errors import CorruptDataError, StoreError
from robolearn.core.files import fsync_dir

QUALITY = 95
"""Of the JPEG files, 1 to 100."""
_READ_BYTES = 8 << 20


@dataclass(frozen=True)
class Recoded:
    """A segment whose images became JPEG files (or would).

    Attributes:
        segment: its name before.
        bytes: its size before.
        archive: name of the segment that has its episodes now; empty for a dry run.
        archive_bytes: size of that.
    """

    segment: str
    bytes: int
    archive: str
    archive_bytes: int
    episodes: int
    steps: int


@dataclass
class Archived:
    """What ``archive`` did, or would do.

    Attributes:
        recoded: segments whose images are JPEG files now, oldest first.
        kept: segment -> why it stays as it is, of those that were old enough to be asked and are no archives.
        waiting: segments that were replaced, whose files go with the next call, since a reader has them open.
        dry_run: nothing was changed.
    """

    dry_run: bool
    recoded: list[Recoded] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)

    @property
    def freed(self) -> int:
        """Bytes that archives are smaller; 0 for a dry run."""
        return sum(one.bytes - one.archive_bytes for one in self.recoded if one.archive)


def archive(
    root: Path,
    *,
    older_than_s: float | None = None,
    select: str = "",
    keys: Sequence[str] = (),
    quality: int = QUALITY,
    pinned: bool = False,
    dry_run: bool = False,
    patience_s: float = 30.0,
    unix_ns: Callable[[], int] = time.time_ns,
) -> Archived:
    """Recode images of whole segments, oldest first, as JPEG. Others may write, read and sample meanwhile.

    This cannot be undone: images read a little differently from then on, all else is the same bit by bit. Images that
    are not (H, W, 1) or (H, W, 3) stay as they are. A segment stays as it is if it is an archive already, if it would
    not become smaller, and if one of its episodes is pinned (see ``prune``). A crash at any moment leaves either the
    segment or its archive in charge; files it leaves are removed by the next call, or by ``seal`` or ``prune``.

    Args:
        root: directory of the buffer.
        older_than_s: only segments all of whose episodes are older [s]; None for any age.
        select: a filter (see ``filters``); only segments all of whose steps pass.
        keys: only these images, others stay as they are; () for all. Masks and depth are better left out.
        quality: 1 to 100; colours are kept at full resolution (4:4:4).
        pinned: segments with pinned episodes too.
        dry_run: only say what would be done.
        patience_s: how long to wait for another process that seals, prunes or repairs [s].
        unix_ns: wall-clock time [ns].

    Raises:
        StoreError: an argument makes no sense, another process does not let go, or the disk does not take it.
        CorruptDataError: the index is damaged.
    """
    if not 1 <= quality <= 100:
        raise StoreError(f"archive: expected a quality of 1 to 100, got {quality}")
    if older_than_s is not None and not older_than_s >= 0:
        raise StoreError(f"archive: expected an age of at least 0 s, got {older_than_s}")
    paths, passes, versions = StorePaths(Path(root)), Filter.parse(select), read_versions(root)
    for key in keys:
        if key not in versions.newest.images or not encodable(versions.newest.observation[key].shape):
            fit = [k for k in versions.newest.images if encodable(versions.newest.observation[k].shape)]
            raise StoreError(f"archive: '{key}' is no image that JPEG takes; have: {', '.join(fit) or 'none'}")
    before_ns = math.inf if older_than_s is None else unix_ns() - older_than_s * 1e9
    try:
        paths.segments.mkdir(exist_ok=True)
        index = Index(paths.index, writable=not dry_run)
        try:
            archiver = _Archiver(paths, versions, index, passes, tuple(keys), quality, pinned, dry_run, patience_s)
            return archiver.run(before_ns)
        finally:
            index.close()
    except BlockingIOError as error:
        raise StoreError(f"buffer {root} is being sealed, pruned or repaired by another process") from error
    except OSError as error:
        raise storage_error(f"cannot archive segments of buffer {root}", error) from error


@dataclass
class _Archiver:
    paths: StorePaths
    versions: Versions
    index: Index
    passes: Filter
    keys: tuple[str, ...]
    quality: int
    pinned: bool
    dry_run: bool
    patience_s: float

    def run(self, before_ns: float) -> Archived:
        """One segment after another; others may seal and prune in between."""
        done = Archived(self.dry_run)
        self._finish(done)
        for newest, _, segment in by_age(self.index):
            if newest >= before_ns:
                break
            with alone(self.paths, self.patience_s):
                now = self.index.segments().get(segment.name)
                if now is not None and now.state == "live" and (why := self._one(now, done)):
                    done.kept[segment.name] = why
        self._finish(done)
        return done

    def _finish(self, done: Archived) -> None:
        """Remove what a crash left, and what readers have let go."""
        if not self.dry_run:
            with alone(self.paths, self.patience_s):
                done.waiting = unfinished(self.paths, self.index)

    def _one(self, segment: SegmentRecord, done: Archived) -> str:
        """Archive one segment; why it stays as it is, or empty."""
        path = self.paths.segments / segment.name
        try:
            reader = SegmentReader(path, self.versions)
        except CorruptDataError as error:
            return f"is damaged, repair the buffer: {error}"
        try:
            if reader.jpeg:
                return ""
            wanted = [k for k in reader.schema.images if encodable(reader.schema.observation[k].shape)]
            wanted = [k for k in wanted if k in self.keys or not self.keys]
            if not wanted:
                return "has no image that JPEG takes"
            with EpisodeFiles(self.paths, self.index, handles=1) as files:
                why = why_not(segment, self.index, files, self.passes, pinned_too=self.pinned)
            return why or self._recoded(segment, reader, wanted, done)
        except CorruptDataError as error:
            return f"is damaged, repair the buffer: {error}"
        finally:
            reader.close()

    def _recoded(self, segment: SegmentRecord, reader: SegmentReader, keys: list[str], done: Archived) -> str:
        episodes = self.index.of_segment(segment.name)
        live = [r for r in episodes if r.state != "dropped"]
        told = Recoded(segment.name, segment.bytes, "", 0, len(live), sum(r.transitions for r in live))
        if self.dry_run:
            done.recoded.append(told)
            return ""
        new = self._written(segment, reader, episodes, keys)
        try:
            why = "would not become smaller" if new.bytes >= segment.bytes else self._hand_over(segment, new, episodes)
        except StoreError:
            self._remove(new)
            raise
        if why:
            self._remove(new)
            return why
        done.recoded.append(dataclasses.replace(told, archive=new.name, archive_bytes=new.bytes))
        reader.close()
        with suppress(OSError):  # left to the next call
            remove_unused(self.paths.segments / segment.name)
        return ""

    def _written(
        self, segment: SegmentRecord, reader: SegmentReader, episodes: Sequence[EpisodeRecord], keys: list[str]
    ) -> SegmentRecord:
        """The archive of a segment: the same episodes in the same rows."""
        places = np.cumsum([0, *(r.rows for r in episodes)]).tolist()
        if [r.first_row for r in episodes] != places[:-1] or reader.rows != places[-1]:
            raise CorruptDataError(f"segment {segment.name}: its rows are not those of its episodes in the index")
        name = self._free_name(segment.name)
        tmp = self.paths.segments / f"{name}.tmp"
        size = write_segment(
            tmp,
            reader.schema,
            writer=segment.writer,
            logs=reader.logs,
            episodes=episodes,
            parts=_parts(reader, episodes, keys),
            jpeg={key: _encoded(reader, key, self.quality) for key in keys},
        )
        os.rename(tmp, self.paths.segments / name)
        fsync_dir(self.paths.segments)
        return SegmentRecord(name, segment.writer, segment.rows, size)

    def _free_name(self, name: str) -> str:
        known, number = self.index.segments(), 1
        while f"{name}.jpeg{number}" in known or (self.paths.segments / f"{name}.jpeg{number}").exists():
            number += 1
        return f"{name}.jpeg{number}"

    def _hand_over(self, old: SegmentRecord, new: SegmentRecord, episodes: Sequence[EpisodeRecord]) -> str:
        """One transaction: the archive is in charge from here on; why the segment must stay after all, or empty."""
        with self.index.transaction(durable=True) as revision:
            found = self.index.of_segment(old.name)  # they may have been edited meanwhile
            if not self.pinned and any(map(is_pinned, found)):
                return "was edited meanwhile"
            if [(r.uuid, r.place, r.rows) for r in found] != [(r.uuid, r.place, r.rows) for r in episodes]:
                raise StoreError(f"segment {old.name} changed while it was archived; archive again")
            self.index.put_segment(new)
            for record in found:
                self.index.move_episode(dataclasses.replace(record, segment=new.name), revision)
            self.index.put_segment(dataclasses.replace(old, state="dropped"))
        return ""

    def _remove(self, new: SegmentRecord) -> None:
        with suppress(OSError):  # left to the next call
            remove_segment(self.paths.segments / new.name)


def _parts(reader: SegmentReader, episodes: Sequence[EpisodeRecord], without: list[str]) -> Iterator[NDArray[Any]]:
    """Rows of episodes, a few MB at a time, without some images."""
    step = _step(reader)
    for record in episodes:
        for first in range(0, record.rows, step):
            yield reader.whole(record, first, min(step, record.rows - first), without=without)


def _encoded(reader: SegmentReader, key: str, quality: int) -> Iterator[bytes]:
    """JPEG files of all images of a key."""
    step = _step(reader)
    images = np.empty((step, *reader.schema.observation[key].shape), np.uint8)
    for first in range(0, reader.rows, step):
        rows = np.arange(first, min(first + step, reader.rows))
        reader.segment_images(key, rows, images[: len(rows)])
        for image in images[: len(rows)]:
            yield encoded(image, quality)


def _step(reader: SegmentReader) -> int:
    return max(1, _READ_BYTES // reader.schema.row.itemsize)
