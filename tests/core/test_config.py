"""Configuration: what annotations say is what is accepted, and everything else is named."""

from __future__ import annotations

import dataclasses
import enum
import math
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robolearn.core import config as typed
from robolearn.core.errors import ConfigError


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclasses.dataclass(frozen=True)
class Inner:
    lr: float = 3e-4
    sizes: tuple[int, ...] = (64, 64)
    corner: tuple[float, float] = (0.0, 1.0)
    name: str | None = None


@dataclasses.dataclass(frozen=True)
class Other:
    steps: int = 4


@dataclasses.dataclass(frozen=True)
class Outer:
    steps: int = 10
    fast: bool = False
    mode: Literal["state", "pixels"] = "state"
    inner: Inner = Inner()
    choice: Inner | Other = Inner()
    colour: Colour = Colour.RED
    folder: Path = Path("runs")
    extras: dict[str, float] = dataclasses.field(default_factory=dict)
    plugin: Any = None


@dataclasses.dataclass(frozen=True)
class Strict:
    count: int

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError("count must not be negative")


TYPES = {"plugin": Other}

outers = st.builds(
    Outer,
    steps=st.integers(),
    fast=st.booleans(),
    mode=st.sampled_from(["state", "pixels"]),
    inner=st.builds(
        Inner,
        lr=st.floats(allow_nan=False),
        sizes=st.lists(st.integers(), max_size=4).map(tuple),
        name=st.none() | st.text(st.characters(codec="ascii", exclude_categories=["Cc"])),
    ),
    choice=st.builds(Inner) | st.builds(Other, steps=st.integers()),
    colour=st.sampled_from(Colour),
    folder=st.sampled_from([Path("a"), Path("b/c")]),
    extras=st.dictionaries(st.sampled_from(["a", "b"]), st.floats(allow_nan=False)),
    plugin=st.builds(Other, steps=st.integers()),
)


@given(outers)
def test_yaml_gives_back_what_was_written(tmp_path_factory: pytest.TempPathFactory, config: Outer) -> None:
    path = tmp_path_factory.getbasetemp() / "config.yaml"
    path.write_text(typed.dump_yaml(typed.to_dict(config)), encoding="utf-8")
    assert typed.from_dict(Outer, typed.load_yaml(path), types=TYPES) == config


@given(outers)
def test_a_config_does_not_differ_from_itself(config: Outer) -> None:
    assert typed.diff(config, config) == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"stepz": 1}, "unknown key 'stepz'; did you mean 'steps'?"),
        ({"inner": {"Lr": 1.0}}, "unknown key 'inner.Lr'; did you mean 'inner.lr'?"),
        ({"plugin": {"step": 1}}, "unknown key 'plugin.step'; did you mean 'plugin.steps'?"),
        ({"steps": 1.5}, "steps: expected a whole number, got 1.5"),
        ({"steps": True}, "steps: expected a whole number, got True"),
        ({"steps": None}, "steps: expected a whole number, got None"),
        ({"fast": 1}, "fast: expected true or false, got 1"),
        ({"fast": "yes"}, "fast: expected true or false, got 'yes'"),
        ({"mode": "pixel"}, "mode: unknown value 'pixel'; did you mean 'pixels'?"),
        ({"inner": 3}, "inner: expected a mapping of names to values, got 3"),
        ({"inner": {"lr": "fast"}}, "inner.lr: expected a number, got 'fast'"),
        ({"inner": {"lr": math.nan}}, "inner.lr: expected a number, got nan"),
        ({"inner": {"sizes": [1, "x"]}}, r"inner.sizes\[1\]: expected a whole number, got 'x'"),
        ({"inner": {"sizes": 3}}, "inner.sizes: expected a list, each a whole number, got 3"),
        ({"inner": {"corner": [1.0]}}, "inner.corner: expected 2 values"),
        ({"inner": {"name": 3}}, "inner.name: expected a text, got 3"),
        ({"choice": {"type": "Iner"}}, r"choice.type: which one is it\?; did you mean 'Inner'"),
        ({"colour": "RAD"}, "colour: unknown value 'RAD'; did you mean 'RED'?"),
        ({"extras": {"a": "x"}}, "extras.a: expected a number"),
        ({3: 4}, "unknown key '3'"),
        ([1], r"expected a mapping of names to values, got \[1\]"),
    ],
)
def test_whatever_is_wrong_is_named_with_its_whole_key(data: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        typed.from_dict(Outer, data, types=TYPES)
    with pytest.raises(ConfigError, match=message):
        typed.merge(Outer(plugin=Other()), data, types=TYPES)


def test_merge_changes_only_what_is_named() -> None:
    base = Outer(steps=7, inner=Inner(lr=1.0, sizes=(8,)), plugin=Other(9))
    merged = typed.merge(base, {"inner": {"sizes": [16]}, "plugin": {"steps": 5}}, types=TYPES)
    assert merged == dataclasses.replace(base, inner=Inner(lr=1.0, sizes=(16,)), plugin=Other(5))


def test_a_whole_number_is_a_number_and_a_union_member_can_be_chosen() -> None:
    config = typed.from_dict(Outer, {"inner": {"lr": 1}, "choice": {"type": "Other", "steps": 2}})
    assert config.inner.lr == 1.0
    assert isinstance(config.inner.lr, float)
    assert config.choice == Other(2)
    assert typed.merge(config, {"choice": {"steps": 3}}).choice == Other(3)
    with pytest.raises(ConfigError, match=r"unknown key 'choice\.lr'"):
        typed.merge(config, {"choice": {"lr": 3}})


def test_missing_values_and_a_classs_own_checks_are_config_errors() -> None:
    with pytest.raises(ConfigError, match="count: missing, expected a whole number"):
        typed.from_dict(Strict, {})
    with pytest.raises(ConfigError, match="count must not be negative"):
        typed.from_dict(Strict, {"count": -1})


def test_diff_names_every_changed_key() -> None:
    old = Outer(plugin=Other(1))
    new = dataclasses.replace(old, steps=11, inner=Inner(lr=1.0), plugin=Strict(2))
    assert typed.diff(old, new) == [
        "steps: 10 -> 11",
        "inner.lr: 0.0003 -> 1.0",
        "plugin.steps: 1 -> (absent)",
        "plugin.count: (absent) -> 2",
    ]


def test_keys_open_nested_dataclasses() -> None:
    keys = typed.keys(Outer, types=TYPES)
    assert {"steps", "inner.lr", "plugin.steps", "choice"} <= set(keys)
    assert "inner" not in keys


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "line 2: key 'a' is given twice"),
        ("a: [1\n", "line 2"),
        ("- 1\n", "expected a mapping"),
        ("1: 2\n", "expected a mapping"),
        ("a: !!python/object:os.system x\n", "line 1"),
    ],
)
def test_bad_yaml_is_explained(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "preset.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        typed.load_yaml(path)


def test_yaml_numbers_and_empty_files(tmp_path: Path) -> None:
    path = tmp_path / "preset.yaml"
    path.write_text("a: 1e-3\nb: -2E5\nc: 1e\nd: '1e3'\ne: .inf\n")
    assert typed.load_yaml(path) == {"a": 1e-3, "b": -2e5, "c": "1e", "d": "1e3", "e": math.inf}
    path.write_text("# nothing\n")
    assert typed.load_yaml(path) == {}
    with pytest.raises(ConfigError, match="cannot read"):
        typed.load_yaml(tmp_path / "absent.yaml")
