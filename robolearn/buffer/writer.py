"""Writer: the only way rows get into a buffer. One per process that produces data."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from robolearn.buffer.index import EpisodeRecord, Index, LogRecord, State
from robolearn.buffer.log import FrameType, LogWriter, json_frame, storage_error
from robolearn.buffer.recover import recover_writer
from robolearn.buffer.rows import RowPacker, Tally
from robolearn.buffer.schema import Schema
from robolearn.buffer.store import StorePaths, check_name, locked, open_store
from robolearn.core.clock import Clock, MonotonicClock
from robolearn.core.errors import StoreError
from robolearn.core.types import Kind, Transition

OpenLog = Callable[[Path, Schema, str], LogWriter]


class Writer:
    """Appends episodes to a buffer under a name of its own. Use from one thread; a context manager.

    What a crash left open under this name is recovered first: its whole rows are kept as a truncated episode.

    Args:
        root: directory of the buffer; made when it does not exist.
        schema: what its rows hold.
        name: name of this writer; one process at a time may hold it.
        robot, task: written into every episode.
        demo: whether its episodes are demonstrations (``end_episode`` can decide otherwise).
        commit_every_s: rows become visible to readers, and safe from a power cut, at most this much after an append
            that is followed by another [s].
        log_bytes: a new log file is begun with the first episode after this size.
        partial: keep an episode that a crash cut short; False discards it (a copy can be made again).
        clock: when to commit.
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
        log_bytes: int = 256 << 20,
        partial: bool = True,
        clock: Clock | None = None,
        open_log: OpenLog = LogWriter,
    ) -> None:
        check_name(name)
        self.schema, self.name, self.robot, self.task, self.demo = schema, name, robot, task, demo
        self._commit_every_ns, self._log_bytes, self._partial = int(commit_every_s * 1e9), log_bytes, partial
        self._clock: Clock = clock or MonotonicClock()
        self._open_log = open_log
        self._packer = RowPacker(schema)
        self._log: LogWriter | None = None
        self._tally: Tally | None = None
        self._ended: tuple[bool, bool] | None = None  # (success, demo) of an END frame not yet committed
        self._indexed_rows = self._synced_rows = 0
        self._last_commit_ns = self._clock.now_ns()
        self._paths = open_store(Path(root), schema)
        with ExitStack() as stack:
            self._lock(stack)
            self._index = Index(self._paths.index, writable=True)
            stack.callback(self._index.close)
            recover_writer(self._paths, schema, self._index, name)
            done = self._index.of_writer(name)
            self._log_number = _last_number(self._paths, name)
            self._resources: ExitStack | None = stack.pop_all()
        self.transitions = sum(r.transitions for r in done)
        """Steps ever appended under this name."""
        self.episodes = len(done)
        """Episodes ever completed under this name, those cut short by a crash included."""
        self.successes = sum(r.success and r.state == "complete" for r in done)
        """Episodes among them that succeeded."""

    def append(self, transition: Transition) -> None:
        """Append one row. When this returns the row survives a kill of this process.

        Rows come in the order of an episode: index 0 is FIRST, the last is TERMINATED or TRUNCATED, then
        ``end_episode``. After an error nothing of the row is stored and the same row may be appended again.

        Raises:
            StoreError: the row is out of order, or the disk does not take it (full, read-only, ...).
            SpecError: an array does not fit the schema or is not finite.
        """
        self._check_order(transition)
        if self._clock.now_ns() - self._last_commit_ns >= self._commit_every_ns:
            self.flush(durable=True)
        if self._tally is None or self._tally.uuid != transition.episode:
            _uuid(transition.episode)
            self._packer.pack(transition)
            self._begin(transition)
        frame = self._packer.pack(transition)
        log, tally = self._writing()
        start = log.append(frame)
        if tally.rows == 0:
            tally.offset = start
        else:
            self.transitions += 1
        t = transition
        tally.add(t.kind, t.source, t.reward, t.policy_version, t.stamp_ns)

    def flush(self, *, durable: bool = False) -> None:
        """Let readers see everything appended so far; with ``durable`` it also survives a power cut.

        Raises:
            StoreError: the disk does not take it; what was appended is still there and will be tried again.
        """
        self._last_commit_ns = self._clock.now_ns()
        if self._tally is None or self._ended is not None or not self._partial:
            return
        if self._tally.rows == (self._synced_rows if durable else self._indexed_rows):
            return
        self._commit("open", durable=durable)

    def has(self, episode: str) -> bool:
        """Whether the buffer knows an episode, whoever wrote it."""
        self._check_open()
        return self._index.episode(episode) is not None

    def end_episode(self, success: bool, *, demo: bool | None = None) -> None:
        """Acknowledge the episode whose last row was appended: on return it survives a power cut.

        Args:
            success: the task was solved.
            demo: whether it is a demonstration; None takes the writer's.

        Raises:
            StoreError: no row ended the episode, or the disk did not take it. In the latter case nothing that was
                appended is lost: call again, or close; the next writer of this name completes it.
        """
        self._check_open()
        if self._tally is None or not self._tally.kind.is_last:
            raise StoreError(
                f"writer '{self.name}': end_episode needs a last row (TERMINATED or TRUNCATED) first; "
                "truncate_episode() gives up the episode"
            )
        self._end(success, self.demo if demo is None else demo)

    def truncate_episode(self) -> None:
        """Complete an episode that cannot be finished as truncated after its last row; nothing to do if none is open.

        Raises:
            StoreError: as ``end_episode``.
        """
        self._check_open()
        if self._tally is not None and self._tally.rows and self._partial:
            self._end(success=False, demo=False)
        self._tally = None

    def close(self) -> None:
        """Truncate an open episode, make everything durable, and let go of the name; idempotent.

        Raises:
            StoreError: the disk did not take the rest. Everything is closed all the same, and what was appended is
                recovered when the name is opened again.
        """
        if self._resources is None:
            return
        try:
            self.truncate_episode()
            self._close_log()
        finally:
            resources, self._resources = self._resources, None
            if self._log is not None:
                self._log.close()
                self._log = None
            resources.close()

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _lock(self, stack: ExitStack) -> None:
        path = self._paths.lock(self.name)
        try:
            stack.enter_context(locked(path))
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

    def _check_order(self, t: Transition) -> None:
        self._check_open()
        tally = self._tally
        if tally is None or not tally.rows:
            fits = t.index == 0 and t.kind is Kind.FIRST
            expected = "row 0, FIRST, of a new episode"
        elif tally.kind.is_last:
            fits, expected = False, "end_episode() after the last row"
        else:
            fits = t.index == tally.rows and t.kind is not Kind.FIRST and t.episode == tally.uuid
            expected = f"row {tally.rows} of episode {tally.uuid}"
        if not fits:
            raise StoreError(
                f"writer '{self.name}': expected {expected}, got row {t.index}, {t.kind.name}, of episode {t.episode}"
            )
        if t.discount != (1.0 if t.kind.bootstraps else 0.0):
            raise StoreError(f"row {t.index}, {t.kind.name}: discount {t.discount}; 0 for TERMINATED, 1 for all others")

    def _begin(self, t: Transition) -> None:
        """Announce an episode in the log; in a new one when the old one is large."""
        if self._index.episode(_uuid(t.episode)) is not None:
            raise StoreError(f"episode {t.episode} is already in buffer {self._paths.root}")
        if self._log is not None and self._log.offset >= self._log_bytes:
            self._close_log()
        if self._log is None:
            path = self._paths.log(self.name, self._log_number + 1)
            self._log = self._open_log(path, self.schema, self.name)
            self._log_number += 1
        tally = Tally(t.episode, 0, time.time_ns())  # wall-clock time, for people
        begin = {
            "episode": t.episode,
            "robot": self.robot,
            "task": self.task,
            "unix_ns": tally.unix_ns,
            "partial": self._partial,
        }
        self._log.append(json_frame(FrameType.BEGIN, begin))
        self._tally, self._ended = tally, None
        self._indexed_rows = self._synced_rows = 0

    def _writing(self) -> tuple[LogWriter, Tally]:
        if self._log is None or self._tally is None:
            raise StoreError(f"writer '{self.name}': no episode has begun")
        return self._log, self._tally

    def _end(self, success: bool, demo: bool) -> None:
        log, tally = self._writing()
        if self._ended is None:
            log.append(json_frame(FrameType.END, {"episode": tally.uuid, "success": bool(success), "demo": bool(demo)}))
            self._ended = (success, demo)
        success, demo = self._ended
        self._commit("complete", durable=True, success=success, demo=demo)
        self._tally = None
        self.episodes += 1
        self.successes += bool(success)
        self._last_commit_ns = self._clock.now_ns()

    def _commit(self, state: State, *, durable: bool, success: bool = False, demo: bool | None = None) -> None:
        """Log to disk first, then the index: it never promises what the log may not have.

        The growth of an open episode need not be durable in the index: recovery finds it in the log.
        """
        log, tally = self._writing()
        if durable:
            log.sync()
        record = tally.record(
            state,
            writer=self.name,
            log=log.path.name,
            robot=self.robot,
            task=self.task,
            demo=self.demo if demo is None else demo,
            success=success,
        )
        self._put(record, self._log_record(log, closed=False), durable=state == "complete")
        self._indexed_rows = tally.rows
        if durable:
            self._synced_rows = tally.rows

    def _put(self, episode: EpisodeRecord | None, log: LogRecord, *, durable: bool) -> None:
        with self._index.transaction(durable=durable) as revision:
            if episode is not None:
                self._index.put_episode(episode, revision)
            self._index.put_log(log)

    def _close_log(self) -> None:
        if self._log is None:
            return
        self._log.sync()
        self._put(None, self._log_record(self._log, closed=True), durable=True)
        self._log.close()
        self._log = None

    def _log_record(self, log: LogWriter, *, closed: bool) -> LogRecord:
        return LogRecord(log.path.name, self.name, length=log.offset, synced=log.synced, closed=closed)


def _uuid(episode: str) -> str:
    """A hex id of 16 bytes, or an error that says so."""
    try:
        good = len(bytes.fromhex(episode)) == 16 and episode == episode.lower()
    except ValueError:
        good = False
    if not good or len(episode) != 32:
        raise StoreError(f"episode id '{episode}': expected 32 lower-case hex digits (uuid.uuid4().hex)")
    return episode


def _last_number(paths: StorePaths, writer: str) -> int:
    """Number of a writer's newest log; 0 for none."""
    return max((int(p.stem.rpartition("-")[2]) for p in paths.logs_of(writer)), default=0)
