"""The local link: weights travel through a directory both sides can see.

One file, replaced atomically. A follower that looks at any moment finds the newest snapshot as a whole; versions it
missed are superseded, never queued. Followers may come and go, and come back after a crash on either side.
"""

from __future__ import annotations

from pathlib import Path

from robolearn.core.errors import CorruptDataError
from robolearn.core.files import write_atomic
from robolearn.sync.codec import Snapshot, decode, encode

_FILE = "latest.weights"


class LocalPublisher:
    """The learner's end."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        for half_written in directory.glob(f".{_FILE}.*.tmp"):
            half_written.unlink(missing_ok=True)
        self._path = directory / _FILE

    def publish(self, snapshot: Snapshot) -> None:
        """Make ``snapshot`` the newest. Not durable: a checkpoint is, and a restarted learner publishes again."""
        write_atomic(self._path, encode(snapshot), durable=False)


class LocalFollower:
    """An actor's end. Keeps the last good version; call ``poll`` only at a chunk boundary."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / _FILE
        self._seen: tuple[int, int] | None = None
        self.rejected = 0

    def poll(self) -> Snapshot | None:
        """The newest snapshot if it is new to this follower, verified as a whole, else None."""
        try:
            stat = self._path.stat()
            mark = (stat.st_mtime_ns, stat.st_ino)
            if mark == self._seen:
                return None
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        self._seen = mark
        try:
            return decode(data)
        except CorruptDataError:
            self.rejected += 1
            return None
