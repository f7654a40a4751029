"""The epoch fence: whoever holds the newest lease drives, and a restarted host still knows which one that is."""

from __future__ import annotations

from pathlib import Path

from robolearn.core.errors import RobolearnError
from robolearn.core.files import write_atomic


class EpochFence:
    """The highest lease epoch seen, kept in a file so that it outlives the host."""

    def __init__(self, path: Path | None) -> None:
        """Take up the epoch of an earlier host.

        Raises:
            RobolearnError: the file is there but cannot be read: who drives is then unknown, and the arm stays still.
        """
        self.path, self.epoch = path, -1
        if path is None:
            return
        try:
            self.epoch = int(path.read_text(encoding="ascii"))
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            raise RobolearnError(
                f"the epoch fence {path} cannot be read ({error}); write the newest lease epoch of this robot into it "
                "(robolearn hal ls --json shows it)"
            ) from error

    def admits(self, epoch: int) -> bool:
        """True for the newest holder; a newer one is written down before it is let in."""
        if epoch < self.epoch:
            return False
        if epoch > self.epoch:
            if self.path is not None:
                write_atomic(self.path, str(epoch).encode())
            self.epoch = epoch
        return True
