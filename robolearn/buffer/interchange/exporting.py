"""Reading episodes of a buffer for an export, and writing a directory that is there as a whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from robolearn.buffer.files import EpisodeFiles
from robolearn.buffer.filters import Filter
from robolearn.buffer.index import EpisodeRecord, Index
from robolearn.buffer.log import storage_error
from robolearn.buffer.schema import Schema
from robolearn.buffer.selecting import selected, wherever
from robolearn.buffer.store import StorePaths, locked, read_schema
from robolearn.core.errors import StoreError
from robolearn.core.files import fsync_dir

_MARK = ".robolearn-export"


Rows = NDArray[Any]


@contextmanager
def reading(root: Path, select: str = "") -> Iterator[tuple[Schema, Iterator[tuple[EpisodeRecord, Rows]]]]:
    """Schema of a buffer, and its complete episodes with at least one step, oldest first, one in memory at a time.

    Args:
        root: the buffer; only read.
        select: a filter (see ``robolearn.buffer.filters``); an episode is taken whole if any of its steps passes.

    Returns:
        The schema, and records with all their rows (dtype ``schema.row``).

    Raises:
        StoreError: there is no buffer, or the filter makes no sense.
        CorruptDataError: an episode is damaged.
    """
    paths, passes = StorePaths(root), Filter.parse(select)
    read_schema(root)  # says what is wrong where there is no buffer
    index = Index(paths.index, writable=False)
    try:
        with EpisodeFiles(paths, index) as files:
            yield files.schema, _selected(index, files, passes)
    finally:
        index.close()


def _selected(index: Index, files: EpisodeFiles, passes: Filter) -> Iterator[tuple[EpisodeRecord, Rows]]:
    for record in selected(index, files, passes):
        rows = wherever(record, index, files.rows)
        if rows is not None:  # else it was removed meanwhile
            yield record, rows


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A directory ``OUT.tmp`` to write to, renamed to ``out`` when all is well and removed when not.

    What a crash left under that name is replaced.

    Raises:
        StoreError: ``out`` exists, ``OUT.tmp`` is something else, or the disk does not take it.
    """
    if out.exists() or out.is_symlink():
        raise StoreError(f"{out} exists already; remove it or export to another name")
    tmp = out.with_name(f"{out.name}.tmp")
    if tmp.exists() and not (tmp / _MARK).exists():
        raise StoreError(f"{tmp} exists and is not a broken-off export; remove it or export to another name")
    try:
        tmp.mkdir(parents=True, exist_ok=True)
        with locked(tmp / _MARK):
            try:
                _empty(tmp)
                yield tmp
                _sync_tree(tmp)
                os.rename(tmp, out)
                (out / _MARK).unlink()
                fsync_dir(out)
                fsync_dir(out.parent)
            except BaseException:
                shutil.rmtree(tmp, ignore_errors=True)
                raise
    except BlockingIOError as error:
        raise StoreError(f"{tmp}: another export is writing it") from error
    except OSError as error:
        raise storage_error(f"cannot export to {out}", error) from error


def _empty(tmp: Path) -> None:
    for path in tmp.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != _MARK:
            path.unlink()


def _sync_tree(root: Path) -> None:
    for folder, _, files in os.walk(root, topdown=False):
        for name in files:
            fd = os.open(Path(folder, name), os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        fsync_dir(Path(folder))
