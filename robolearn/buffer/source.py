"""One buffer on disk as a replay reads it."""

from __future__ import annotations

import threading

from robolearn.buffer.files import EpisodeFiles
from robolearn.buffer.filters import Filter
from robolearn.buffer.index import EpisodeRecord, Index
from robolearn.buffer.store import StorePaths


class Source:
    """A buffer to read: its own run's, or another one of which a filter selects steps. For one thread at a time.

    Every thread gets a connection to the index of its own, as SQLite wants it.

    Attributes:
        number: 0 for the own one; then the others in their order.
        select: of another one, which steps; None for the own one.
        revision: of the index when last read; -1 for never.
    """

    def __init__(self, paths: StorePaths, number: int, select: Filter | None) -> None:
        self.paths, self.number, self.select = paths, number, select
        self.revision = -1
        self._open: dict[int, tuple[Index, EpisodeFiles]] = {}
        self._here()

    @property
    def files(self) -> EpisodeFiles:
        """Its rows."""
        return self._here()[1]

    def changes(self) -> tuple[int, list[EpisodeRecord]]:
        """Revision of the index now, and what changed since ``revision``."""
        index = self._here()[0]
        revision = index.revision()
        return revision, [] if revision == self.revision else index.changes(self.revision)

    def episode(self, uuid: str) -> EpisodeRecord | None:
        """What the index says of an episode now."""
        return self._here()[0].episode(uuid)

    def close(self) -> None:
        """Close files; idempotent."""
        here = threading.get_ident()
        for thread, (index, files) in self._open.items():
            files.close()
            if thread == here:
                index.close()  # the others close when nobody refers to them any more
        self._open.clear()

    def _here(self) -> tuple[Index, EpisodeFiles]:
        thread = threading.get_ident()
        if thread not in self._open:
            alive = {t.ident for t in threading.enumerate()}
            for gone in [t for t in self._open if t not in alive]:
                self._open.pop(gone)[1].close()
            index = Index(self.paths.index, writable=False)
            try:
                self._open[thread] = (index, EpisodeFiles(self.paths, index))
            except BaseException:
                index.close()
                raise
        return self._open[thread]
