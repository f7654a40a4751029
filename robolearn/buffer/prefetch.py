"""Batches drawn ahead by one thread."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Generic, TypeVar

from robolearn.core.errors import StoreError

T = TypeVar("T")


class Prefetch(Generic[T]):
    """Calls ``draw`` in a thread and keeps the results ready, in their order. A context manager and an iterator.

    A batch is valid until ``next`` is called again. What ``draw`` raises, ``next`` raises when it has given out all
    that was drawn before; the thread has ended then.

    Args:
        draw: makes one batch; must leave the ``depth + 1`` before it alone.
        depth: batches to have ready.

    Attributes:
        waited: how often ``next`` had to wait: the thread is slower than its caller.
    """

    def __init__(self, draw: Callable[[], T], depth: int = 2) -> None:
        if depth < 1:
            raise StoreError(f"prefetch: expected depth >= 1, got {depth}")
        self._draw, self._depth = draw, depth
        self._ready: deque[T] = deque()
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._closed = False
        self._pid = os.getpid()
        self.waited = 0
        self._thread = threading.Thread(target=self._run, name="buffer-prefetch", daemon=True)
        self._thread.start()

    def next(self) -> T:
        """The next batch.

        Raises:
            StoreError: this is closed.
            Exception: what drawing it raised.
        """
        self._check()
        with self._changed:
            if not self._ready:
                self.waited += 1
            while not (self._ready or self._error or self._closed):
                self._changed.wait()
            if self._closed:
                raise StoreError("this prefetch is closed")
            if not self._ready and self._error is not None:
                raise self._error
            batch = self._ready.popleft()
            self._changed.notify_all()
            return batch

    def close(self) -> None:
        """End the thread after the batch it is drawing; idempotent."""
        if os.getpid() != self._pid:
            return  # the thread stayed behind, and perhaps holds the lock
        with self._changed:
            self._closed = True
            self._ready.clear()
            self._changed.notify_all()
        self._thread.join()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        return self.next()

    def __enter__(self) -> Prefetch[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check(self) -> None:
        if os.getpid() != self._pid:
            raise StoreError(
                f"this prefetch belongs to process {self._pid} and came here by a fork without its thread; "
                "open another replay here"
            )

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._closed or len(self._ready) < self._depth)
                    if self._closed:
                        return
                batch = self._draw()
                with self._changed:
                    self._ready.append(batch)
                    self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 - whatever it is belongs to the caller of next()
            with self._changed:
                self._error = error
                self._changed.notify_all()
