"""Commits of one writer: log to disk first, then the index, in the caller's thread or in one background thread."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from robolearn.buffer.index import EpisodeRecord, Index, LogRecord
from robolearn.buffer.log import LogWriter
from robolearn.core.clock import Clock
from robolearn.core.errors import StoreError


@dataclass(frozen=True)
class WriterStats:
    """What a writer did and how the disk keeps up, for a line of metrics. All since it was opened.

    Attributes:
        rows, bytes: appended to logs.
        commits: how many times the index was told.
        last_commit_s, max_commit_s: how long the last and the longest commit took, its sync of the log included [s].
        blocked_s: time calls of the writer spent waiting for commits [s].
        unsynced_bytes: appended, but not yet known to survive a power cut.
        waiting_episodes: ended with ``wait=False``, not yet acknowledged.
    """

    rows: int
    bytes: int
    commits: int
    last_commit_s: float
    max_commit_s: float
    blocked_s: float
    unsynced_bytes: int
    waiting_episodes: int


@dataclass(frozen=True)
class Commit:
    """What one commit makes known: episodes, and how far their log reaches.

    Attributes:
        log: the log all of them lie in.
        writer: name of its writer.
        episodes: new or grown entries of the index.
        length: bytes of the log that they account for.
        sync: make the log survive a power cut first.
        durable: the index survives a power cut too; the episodes may be acknowledged.
        closed: nothing will be appended to the log any more.
    """

    log: LogWriter
    writer: str
    episodes: tuple[EpisodeRecord, ...]
    length: int
    sync: bool
    durable: bool
    closed: bool = False

    def apply(self, index: Index) -> None:
        """The index never promises what the log may not have.

        Raises:
            StoreError: the disk did not take it; nothing of it is known, and it may be tried again.
        """
        if self.sync:
            self.log.sync()
        record = LogRecord(
            self.log.path.name, self.writer, self.length, synced=min(self.log.synced, self.length), closed=self.closed
        )
        with index.transaction(durable=self.durable) as revision:
            for episode in self.episodes:
                index.put_episode(episode, revision)
            index.put_log(record)


class Committer:
    """Applies commits one after the other: ``run`` waits, ``start`` does not. At most one is under way, none is queued.

    The thread and its connection to the index are made by the first ``start``.

    Attributes:
        commits: how many were applied.
        last_ns, max_ns: how long the last one and the longest one took [ns].
        blocked_ns: time the caller spent waiting in ``run`` and ``finish`` [ns].
    """

    def __init__(self, index: Index, clock: Clock) -> None:
        self._index, self._clock = index, clock
        self._thread: ThreadPoolExecutor | None = None
        self._thread_index: Index | None = None
        self._running: tuple[Commit, Future[None]] | None = None
        self.commits = self.last_ns = self.max_ns = self.blocked_ns = 0

    @property
    def busy(self) -> bool:
        """Whether a commit is under way in the background."""
        return self._running is not None and not self._running[1].done()

    @property
    def started(self) -> bool:
        """Whether there is a background commit to finish."""
        return self._running is not None

    def start(self, commit: Commit) -> None:
        """Apply in the background; ``finish`` has to be called before the next commit."""
        if self._running is not None:
            raise StoreError("a commit is under way; finish it before starting the next one")
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="buffer-commit")
        self._running = (commit, self._thread.submit(self._apply_in_thread, commit, self._index.path))

    def finish(self) -> tuple[Commit | None, StoreError | None]:
        """Wait for the background commit; return it if it was applied, else why it was not.

        A failed one need not be raised by who commits the same and more itself.
        """
        if self._running is None:
            return None, None
        started = self._clock.now_ns()
        commit, future = self._running
        try:
            future.result()
        except StoreError as error:
            return None, error
        finally:
            if future.done():  # it is not, if the wait was interrupted
                self._running = None
            self.blocked_ns += self._since(started)
        return commit, None

    def settle(self) -> None:
        """Wait for the background commit, whatever becomes of it; ``finish`` tells."""
        if self._running is not None:
            wait([self._running[1]])

    def run(self, commit: Commit) -> None:
        """Apply and wait for it.

        Raises:
            StoreError: as ``Commit.apply``.
        """
        started = self._clock.now_ns()
        try:
            self._apply(commit, self._index)
        finally:
            self.blocked_ns += self._since(started)

    def close(self) -> None:
        """Wait for what is under way, and end the thread; idempotent."""
        if self._thread is not None:
            self._thread.submit(self._close_in_thread).result()
            self._thread.shutdown()
            self._thread = None

    def _apply_in_thread(self, commit: Commit, path: Path) -> None:
        if self._thread_index is None:  # a connection belongs to the thread that made it
            self._thread_index = Index(path, writable=True)
        self._apply(commit, self._thread_index)

    def _close_in_thread(self) -> None:
        if self._thread_index is not None:
            self._thread_index.close()
            self._thread_index = None

    def _apply(self, commit: Commit, index: Index) -> None:
        started = self._clock.now_ns()
        commit.apply(index)
        self.last_ns = self._since(started)
        self.max_ns = max(self.max_ns, self.last_ns)
        self.commits += 1

    def _since(self, started_ns: int) -> int:
        return max(0, self._clock.now_ns() - started_ns)
