"""Checks of numbers in a configuration."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest

from robolearn.core.checks import at_least, positive, within
from robolearn.core.errors import ConfigError


@dataclass(frozen=True)
class Config:
    layers: int = 1
    rate: float = 0.5


def test_what_is_allowed_passes_to_the_very_end() -> None:
    config = Config()
    at_least(config, 1, "layers")
    at_least(config, 0.5, "layers", "rate")
    positive(config, "layers", "rate")
    within(config, 0.5, 1, "layers", "rate")
    within(config, 0.5, 1, "rate", open_end=True)


def test_the_field_its_value_and_what_it_must_be_are_named() -> None:
    with pytest.raises(ConfigError, match=r"^bc\.layers is 0; it must be at least 1$"):
        at_least(Config(layers=0), 1, "layers", of="bc.")
    with pytest.raises(ConfigError, match=r"^rate is 0\.0; it must be positive$"):
        positive(Config(rate=0.0), "layers", "rate")
    with pytest.raises(ConfigError, match=r"^rate is 2\.5; it must lie within \[0, 2\]$"):
        within(Config(rate=2.5), 0, 2, "layers", "rate")
    with pytest.raises(ConfigError, match=r"^rate is -0\.1; it must lie within \[0, 1\)$"):
        within(Config(rate=-0.1), 0, 1, "rate", open_end=True)
    with pytest.raises(ConfigError, match=r"^layers is 1; it must lie within \[0, 1\)$"):
        within(Config(), 0, 1, "layers", open_end=True)


def test_what_is_no_number_passes_nothing() -> None:
    config = Config(rate=math.nan)
    with pytest.raises(ConfigError, match="rate is nan"):
        at_least(config, 0, "rate")
    with pytest.raises(ConfigError, match="rate is nan"):
        positive(config, "rate")
    with pytest.raises(ConfigError, match="rate is nan"):
        within(config, 0, 1, "rate")
