"""Kinds and sources: a time-out is never a terminal state."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robolearn.core import types
from robolearn.core.types import Command, Kind, Source


def test_only_a_terminal_state_does_not_bootstrap() -> None:
    assert [kind.bootstraps for kind in Kind] == [True, True, False, True]
    assert [kind.is_last for kind in Kind] == [False, False, True, True]


@given(st.lists(st.sampled_from(Kind), min_size=1, max_size=50))
def test_the_bootstrapping_mask_survives_storage_as_numbers(kinds: list[Kind]) -> None:
    """Kinds are stored as small integers; the mask made of them is the one their definition gives."""
    stored = np.array(kinds, dtype=np.uint8)
    mask = np.array([1.0 if kind.bootstraps else 0.0 for kind in kinds])
    np.testing.assert_array_equal((stored != Kind.TERMINATED).astype(float), mask)
    assert [Kind(int(number)) for number in stored] == kinds


def test_numbers_on_disk_never_change() -> None:
    assert [(kind.name, int(kind)) for kind in Kind] == [
        ("FIRST", 0),
        ("MID", 1),
        ("TERMINATED", 2),
        ("TRUNCATED", 3),
    ]
    assert [(source.name, int(source)) for source in Source] == [
        ("POLICY", 0),
        ("HUMAN", 1),
        ("SCRIPT", 2),
        ("SAFETY", 3),
    ]


@pytest.mark.parametrize("name", ["Transition", "Batch", "Command", "RobotSpec", "TaskSpec", "Judgement"])
def test_data_is_frozen(name: str) -> None:
    cls: Any = getattr(types, name)
    assert cls.__dataclass_params__.frozen


def test_a_command_cannot_change_its_epoch() -> None:
    command = Command(np.zeros(7), 3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        command.epoch = 4  # type: ignore[misc]
