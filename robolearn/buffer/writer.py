"""Writer: the only way rows get into a buffer. One per process that produces data."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from robolearn.buffer.commit import Commit, Committer, WriterStats
from robolearn.buffer.episode_log import EpisodeLog, OpenEpisode, OpenLog, Origin, last_number
from robolearn.buffer.index import EpisodeRecord, Index
from robolearn.buffer.log import LogWriter, storage_error
from robolearn.buffer.recover import recover_writer
from robolearn.buffer.schema import Schema
from robolearn.buffer.store import check_name, locked, open_store
from robolearn.core.clock import Clock, MonotonicClock
from robolearn.core.errors import StoreError
from robolearn.core.types import Kind, Transition

GROUP = 64
"""Ended episodes that may wait for their commit together; the one that fills the group waits for it."""
MAX_UNSYNCED_BYTES = 64 << 20
"""Appended bytes that a power cut could take; ``append`` waits for the disk before it goes beyond."""


class Writer:
    """Appends episodes to a buffer under a name of its own. Use from one thread; a context manager.

    What a crash left open under this name is recovered first: its whole rows are kept as a truncated episode.

    **When it is safe.** A row whose ``append`` has returned survives a kill of the process. An episode whose
    ``end_episode`` has returned also survives a power cut. Rows of an open episode get there in the background: a
    commit is started by the first ``append`` that finds the last one ``commit_every_s`` old and finished. A failure
    of it is raised by the next ``append``. Nothing queues up: one commit runs at a time, and ``append`` waits once
    ``MAX_UNSYNCED_BYTES`` are not on disk (see ``stats``).

    **Long episodes.** A log is closed at the end of the first episode that takes it past ``log_bytes``; only then can
    it be sealed. An episode that does not end for hours (robots that need no reset) would keep it open, so it is split
    when the log is that large and the episode longer than ``split_rows``: what there is becomes a truncated episode,
    and the rest another one, in a new log, with an id of its own, that begins with the observation the first part
    ended with. No transition is lost and a truncation bootstraps; n-step returns, histories and chunks do not reach
    over the cut. Splitting was preferred to extents over several logs, since every reader, recovery and sealing can
    rely on an episode being one run of rows. When the episode ends its parts take over ``success`` and ``demo``.

    Args:
        root: directory of the buffer; made when it does not exist.
        schema: what its rows hold.
        name: name of this writer; one process at a time may hold it.
        robot, task: written into every episode.
        demo: whether its episodes are demonstrations (``end_episode`` can decide otherwise).
        commit_every_s: how often rows of an open episode become visible to readers and safe from a power cut [s].
        log_bytes: size at which a log is closed.
        split_rows: length up to which an episode is never split.
        partial: keep an episode that a crash cut short; False discards it (a copy can be made again) and splits none.
        clock: when to commit.
        unix_ns: wall-clock time, for people [ns].
        open_log: makes log files.

    Raises:
        StoreError: another schema, a name that is taken, or a directory that cannot be written.
    """

    def __init__(
        self,
        root: Path,
        schema: Schema,
        *,
        name: str,
        robot: str,
        task: str,
        demo: bool = False,
        commit_every_s: float = 0.25,
        log_bytes: int = 128 << 20,
        split_rows: int = 10_000,
        partial: bool = True,
        clock: Clock | None = None,
        unix_ns: Callable[[], int] = time.time_ns,
        open_log: OpenLog = LogWriter,
    ) -> None:
        check_name(name)
        self.schema, self.name, self.robot, self.task, self.demo = schema, name, robot, task, demo
        self._commit_every_ns, self._partial = int(commit_every_s * 1e9), partial
        self._log_bytes, self._split_rows = log_bytes, max(split_rows, 2)
        self._clock: Clock = clock or MonotonicClock()
        self._pid = os.getpid()
        self._ended: list[EpisodeRecord] = []  # complete in the log, not yet acknowledged
        self._unsaid = False  # end_episode failed after the end was in the log: it may be called again
        self._indexed_rows = self._synced_rows = 0  # of the present part
        self._last_commit_ns = self._clock.now_ns()
        self._paths = open_store(Path(root), schema)
        with ExitStack() as stack:
            self._hold_name(stack)
            self._index = Index(self._paths.index, writable=True)
            stack.callback(self._index.close)
            try:
                recover_writer(self._paths, schema, self._index, name)
            except OSError as error:
                raise storage_error(f"cannot recover what writer '{name}' left in {root}", error) from error
            done = self._index.of_writer(name)
            newest = last_number(self._paths, self._index, name)
            self._logs = EpisodeLog(self._paths, schema, Origin(name, robot, task, partial), newest, unix_ns, open_log)
            self._committer = Committer(self._index, self._clock)
            stack.callback(self._committer.close)
            self._resources: ExitStack | None = stack.pop_all()
        self.transitions = sum(r.transitions for r in done)
        """Steps ever appended under this name."""
        self.episodes = len(done)
        """Episodes ever acknowledged under this name, those cut short by a crash included."""
        self.successes = sum(r.success and r.state == "complete" for r in done)
        """Episodes among them that succeeded."""
        _WRITERS.add(self)

    @property
    def stats(self) -> WriterStats:
        """Counters and waiting times."""
        c = self._committer
        return WriterStats(
            rows=self._logs.rows,
            bytes=self._logs.bytes,
            commits=c.commits,
            last_commit_s=c.last_ns * 1e-9,
            max_commit_s=c.max_ns * 1e-9,
            blocked_s=c.blocked_ns * 1e-9,
            unsynced_bytes=self._logs.unsynced,
            waiting_episodes=len(self._ended),
        )

    def append(self, transition: Transition) -> None:
        """Append one row. When this returns the row survives a kill of this process.

        Rows come in the order of an episode: index 0 is FIRST, the last is TERMINATED or TRUNCATED, then
        ``end_episode``. After an error nothing of the row is stored and the same row may be appended again.

        Raises:
            StoreError: the row is out of order, or the disk does not take it (full, read-only, ...), or it did not
                take what an earlier call left to the background.
            SpecError: an array does not fit the schema or is not finite.
        """
        t = transition
        self._check_order(t)
        self._commit_in_time()
        episode = self._logs.episode
        if episode is None or not episode.rows:
            self._logs.begin(t, self._may_begin)
            self._indexed_rows = self._synced_rows = 0
        else:
            if episode.head is not None or self._is_too_long(episode):
                self._logs.check(t)  # what is refused splits nothing
                self._split(episode)
            self._logs.append(t, episode)
            self.transitions += 1

    def flush(self, *, durable: bool = False) -> None:
        """Let readers see everything appended so far; with ``durable`` it also survives a power cut.

        With ``durable``, episodes ended with ``wait=False`` are acknowledged.

        Raises:
            StoreError: the disk does not take it; what was appended is still there and will be tried again.
        """
        self._check_open()
        self._finish()
        self._last_commit_ns = self._clock.now_ns()
        if self._has_news(durable):
            self._run(self._commit(durable=durable))

    def has(self, episode: str) -> bool:
        """Whether the buffer knows an episode, whoever wrote it."""
        self._check_open()
        return any(r.uuid == episode for r in self._ended) or self._index.episode(episode) is not None

    def end_episode(self, success: bool, *, demo: bool | None = None, wait: bool = True) -> None:
        """Acknowledge the episode whose last row was appended: on return it survives a power cut.

        Args:
            success: the task was solved.
            demo: whether it is a demonstration; None takes the writer's.
            wait: False lets short episodes share a commit. On return the episode and its outcome only survive a kill;
                it is acknowledged when ``episodes`` counts it, after a later ``append``, ``flush(durable=True)``,
                ``end_episode`` or ``close``, at the latest when ``GROUP`` episodes wait.

        Raises:
            StoreError: no row ended the episode, or the disk did not take it. In the latter case nothing that was
                appended is lost: call again, or close; the next writer of this name completes it.
        """
        self._check_open()
        episode = self._logs.episode
        if episode is not None and episode.tally.kind.is_last:
            success, demo = bool(success), self.demo if demo is None else bool(demo)
            if parts := [part for part in episode.parts if self._index.episode(part) is not None]:  # others were pruned
                self._index.edit(parts, success=success, demo=demo)
            self._ended.append(self._logs.end(episode, success=success, demo=demo))
            self._logs.episode = None
        elif not self._unsaid:
            raise StoreError(
                f"writer '{self.name}': end_episode needs a last row (TERMINATED or TRUNCATED) first; "
                "truncate_episode() gives up the episode"
            )
        if wait or self._unsaid or len(self._ended) >= GROUP:
            self._acknowledge_now()

    def truncate_episode(self) -> None:
        """Complete an episode that cannot be finished as truncated after its last row; nothing to do if none is open.

        Raises:
            StoreError: as ``end_episode``.
        """
        self._check_open()
        self._give_up()
        if self._ended:
            self._acknowledge_now()

    def close(self) -> None:
        """Truncate an open episode, make everything durable, and let go of the name; idempotent.

        In a process that was forked from the writer's own it does nothing.

        Raises:
            StoreError: the disk did not take the rest. Everything is closed all the same, and what was appended is
                recovered when the name is opened again.
        """
        if self._resources is None or self._pid != os.getpid():
            return
        try:
            self._give_up()
            self._finish()
            self._close_log()
        finally:
            resources, self._resources = self._resources, None
            with resources:
                self._committer.close()  # before the log: it may still be syncing it
                self._logs.close()

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _hold_name(self, stack: ExitStack) -> None:
        path = self._paths.lock(self.name)
        self._name_lock = stack.enter_context(ExitStack())
        try:
            self._name_lock.enter_context(locked(path))
        except BlockingIOError as error:
            raise StoreError(
                f"writer name '{self.name}' of buffer {self._paths.root} is held by another writer; "
                "stop that one or choose another name"
            ) from error
        except OSError as error:
            raise storage_error(f"cannot lock {path}", error) from error

    def _check_open(self) -> None:
        if self._resources is None:
            raise StoreError(f"writer '{self.name}' is closed")
        if self._pid != os.getpid():
            raise StoreError(
                f"writer '{self.name}' was opened by process {self._pid}, this is process {os.getpid()}, forked from "
                "it; open a writer with another name here"
            )

    def _check_order(self, t: Transition) -> None:
        self._check_open()
        episode = self._logs.episode
        if episode is None or not episode.tally.rows:
            fits = t.index == 0 and t.kind is Kind.FIRST
            expected = "row 0, FIRST, of a new episode"
        elif episode.tally.kind.is_last:
            fits, expected = False, "end_episode() after the last row"
        else:
            fits = t.index == episode.rows and t.kind is not Kind.FIRST and t.episode == episode.id
            expected = f"row {episode.rows} of episode {episode.id}"
        if not fits:
            raise StoreError(
                f"writer '{self.name}': expected {expected}, got row {t.index}, {t.kind.name}, of episode {t.episode}"
            )
        if t.discount != (1.0 if t.kind.bootstraps else 0.0):
            raise StoreError(f"row {t.index}, {t.kind.name}: discount {t.discount}; 0 for TERMINATED, 1 for all others")

    def _may_begin(self, name: str) -> None:
        """Refuses an id that is taken; sees to it that an episode begins in a log that is not too large."""
        if self.has(name):
            raise StoreError(f"episode {name} is already in buffer {self._paths.root}")
        if self._is_large():
            self._finish()
            self._close_log()

    def _is_large(self) -> bool:
        return self._logs.log is not None and self._logs.log.offset >= self._log_bytes

    def _is_too_long(self, episode: OpenEpisode) -> bool:
        return self._partial and episode.tally.rows > self._split_rows and self._is_large()

    def _split(self, episode: OpenEpisode) -> None:
        """End the present part, close its log, begin the next part in a new one; goes on where an error stopped it."""
        if episode.head is None:
            self._ended.append(self._logs.end_part(episode))
        if self._logs.log is episode.log:
            self._finish()
            self._close_log()
        self._logs.begin_part(episode)
        self._indexed_rows = self._synced_rows = 0

    def _give_up(self) -> None:
        """Truncate the open episode, if there is one."""
        episode = self._logs.episode
        if episode is not None and episode.tally.rows and episode.head is None and self._partial:
            self._ended.append(self._logs.end(episode, success=False, demo=False))
        self._logs.episode = None

    def _commit_in_time(self) -> None:
        """Start a commit when one is due; wait for the disk only when it is far behind."""
        committer, behind = self._committer, self._logs.unsynced >= MAX_UNSYNCED_BYTES
        if committer.started:
            if committer.busy and not behind:
                return
            self._finish(tell=True)
        now = self._clock.now_ns()
        if behind or not 0 <= now - self._last_commit_ns < self._commit_every_ns:  # also when the clock was set back
            self._last_commit_ns = now
            if self._has_news(durable=True):
                committer.start(self._commit(durable=True))
            elif behind and self._logs.log is not None:
                self._logs.log.sync()  # rows of an episode that the index shall not know before its end

    def _has_news(self, durable: bool) -> bool:
        episode = self._logs.episode
        known = self._synced_rows if durable else self._indexed_rows
        grown = episode is not None and episode.head is None and self._partial and episode.tally.rows != known
        return grown or bool(self._ended)

    def _acknowledge_now(self) -> None:
        self._finish()
        self._last_commit_ns = self._clock.now_ns()
        self._unsaid = bool(self._ended)
        if self._logs.episode is None and self._is_large():
            self._close_log()
        elif self._ended:
            self._run(self._commit(durable=True))
        self._unsaid = False

    def _close_log(self) -> None:
        if self._logs.log is None:
            return
        self._run(self._commit(durable=True, closed=True))
        self._logs.close()

    def _commit(self, *, durable: bool, closed: bool = False) -> Commit:
        """What there is to tell. Episodes that ended are only told durably: nobody looks at their log again."""
        log, episode = self._logs.log, self._logs.episode
        if log is None:
            raise StoreError(f"writer '{self.name}': no episode has begun")
        told, durable = list(self._ended), durable or bool(self._ended)
        length = log.offset if closed else self._logs.ended_at
        if episode is not None and episode.head is None and episode.tally.rows and self._partial and not closed:
            told.append(self._logs.record("open", episode, success=False, demo=self.demo))
            length = log.offset
        # the growth of an open episode need not be durable in the index: recovery finds it in the log
        full = closed or bool(self._ended)
        return Commit(log, self.name, tuple(told), length, sync=durable, durable=full, closed=closed)

    def _run(self, commit: Commit) -> None:
        self._committer.run(commit)
        self._applied(commit)

    def _finish(self, *, tell: bool = False) -> None:
        """Wait for the background commit; ``tell`` raises its failure, else the caller commits the same again."""
        commit, error = self._committer.finish()
        if commit is not None:
            self._applied(commit)
        elif error is not None and tell:
            raise error

    def _applied(self, commit: Commit) -> None:
        for record in commit.episodes:
            if record.state == "complete":
                self.episodes += 1
                self.successes += record.success
                self._ended.remove(record)
            elif self._logs.episode is not None and record.uuid == self._logs.episode.tally.uuid:
                self._indexed_rows = record.rows
                self._synced_rows = record.rows if commit.sync else self._synced_rows
        self._unsaid = self._unsaid and bool(self._ended)

    def _let_go(self) -> None:
        """In a forked child: the name is the parent's alone. The index stays as it is; SQLite forbids closing it."""
        self._name_lock.close()
        _FORKED.append(self)


_WRITERS: weakref.WeakSet[Writer] = weakref.WeakSet()
_FORKED: list[Writer] = []


def _before_fork() -> None:
    """Within a commit locks of SQLite are held, which a child that opens a buffer would wait for without end."""
    for writer in list(_WRITERS):
        if writer._pid == os.getpid():
            writer._committer.settle()


def _after_fork() -> None:
    for writer in list(_WRITERS):
        writer._let_go()


os.register_at_fork(before=_before_fork, after_in_child=_after_fork)
