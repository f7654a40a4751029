"""Labels that people give while a robot moves."""

from __future__ import annotations

import threading

from robolearn.core.errors import ConfigError


class Labels:
    """A mailbox for one label: written by a device's thread, emptied by the loop at each step. The newest counts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._label = 0

    def put(self, label: int) -> None:
        """Say that the task is done (+1), or that the attempt has failed (-1).

        Raises:
            ConfigError: another number.
        """
        if label not in (1, -1):
            raise ConfigError(f"a label is +1 (success) or -1 (failure), got {label}")
        with self._lock:
            self._label = label

    def take(self) -> int:
        """The newest label, which is forgotten; 0 where none was given since the last call."""
        with self._lock:
            label, self._label = self._label, 0
        return label
