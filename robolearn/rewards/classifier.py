"""A learned success classifier: success when its probability stays above a threshold.

    r = 1 and a terminal state once p(success | frame) > threshold in ``consecutive`` frames in a row, else 0

What the task takes for a success does not count: the episode goes on, and where it cannot (an environment that has
ended) it is truncated. Where the task ends for another reason the episode ends. A run keeps a copy of its classifier.
Train: ``robolearn reward train RUN --out DIR``; use: ``robolearn train TASK --reward classifier:DIR``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from robolearn.core.checks import at_least, within
from robolearn.core.errors import ConfigError
from robolearn.core.protocols import Reward
from robolearn.core.spec import Observation
from robolearn.core.types import Judgement, TaskSpec
from robolearn.rewards.parts.judging import decided

if TYPE_CHECKING:
    from robolearn.rewards.parts.saved import Classifier

VALUE = "path"
"""Option that is given after a colon: ``classifier:DIR``."""


@dataclass(frozen=True)
class Config:
    """Which classifier, and when it is believed.

    Attributes:
        path: folder of the classifier.
        threshold: above which a frame is a success, in (0, 1); 0 takes the one chosen when it was trained.
        consecutive: frames in a row that must be above it.
    """

    path: str = ""
    threshold: float = 0.0
    consecutive: int = 1

    def __post_init__(self) -> None:
        within(self, 0, 1, "threshold", of="classifier.", open_end=True)
        at_least(self, 1, "consecutive", of="classifier.")


def build(config: Config, spec: TaskSpec) -> Reward:
    """The reward of a classifier for a task.

    Raises:
        ConfigError: there is no classifier, or the task does not show what it looks at.
    """
    if not config.path:
        raise ConfigError("reward 'classifier': which one? classifier:DIR")
    from robolearn.rewards.parts.saved import read

    classifier = read(Path(config.path))
    differences = classifier.network.inputs.differences(spec.observation)
    if differences:
        raise ConfigError(
            f"the classifier in {config.path} does not fit {spec.name}: {'; '.join(differences)} "
            f"(have: {', '.join(sorted(spec.observation))})"
        )
    return ClassifierReward(config, classifier)


def freeze(config: Config, folder: Path) -> Config:
    """Copy the classifier into a folder, where that has none yet; the configuration that takes the copy.

    Raises:
        ConfigError, CorruptDataError: there is no sound classifier.
    """
    from robolearn.rewards.parts.saved import exists, read, write

    if not exists(folder):
        write(read(Path(config.path)), folder)
    return replace(config, path=str(folder))


class ClassifierReward:
    """See the module's docstring."""

    looks_ahead = False

    def __init__(self, config: Config, classifier: Classifier) -> None:
        self._classifier, self._consecutive = classifier, config.consecutive
        self._threshold = config.threshold or classifier.threshold
        self._above = 0

    def reset(self) -> None:
        """Frames of the last episode count no more."""
        self._above = 0

    def of(self, judgement: Judgement, after: Observation, *, taken_over: bool) -> Judgement:
        """The judgement as the classifier has it; ``info`` says its probability (``success_probability``)."""
        inputs = self._classifier.network.inputs
        frame = {key: np.asarray(after[key])[None] for key in (*inputs.vector, *inputs.images)}
        probability = float(self._classifier.probabilities(frame)[0])
        self._above = self._above + 1 if probability > self._threshold else 0
        judged = decided(judgement, self._above >= self._consecutive, 1.0)
        return replace(judged, info={**judgement.info, "success_probability": probability})
