"""Sealed buffers for the tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from buffer_rows import IMAGES, episode

from robolearn.buffer.files import EpisodeFiles, MovedError
from robolearn.buffer.index import EpisodeRecord, Index
from robolearn.buffer.rows import unpack
from robolearn.buffer.schema import Schema
from robolearn.buffer.seal import seal
from robolearn.buffer.store import StorePaths
from robolearn.buffer.writer import Writer
from robolearn.core.types import Transition


def write(
    root: Path,
    numbers: range,
    *,
    name: str = "actor",
    schema: Schema = IMAGES,
    steps: int = 7,
    log_bytes: int = 4096,
    humans: Sequence[int] = (2,),
) -> None:
    """Episodes in logs of a few episodes each."""
    with Writer(root, schema, name=name, robot="arm", task="peg", log_bytes=log_bytes) as w:
        for number in numbers:
            for t in episode(number, steps, humans=humans, schema=schema):
                w.append(t)
            w.end_episode(number % 2 == 0)


def sealed(root: Path, numbers: range, **more: object) -> list[str]:
    """A buffer whose episodes are all sealed; names of its segments."""
    write(root, numbers, **more)  # type: ignore[arg-type]
    return seal(root, everything=True)


def everything(root: Path) -> dict[str, list[Transition]]:
    """Episode id -> rows, wherever they lie, also while they are moved."""
    index = Index(StorePaths(root).index, writable=False)
    try:
        with EpisodeFiles(StorePaths(root), index) as files:
            return {record.uuid: _rows(record, index, files) for record in index.changes() if record.state != "dropped"}
    finally:
        index.close()


def _rows(record: EpisodeRecord | None, index: Index, files: EpisodeFiles) -> list[Transition]:
    while record is not None:
        try:
            return [unpack(r, files.schema) for r in files.rows(record)]
        except MovedError:
            record = index.episode(record.uuid)
    raise AssertionError("an episode vanished from the index")
