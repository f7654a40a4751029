"""What a loop has to say, told without ever making the loop wait for whoever reads it."""

from __future__ import annotations

import math
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType

from robolearn.core.clock import Clock

_KEPT = 256
_LOOK_S, _GAP_NS = 0.1, 1_000_000_000
_CHUNK, _LAST_WORDS_S = 65536, 0.5


class Journal:
    """Lines from a loop, written by another thread: at most one of each kind a second. A context manager."""

    def __init__(self, write: Callable[[bool, str], object], clock: Clock) -> None:
        """Prepare; ``write`` gets whether a line is alarming, and the line."""
        self._write, self._clock = write, clock
        self._lines: deque[tuple[str, bool, str]] = deque(maxlen=_KEPT)
        self._pending: dict[str, tuple[bool, str, int]] = {}
        self._told_ns: dict[str, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)

    def note(self, kind: str, text: str, *, alarming: bool = False) -> None:
        """Say something; returns at once. When too much is said, the oldest lines are lost."""
        self._lines.append((kind, alarming, text))

    def tell(self, *, everything: bool = False) -> None:
        """Write what is due: of every kind the newest line, and how many there were before it."""
        while self._lines:
            kind, alarming, text = self._lines.popleft()
            before = self._pending.get(kind)
            self._pending[kind] = (alarming, text, 0 if before is None else before[2] + 1)
        now = self._clock.now_ns()
        for kind, (alarming, text, more) in list(self._pending.items()):
            if everything or now - self._told_ns.get(kind, -math.inf) >= _GAP_NS:
                del self._pending[kind]
                self._told_ns[kind] = now
                self._write(alarming, f"{text} (and {more} before it)" if more else text)

    def _run(self) -> None:
        while not self._over.wait(_LOOK_S):
            self.tell()
        self.tell(everything=True)

    def __enter__(self) -> Journal:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(_LAST_WORDS_S)


@contextmanager
def unread_stderr(descriptor: int = 2) -> Iterator[None]:
    """Let nothing in this process wait for the reader of its standard error, not even libraries.

    What a reader does not take (a terminal held with Ctrl-S, a stopped parent) is dropped once a pipe is full.
    """
    real = os.dup(descriptor)
    source, sink = os.pipe()
    os.set_blocking(sink, False)
    os.dup2(sink, descriptor)
    os.close(sink)
    pump = threading.Thread(target=_pump, args=(source, real), name="stderr", daemon=True)
    pump.start()
    try:
        yield
    finally:
        with suppress(OSError):
            sys.stderr.flush()
        os.dup2(real, descriptor)  # the pipe's last writer: the pump reads to its end
        pump.join(_LAST_WORDS_S)


def _pump(source: int, real: int) -> None:
    """Pass on until the pipe ends; a reader that has gone away is no reason to stop reading."""
    while data := os.read(source, _CHUNK):
        with suppress(OSError):
            while data:
                data = data[os.write(real, data) :]
    os.close(source)
    os.close(real)
