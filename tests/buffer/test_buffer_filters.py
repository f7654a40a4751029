"""Filters are text that selects steps."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robolearn.buffer.filters import Filter
from robolearn.buffer.index import EpisodeRecord
from robolearn.core.errors import StoreError
from robolearn.core.types import Source

RECORD = EpisodeRecord(
    uuid="00" * 16, writer="actor", log="a-1.log", offset=0, rows=5, state="complete", robot="arm1", task="peg",
    source="policy", demo=False, success=True, interventions=1, total_reward=2.0, policy_min=3, policy_max=12,
    truncated=False, recovered=False, first_stamp_ns=0, last_stamp_ns=4, unix_ns=0, tag="good",
)  # fmt: skip
SOURCES = np.array([Source.POLICY, Source.HUMAN, Source.POLICY, Source.SCRIPT], np.uint8)
VERSIONS = np.array([3, 3, 10, 12])


def steps(text: str, **changes: object) -> list[int]:
    record = dataclasses.replace(RECORD, **changes)  # type: ignore[arg-type]
    found = np.flatnonzero(Filter.parse(text).steps(record, SOURCES, VERSIONS)).tolist()
    if found:
        assert Filter.parse(text).episode(record)
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [0, 1, 2, 3]),
        ("success", [0, 1, 2, 3]),
        ("!success", []),
        ("demo", []),
        ("intervention", [1]),
        ("!intervention", [0, 2, 3]),
        ("source=human", [1]),
        ("source!=script", [0, 1, 2]),
        ("source=human|source=script", [1, 3]),
        ("success, intervention", [1]),
        ("demo|intervention", [1]),
        ("!demo,source!=script", [0, 1, 2]),
        ("policy>=10", [2, 3]),
        ("policy<10", [0, 1]),
        ("policy=10", [2]),
        ("!policy>=10", [0, 1]),
        ("policy>=10|intervention", [1, 2, 3]),
        ("policy>=13", []),
        ("robot=arm1,task=peg,tag=good,writer=actor", [0, 1, 2, 3]),
        ("robot!=arm1", []),
        ("!robot=arm2", [0, 1, 2, 3]),
        ("robot=arm2|robot=arm1", [0, 1, 2, 3]),
        ("reward>=2,steps<=4", [0, 1, 2, 3]),
        ("reward>2", []),
        ("truncated|recovered", []),
    ],
)
def test_what_a_filter_selects(text: str, expected: list[int]) -> None:
    assert steps(text) == expected


def test_marks_of_the_episode_decide() -> None:
    assert steps("demo|intervention", demo=True) == [0, 1, 2, 3]
    assert steps("!demo,source!=script", demo=True) == []


def test_what_the_index_knows_rules_episodes_out() -> None:
    no_human = dataclasses.replace(RECORD, interventions=0)
    assert not Filter.parse("intervention").episode(no_human)
    assert Filter.parse("intervention").episode(RECORD)
    assert not Filter.parse("policy>=13").episode(RECORD)
    assert not Filter.parse("policy<3").episode(RECORD)
    assert Filter.parse("policy=7").episode(RECORD)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sucess", "did you mean 'success'"),
        ("success=1", "expected success alone"),
        ("robot", "expected robot=VALUE"),
        ("robot=", "expected robot=VALUE"),
        ("robot>arm1", "expected = or !="),
        ("source=robot", "unknown source 'robot'"),
        ("policy>=new", "expected a number after policy>="),
        ("success,,demo", "cannot read ''"),
        ("success intervention", "cannot read"),
    ],
)
def test_nonsense_is_refused(text: str, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        Filter.parse(text)


@given(st.lists(st.sampled_from(["demo", "!success", "intervention", "policy>4", "robot=arm1"]), max_size=4))
def test_commas_are_and(terms: list[str]) -> None:
    expected = set(range(4))
    for term in terms:
        expected &= set(steps(term))
    assert steps(",".join(terms)) == sorted(expected)
