"""Rows of parquet files, a row group in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from robolearn.core.errors import CorruptDataError


class Tables:
    """Parquet files below a directory; keeps one open, and the row group that was read last.

    Raises:
        CorruptDataError: a file is missing, damaged, too short or lacks a column.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._name = ""
        self._file: Any = None
        self._ends: list[int] = []
        self._cached: tuple[Any, ...] = ()
        self._group: Any = None

    def rows(self, name: str, columns: Sequence[str], start: int, count: int) -> Any:
        """``count`` rows from ``start`` as an arrow table."""
        import pyarrow as pa

        with self._explained(name):
            self._open(name)
            missing = sorted(set(columns) - set(self._file.schema_arrow.names))
            if missing:
                raise CorruptDataError(f"{self.root / name} has no column {missing}")
            end = self._ends[-1] if self._ends else 0
            if start < 0 or start + count > end:
                raise CorruptDataError(f"{self.root / name}: expected rows {start} to {start + count}, it has {end}")
            parts, begin = [], 0
            for group, stop in enumerate(self._ends):
                if begin < start + count and stop > start:
                    first = max(start - begin, 0)
                    parts.append(self._read(group, columns).slice(first, min(start + count, stop) - begin - first))
                begin = stop
            return pa.concat_tables(parts) if parts else self._file.schema_arrow.empty_table().select(columns)

    def all(self, name: str, wanted: Callable[[str], bool] = lambda _: True) -> list[dict[str, Any]]:
        """All rows of a small file, with those columns that are ``wanted``."""
        with self._explained(name):
            self._open(name)
            columns = [c for c in self._file.schema_arrow.names if wanted(c)]
            rows: list[dict[str, Any]] = self._file.read(columns=columns).to_pylist()
            return rows

    def close(self) -> None:
        """Close the open file; idempotent."""
        file, self._file, self._name, self._cached, self._group = self._file, None, "", (), None
        if file is not None:
            file.close()

    def __enter__(self) -> Tables:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, name: str) -> None:
        import pyarrow.parquet as pq

        if name == self._name:
            return
        self.close()
        self._file = pq.ParquetFile(self.root / name)
        self._name, self._ends, end = name, [], 0
        for group in range(self._file.num_row_groups):
            end += self._file.metadata.row_group(group).num_rows
            self._ends.append(end)

    def _read(self, group: int, columns: Sequence[str]) -> Any:
        wanted = (group, *columns)
        if wanted != self._cached:
            self._group, self._cached = None, ()
            self._group = self._file.read_row_group(group, columns=list(columns))
            self._cached = wanted
        return self._group

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        import pyarrow as pa

        try:
            yield
        except FileNotFoundError as error:
            raise CorruptDataError(f"{self.root / name} is missing") from error
        except (pa.ArrowException, OSError) as error:
            raise CorruptDataError(f"{self.root / name} cannot be read: {str(error).strip()[:300]}") from error
