"""Rewards from text: one, or several added up.

    task
    intervention(reward=-0.5)
    classifier:DIR                       what follows the colon is the plug-in's main option (its ``VALUE``)
    task+0.5*intervention
    0*classifier(path="a+b",consecutive=2) + task

A term is ``[NUMBER*]NAME[:VALUE][(OPTION=VALUE,...)]``; NAME is a module of ``robolearn.rewards`` or an entry point of
the group ``robolearn.reward``. It exports a frozen ``Config``, ``build(config, spec)`` and, maybe, ``VALUE``, ``FEED``
(what has to feed it while robots move, where nothing does yet) and ``freeze(config, folder)``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from robolearn.core import config as typed
from robolearn.core import plugins
from robolearn.core.errors import ConfigError
from robolearn.core.protocols import Reward
from robolearn.core.spec import Observation
from robolearn.core.types import Judgement, Kind, TaskSpec
from robolearn.core.yaml_loader import parse as parse_yaml

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_QUOTED = r'"[^"]*"'
_TERM = re.compile(
    rf"\s*(?:(?P<weight>{_NUMBER})\s*\*\s*)?(?P<name>[A-Za-z_]\w*)\s*"
    rf"(?::\s*(?P<value>{_QUOTED}|[^+()\"]+?)\s*)?"
    rf"(?:\((?P<options>(?:{_QUOTED}|[^()\"])*)\)\s*)?(?=\+|$)"
)
_OPTION = re.compile(rf"\s*([A-Za-z_]\w*)\s*=\s*({_QUOTED}|[^,\"]*?)\s*(?:,|$)")
_EXPECTED = "expected e.g. task, classifier:DIR or task+0.5*intervention(reward=-1)"


@dataclass(frozen=True)
class Term:
    """One summand: ``weight`` times the reward ``name`` with these options."""

    weight: float
    name: str
    value: str | None
    options: dict[str, str]


def parse(text: str) -> tuple[Term, ...]:
    """The terms of a text.

    Raises:
        ConfigError: it cannot be understood from some place on, which the message shows.
    """
    terms, place = [], 0
    while True:
        match = _TERM.match(text, place)
        if match is None:
            rest = text[place:].strip() or "nothing"
            raise ConfigError(f"reward '{text}': cannot understand '{rest}'; {_EXPECTED}")
        weight = float(match["weight"] or 1.0)
        if not math.isfinite(weight):
            raise ConfigError(f"reward '{text}': weight {match['weight']} is not finite")
        value = match["value"]
        terms.append(Term(weight, match["name"], value and value.strip('"'), _options(text, match["options"])))
        place = match.end()
        if place == len(text):
            return tuple(terms)
        place += 1  # the plus


def _options(text: str, given: str | None) -> dict[str, str]:
    options: dict[str, str] = {}
    place, given = 0, (given or "").strip()
    while place < len(given):
        match = _OPTION.match(given, place)
        if match is None:
            raise ConfigError(f"reward '{text}': expected OPTION=VALUE,... in parentheses, got '{given[place:]}'")
        if match[1] in options:
            raise ConfigError(f"reward '{text}': option '{match[1]}' is given twice")
        options[match[1]] = match[2]
        place = match.end()
    return options


def build_reward(text: str, spec: TaskSpec, *, frozen: Path | None = None) -> Reward:
    """The reward that a text describes, for a task.

    Args:
        frozen: folder that ``freeze`` has filled; what is there is taken in place of what the text names.

    Raises:
        ConfigError: the text cannot be understood, there is no such reward, an option is wrong, or a reward does not
            fit the task.
    """
    terms = parse(text)
    rewards = [_build(term, spec, None if frozen is None else frozen / str(i)) for i, term in enumerate(terms)]
    if len(terms) == 1 and terms[0].weight == 1.0:
        return rewards[0]
    return Sum([(term.weight, reward) for term, reward in zip(terms, rewards, strict=True)])


def freeze(text: str, folder: Path) -> None:
    """Copy the files that rewards of a text are made of into a folder, so that what is done to them later changes
    nothing. What is there already stays.

    Raises:
        ConfigError, CorruptDataError: there are none, or they are damaged.
    """
    for i, term in enumerate(parse(text)):
        module, config = _config(term)
        if hasattr(module, "freeze"):
            module.freeze(config, folder / str(i))


def check_fed(text: str) -> None:
    """Refuse rewards that wait for something nobody gives while robots move.

    Raises:
        ConfigError: one of the text is such a reward.
    """
    for term in parse(text):
        feed = getattr(plugins.load("reward", term.name), "FEED", "")
        if feed:
            raise ConfigError(
                f"reward '{term.name}' waits for {feed}: no step would ever be a success; train with another one"
            )


def _build(term: Term, spec: TaskSpec, frozen: Path | None) -> Reward:
    module, config = _config(term)
    if frozen is not None and hasattr(module, "freeze"):
        config = module.freeze(config, frozen)
    reward: Reward = module.build(config, spec)
    return reward


def _config(term: Term) -> tuple[ModuleType, Any]:
    """The plug-in of a term, and its configuration."""
    module = plugins.load("reward", term.name)
    given = {key: _value(module.Config, key, text, term.name) for key, text in term.options.items()}
    if term.value is not None:
        main = getattr(module, "VALUE", None)
        if main is None:
            raise ConfigError(f"reward '{term.name}' takes nothing after a colon; write {term.name}(OPTION=VALUE)")
        if main in given:
            raise ConfigError(f"reward '{term.name}': its {main} is given twice")
        given[main] = _value(module.Config, main, term.value, term.name)
    return module, typed.from_dict(module.Config, given, path=term.name)


def _value(config: type, key: str, text: str, name: str) -> Any:
    """The value of an option; what is meant as text stays text."""
    if text.startswith('"') or typed.hints(config).get(key) is str:
        return text.strip('"')
    return parse_yaml(text, f"{name}.{key}")


class Sum:
    """Rewards added up with weights; each is told what the task said.

    Whether an episode ends, and whether that is a success, is decided by those parts whose ``decides`` is not False:
    it ends when one of them ends it, terminal before truncated, and is a success when it is one for any of them. Where
    no part decides, the task does.

    Args:
        parts: (weight, reward).

    Attributes:
        parts: them.
        looks_ahead: any of them does. Only those are asked again when it turns out that a human takes over; what the
            others said of the step is remembered, so that they see each step once.
    """

    def __init__(self, parts: Sequence[tuple[float, Reward]]) -> None:
        self.parts = tuple(parts)
        self.looks_ahead = any(reward.looks_ahead for _, reward in parts)
        self._step: tuple[Observation, Judgement, list[Judgement]] | None = None

    def reset(self) -> None:
        """A new episode begins."""
        self._step = None
        for _, reward in self.parts:
            reward.reset()

    def of(self, judgement: Judgement, after: Observation, *, taken_over: bool) -> Judgement:
        """The judgement with the sum as its reward; asked again of a step, with the same ``after``, it answers anew
        from what the task said at first."""
        if taken_over and self._step is not None and self._step[0] is after:
            judgement, before = self._step[1:]
            said = [
                reward.of(judgement, after, taken_over=taken_over) if reward.looks_ahead else old
                for (_, reward), old in zip(self.parts, before, strict=True)
            ]
        else:
            said = [reward.of(judgement, after, taken_over=taken_over) for _, reward in self.parts]
        self._step = (after, judgement, said)
        total = sum(weight * one.reward for (weight, _), one in zip(self.parts, said, strict=True))
        deciding = [one for (_, reward), one in zip(self.parts, said, strict=True) if getattr(reward, "decides", True)]
        info = {key: value for one in said for key, value in one.info.items()}
        return replace(_ended(judgement, deciding), reward=total, info=info)


def _ended(judgement: Judgement, deciding: Sequence[Judgement]) -> Judgement:
    if not deciding:
        return judgement
    kinds = {one.kind for one in deciding}
    kind = next((kind for kind in (Kind.TERMINATED, Kind.TRUNCATED) if kind in kinds), Kind.MID)
    return replace(judgement, kind=kind, success=any(one.success for one in deciding))
