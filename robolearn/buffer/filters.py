"""Filters: which steps of which episodes, written as text.

A filter is a list of terms joined by commas, all of which must hold. A term is a condition, ``!`` and a condition, or
several of those joined by ``|`` of which one must hold. Conditions:

    demo, success, truncated, recovered     marks of the episode
    robot=arm1, task=peg, writer=a, tag=x   text of the episode, whole (``!=`` too)
    reward>=1, steps<50                     total reward and length of the episode
    intervention                            the step was executed by a human
    source=human|source=script              who executed the step (policy, human, script, safety)
    policy>=10                              version of the weights that acted in the step

``demo|intervention`` are demonstrations and every step a human executed; the empty text is everything.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robolearn.buffer.index import EpisodeRecord
from robolearn.core.errors import StoreError, suggest
from robolearn.core.types import Source

Mask = NDArray[np.bool_]
_MARKS = ("demo", "success", "truncated", "recovered")
_TEXTS = ("robot", "task", "tag", "writer")
_NUMBERS = {"reward": "total_reward", "steps": "transitions"}
_WORDS = (*_MARKS, *_TEXTS, *_NUMBERS, "intervention", "source", "policy")
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    ">=": operator.ge, "<=": operator.le, "!=": operator.ne, ">": operator.gt, "<": operator.lt, "=": operator.eq,
}  # fmt: skip
_CONDITION = re.compile(r"(!?)\s*([a-z_]+)\s*(?:(>=|<=|!=|=|>|<)\s*(.*?))?\s*")


@dataclass(frozen=True)
class Condition:
    """One condition; ``compare`` and ``value`` are None for a plain word."""

    word: str
    compare: str | None
    value: str | float | None
    negated: bool

    def episode(self, record: EpisodeRecord) -> bool | None:
        """Whether it holds for all steps of an episode (True), for none (False), or depends on the step (None)."""
        if self.word in _MARKS:
            return bool(getattr(record, self.word)) != self.negated
        if self.word in _TEXTS or self.word in _NUMBERS:
            value = getattr(record, _NUMBERS.get(self.word, self.word))
            return bool(_COMPARE[self.compare or "="](value, self.value)) != self.negated
        return None if self._may_hold(record) else False

    def _may_hold(self, record: EpisodeRecord) -> bool:
        """Whether it can hold for a step, by what the index has counted of all steps."""
        compare = _COMPARE[self.compare or "="]
        if self.word == "policy" and self.compare not in ("=", "!="):
            ends = [bool(compare(v, self.value)) != self.negated for v in (record.policy_min, record.policy_max)]
            return any(ends)
        by_human = self.word == "intervention" or (self.value == "human" and self.compare == "=")
        return not (by_human and not self.negated and record.interventions == 0)

    def steps(self, source: NDArray[np.uint8], policy: NDArray[np.int64]) -> Mask:
        """(n,) for which of n steps a condition on steps holds."""
        if self.word == "policy":
            found = _COMPARE[self.compare or "="](policy, self.value)
        else:
            code = Source.HUMAN if self.value is None else Source[str(self.value).upper()]
            found = _COMPARE[self.compare or "="](source, code)
        return np.asarray(found != self.negated)


@dataclass(frozen=True)
class Filter:
    """All of ``terms`` must hold; of the conditions in a term, one. Made by ``parse``."""

    text: str
    terms: tuple[tuple[Condition, ...], ...]

    @classmethod
    def parse(cls, text: str) -> Filter:
        """A filter from text (see the module).

        Raises:
            StoreError: it makes no sense; the message says what would.
        """
        terms = [term.strip() for term in text.split(",")] if text.strip() else []
        return cls(
            ",".join(terms), tuple(tuple(_condition(part.strip(), text) for part in t.split("|")) for t in terms)
        )

    @property
    def names(self) -> frozenset[str]:
        """Attributes of an episode's entry that it looks at."""
        words = {_NUMBERS.get(c.word, c.word) for term in self.terms for c in term}
        return frozenset(words - {"intervention", "source", "policy"})

    def episode(self, record: EpisodeRecord) -> bool:
        """Whether an episode can have steps that pass, as far as the index knows."""
        return all(any(c.episode(record) is not False for c in term) for term in self.terms)

    def steps(self, record: EpisodeRecord, source: NDArray[np.uint8], policy: NDArray[np.int64]) -> Mask:
        """(n,) which of n steps of an episode pass.

        Args:
            record: its index entry.
            source: (n,) who executed each step.
            policy: (n,) version of the weights that acted.
        """
        passed = np.ones(len(source), bool)
        for term in self.terms:
            verdicts = [c.episode(record) for c in term]
            if True in verdicts:
                continue
            some = np.zeros(len(source), bool)
            for condition, verdict in zip(term, verdicts, strict=True):
                if verdict is None:
                    some |= condition.steps(source, policy)
            passed &= some
        return passed


def _condition(part: str, text: str) -> Condition:
    match = _CONDITION.fullmatch(part)
    if match is None:
        raise StoreError(f"filter '{text}': cannot read '{part}'; expected e.g. success, !demo, robot=arm1, policy>=10")
    bang, word, compare, value = match.groups()
    if word not in _WORDS:
        raise StoreError(f"filter '{text}': unknown word '{word}'{suggest(word, _WORDS)}")
    plain = word in _MARKS or word == "intervention"
    if plain != (compare is None) or (compare is not None and not value):
        raise StoreError(f"filter '{text}': expected {word + ' alone' if plain else word + '=VALUE'}, got '{part}'")
    if word in (*_TEXTS, "source") and compare not in ("=", "!="):
        raise StoreError(f"filter '{text}': expected = or != after {word}, got '{compare}'")
    if word == "source" and value.upper() not in Source.__members__:
        raise StoreError(f"filter '{text}': unknown source '{value}'{suggest(value, [s.name.lower() for s in Source])}")
    if word in _NUMBERS or word == "policy":
        try:
            return Condition(word, compare, float(value), bool(bang))
        except ValueError:
            raise StoreError(f"filter '{text}': expected a number after {word}{compare}, got '{value}'") from None
    return Condition(word, compare, value, bool(bang))
