"""Other runs' data in a run: the text of --data."""

from __future__ import annotations

from pathlib import Path

import pytest

from robolearn.buffer.schema import Schema
from robolearn.buffer.store import open_store
from robolearn.core.errors import ConfigError, StoreError
from robolearn.core.spec import ArraySpec
from robolearn.run.demos import parse_data


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    schema = Schema({"state": ArraySpec("state", (2,))}, ArraySpec("action", (1,)))
    open_store(tmp_path / "a" / "buffer", schema)  # a run
    open_store(tmp_path / "b", schema)  # a buffer
    return tmp_path


def test_filters_belong_to_the_directory_before_them(runs: Path) -> None:
    a, b = runs / "a", runs / "b"
    assert parse_data("") == []
    assert parse_data(f"{a}, {b}:success,intervention") == [(a / "buffer", ""), (b, "success,intervention")]
    assert parse_data(f"{b}:source=human|source=script,{a}") == [(b, "source=human|source=script"), (a / "buffer", "")]


def test_mistakes_are_named(runs: Path) -> None:
    with pytest.raises(ConfigError, match=r"no directory .*nowhere"):
        parse_data(f"{runs / 'nowhere'}")
    with pytest.raises(ConfigError, match="no directory success"):
        parse_data(f"{runs / 'b'},success")  # a filter without a colon
    with pytest.raises(StoreError, match="success"):
        parse_data(f"{runs / 'b'}:succes")
    (runs / "empty").mkdir()
    with pytest.raises(StoreError, match="no buffer"):
        parse_data(str(runs / "empty"))
