"""Where a buffer lies on disk, and making or opening one."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robolearn.buffer.index import Index
from robolearn.buffer.log import storage_error
from robolearn.buffer.schema import Schema
from robolearn.buffer.versions import Versions
from robolearn.core.errors import CorruptDataError, StoreError
from robolearn.core.files import fsync_dir, write_atomic
from robolearn.core.spec import ArraySpec

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class StorePaths:
    """Files of a buffer."""

    root: Path

    @property
    def schema(self) -> Path:
        """JSON of the schema."""
        return self.root / "schema.json"

    @property
    def index(self) -> Path:
        """SQLite database of the episodes."""
        return self.root / "index.sqlite"

    @property
    def logs(self) -> Path:
        """Directory of the append logs."""
        return self.root / "logs"

    @property
    def segments(self) -> Path:
        """Directory of the segments."""
        return self.root / "segments"

    @property
    def seal_lock(self) -> Path:
        """Lock file; held by who seals, prunes or repairs. No writer can have its name."""
        return self.root / "locks" / ".seal.lock"

    @property
    def schema_lock(self) -> Path:
        """Lock file; held by who makes the buffer or changes its schema."""
        return self.root / "locks" / ".create.lock"

    @property
    def damaged(self) -> Path:
        """Directory of what ``repair`` set aside."""
        return self.root / "damaged"

    def aside(self, path: Path) -> Path:
        """A place in ``damaged``, where nothing is, for a file or folder."""
        self.damaged.mkdir(exist_ok=True)
        return free_place(self.damaged / path.name)

    def lock(self, name: str) -> Path:
        """Lock file; held while somebody writes under that name."""
        return self.root / "locks" / f"{name}.lock"

    def log(self, writer: str, number: int) -> Path:
        """Path of a writer's n-th log."""
        return self.logs / f"{writer}-{number:06d}.log"

    def logs_of(self, writer: str) -> list[Path]:
        """Logs of one writer, oldest first."""
        return sorted(p for p in self.logs.glob("*.log") if p.stem.rpartition("-")[0] == writer)


def free_place(path: Path) -> Path:
    """The first of ``path.1``, ``path.2``, ... that does not exist."""
    number = 1
    while (place := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return place


def open_store(root: Path, schema: Schema) -> StorePaths:
    """Make a buffer, or open one of the same schema.

    Raises:
        StoreError: it has another schema (the message shows the difference), or the directory cannot be written.
        CorruptDataError: its schema cannot be read.
    """
    paths = StorePaths(root)
    try:
        if not paths.schema.is_file() or not paths.index.is_file():
            for folder in (root, paths.logs, paths.segments, paths.root / "locks"):
                folder.mkdir(parents=True, exist_ok=True)
            with locked(paths.schema_lock, wait=True):
                _create(paths, schema)
    except OSError as error:
        raise storage_error(f"cannot make a buffer in {root}", error) from error
    found = read_schema(root)
    difference = found.difference(schema)
    if difference:
        raise StoreError(
            f"buffer {root} has another schema than asked for (stored -> asked):\n  " + "\n  ".join(difference)
        )
    return paths


def read_schema(root: Path) -> Schema:
    """Newest schema of an existing buffer.

    Raises:
        StoreError: there is no buffer.
        CorruptDataError: its schema cannot be read.
    """
    return read_versions(root).newest


def read_versions(root: Path) -> Versions:
    """All schemas an existing buffer has had.

    Raises:
        StoreError: there is no buffer.
        CorruptDataError: its schema cannot be read.
    """
    path = StorePaths(root).schema
    try:
        return Versions.from_json(json.loads(path.read_bytes()))
    except FileNotFoundError as error:
        raise StoreError(f"no buffer in {root}: {path.name} is missing") from error
    except (ValueError, CorruptDataError) as error:
        raise CorruptDataError(f"{path} is damaged: {error}") from error
    except OSError as error:
        raise storage_error(f"cannot read {path}", error) from error


def add_key(root: Path, spec: ArraySpec, fill: Any) -> Schema:
    """Give a buffer one more observation key; return its new schema.

    Nothing is rewritten: rows that are there, and rows of writers that were opened before, read as if they had
    ``fill`` there. Who opens the buffer with the old schema from now on is refused.

    Args:
        root: directory of the buffer.
        spec: the new key; its name is the key.
        fill: a number for all elements, or an array of the key's shape.

    Raises:
        StoreError: there is no buffer, it cannot be written, or the key exists.
        SpecError: the fill value does not fit the spec.
    """
    paths = StorePaths(root)
    read_versions(root)
    try:
        with locked(paths.schema_lock, wait=True):
            versions = read_versions(root).with_key(spec, fill)
            write_atomic(paths.schema, json.dumps(versions.to_json(), indent=2).encode())
    except OSError as error:
        raise storage_error(f"cannot change {paths.schema}", error) from error
    return versions.newest


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold an exclusive lock that the kernel releases when this process dies.

    Raises:
        BlockingIOError: somebody else holds it and ``wait`` is False.
        OSError: the lock file cannot be opened.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(fd)


def check_name(name: str) -> None:
    """A writer's name becomes part of file names.

    Raises:
        StoreError: it would not make a good one.
    """
    if not _NAME.fullmatch(name):
        raise StoreError(
            f"writer name '{name}': expected letters, digits, '_', '.', '-', beginning with a letter, digit or '_'"
        )


def _create(paths: StorePaths, schema: Schema) -> None:
    if not paths.index.is_file() and paths.schema.is_file():
        raise StoreError(f"buffer {paths.root} has lost {paths.index.name}; repair makes it again from the data")
    if not paths.schema.is_file():  # written last: an index without it may have no tables yet
        Index.create(paths.index)
        write_atomic(paths.schema, json.dumps(Versions((schema,), {}).to_json(), indent=2).encode())
    for folder in (paths.root, paths.root.parent):
        fsync_dir(folder)
