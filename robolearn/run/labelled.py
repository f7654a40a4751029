"""Success classifiers from stored episodes: which frames show a success, and what a threshold would do."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robolearn.buffer.files import EpisodeFiles
from robolearn.buffer.filters import Filter
from robolearn.buffer.index import EpisodeRecord, Index
from robolearn.buffer.selecting import selected, wherever
from robolearn.buffer.store import StorePaths
from robolearn.core.checks import at_least
from robolearn.core.errors import ConfigError, StoreError
from robolearn.core.spec import Array
from robolearn.rewards.parts.network import Inputs
from robolearn.rewards.parts.saved import Classifier, Shape, write
from robolearn.rewards.parts.train import Config, Frames, train
from robolearn.run.stats import wilson


@dataclasses.dataclass(frozen=True)
class Labelling:
    """Which stored frames are shown to a classifier, and as what.

    Attributes:
        select: a filter (see ``buffer.filters``) of episodes.
        last: final frames of an episode marked as success that show one.
        gap: frames before those that are not trained on: they look like success, and it does little harm to be early.
        most: frames without success that are kept, drawn evenly.
        seed: of that draw.
    """

    select: str = ""
    last: int = 1
    gap: int = 2
    most: int = 20_000
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(self, 1, "last", "most")
        at_least(self, 0, "gap")

    def label(self, record: EpisodeRecord) -> Array:
        """(rows,) int8 label of each frame of an episode: 1 success, 0 none, -1 left out."""
        label: Array = np.zeros(record.rows, np.int8)
        if record.success:
            label[max(record.rows - self.last - self.gap, 0) :] = -1
            label[max(record.rows - self.last, 0) :] = 1
        return label


def frames(root: Path, keys: tuple[str, ...], labelling: Labelling) -> tuple[Frames, Inputs]:
    """Labelled frames of a buffer, and what is in them.

    Raises:
        ConfigError: a key is not observed, or no episode passes the filter.
        StoreError, CorruptDataError: the buffer cannot be read.
    """
    index = Index(StorePaths(root).index, writable=False)
    try:
        with EpisodeFiles(StorePaths(root), index) as files:
            inputs = Inputs.of(files.schema.observation, keys)
            chosen = _chosen(list(selected(index, files, Filter.parse(labelling.select))), labelling)
            if not chosen:
                raise ConfigError(
                    f"{root}: no complete episodes" + f" pass '{labelling.select}'" * bool(labelling.select)
                )
            parts = []
            for number, (record, rows, label) in enumerate(chosen):
                observation = wherever(record, index, lambda now, rows=rows: _read(files, now, inputs, rows))  # type: ignore[misc]
                if observation is not None:
                    parts.append(Frames(observation, label, np.full(len(rows), number), rows))
    finally:
        index.close()
    observation = {key: np.concatenate([part.observation[key] for part in parts]) for key in parts[0].observation}
    label, episode, row = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("label", "episode", "row")
    )
    return Frames(observation, label, episode, row), inputs


def _chosen(records: Sequence[EpisodeRecord], labelling: Labelling) -> list[tuple[EpisodeRecord, Array, Array]]:
    """(episode, its rows that are kept, their labels)."""
    labels = [labelling.label(record) for record in records]
    share = min(1.0, labelling.most / max(sum(int((label == 0).sum()) for label in labels), 1))
    rng, found = np.random.default_rng(labelling.seed), []
    for record, label in zip(records, labels, strict=True):
        rows = np.flatnonzero((label != 0) | (rng.random(len(label)) < share))
        if len(rows):
            found.append((record, rows, label[rows]))
    return found


def _read(files: EpisodeFiles, record: EpisodeRecord, inputs: Inputs, rows: Array) -> dict[str, Array]:
    low = files.low_dim(record)
    observation = {key: np.array(low[f"observation/{key}"][rows]) for key in inputs.vector}
    for key, shape in inputs.images.items():
        observation[key] = np.empty((len(rows), *shape), np.uint8)
        files.images(record, key, rows, observation[key])
    return observation


def train_classifier(
    root: Path,
    out: Path,
    config: Config,
    *,
    keys: tuple[str, ...] = (),
    labelling: Labelling | None = None,
    shape: Shape | None = None,
    say: Callable[[int], None] = lambda _: None,
) -> Classifier:
    """Train a classifier from a buffer and save it with its report in a new folder.

    Raises:
        ConfigError: the folder holds a classifier, or the episodes do not do.
        StoreError: the buffer cannot be read.
    """
    if (out / "classifier.json").exists():
        raise ConfigError(f"{out} holds a classifier already; choose another folder with --out")
    if out.exists() and not out.is_dir():
        raise StoreError(f"{out} is no folder")
    labelling = labelling or Labelling()
    found, inputs = frames(root, keys, labelling)
    made = train(found, inputs, config, shape or Shape(), say=say)
    facts = {"buffer": str(root), "keys": [*inputs.vector, *inputs.images], "labelling": dataclasses.asdict(labelling)}
    report = {**made.report, **facts, "points": [with_intervals(point) for point in made.report["points"]]}
    made = dataclasses.replace(made, report=report)
    write(made, out)
    return made


def with_intervals(point: dict[str, Any]) -> dict[str, Any]:
    """Counts of a threshold with what they mean: precision, recall and false positives per 1000 frames, each with its
    95 % Wilson interval; None where there is nothing to count."""
    right, wrong = point["true_positives"], point["false_positives"]
    return {
        **point,
        "precision": _share(right, right + wrong),
        "recall": _share(right, right + point["false_negatives"]),
        "false_positives_per_1000": _share(wrong, wrong + point["true_negatives"], 1000.0),
    }


def _share(count: int, of: int, scale: float = 1.0) -> list[float] | None:
    """[share, low, high]."""
    return [scale * value for value in (count / of, *wilson(count, of))] if of else None
