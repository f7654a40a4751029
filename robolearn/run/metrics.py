"""Metrics as lines of JSON: many processes append, anybody reads, TensorBoard gets a copy."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from robolearn.core.jsonable import jsonable


class JsonlWriter:
    """Appends lines to a file that other processes append to as well.

    A line is one ``write`` to a descriptor opened with O_APPEND, so lines of different processes never mix. Lines are
    not fsynced: metrics survive the death of a process, not a power cut.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one JSON object; NaN and infinities become null.

        Raises:
            OSError: the disk is full or gone; what was written of the line is a torn line, which readers skip.
        """
        data = (json.dumps(jsonable(line), separators=(",", ":"), ensure_ascii=False) + "\n").encode()
        written = os.write(self._fd, data)
        if written != len(data):
            os.write(self._fd, b"\n")
            raise OSError(errno.ENOSPC, f"only {written} of {len(data)} bytes written", str(self._path))

    def close(self) -> None:
        """Close the file; idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> JsonlWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def parse_lines(data: bytes) -> Iterator[dict[str, Any]]:
    """JSON objects of whole lines; a torn or foreign line is skipped."""
    for line in data.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a file, in order; empty when there is no file. A torn last line is left out."""
    try:
        return list(parse_lines(path.read_bytes()))
    except FileNotFoundError:
        return []


class JsonlTail:
    """Reads the lines a file has gained since the last call; an unfinished line waits for its end."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0

    def read(self) -> list[dict[str, Any]]:
        """New whole lines, in order."""
        try:
            with open(self._path, "rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        end = data.rfind(b"\n") + 1
        self._offset += end
        return list(parse_lines(data[:end]))


class TensorBoardCopy:
    """Copies numbers of ``metrics.jsonl`` into TensorBoard event files, tag ``kind/name``, against robot steps.

    Uses TensorBoard's own event writer, which does without torch. A new instance starts after what is already in the
    metrics file when ``resume`` is set, so that a resumed run does not write its past twice.
    """

    def __init__(self, metrics: Path, folder: Path, *, resume: bool = False) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._event, self._summary = Event, Summary
        self._writer = EventFileWriter(str(folder))
        self._tail = JsonlTail(metrics)
        if resume:
            self._tail.read()

    def update(self) -> int:
        """Copy what is new; return how many lines that was."""
        lines = self._tail.read()
        for line in lines:
            kind, step = str(line.get("kind", "other")), int(line.get("steps", 0))
            values = [
                self._summary.Value(tag=f"{kind}/{name}", simple_value=float(value))
                for name, value in line.items()
                if isinstance(value, int | float) and name != "steps"
            ]
            event = self._event(wall_time=float(line.get("time_s", 0.0)), step=step)
            event.summary.CopyFrom(self._summary(value=values))
            self._writer.add_event(event)
        return len(lines)

    def close(self) -> None:
        """Write out and close."""
        self.update()
        self._writer.close()
