"""Frames of a buffer as a classifier is shown them, and the report it leaves."""

from __future__ import annotations

import json
from pathlib import Path

import labelled_episodes as toy
import numpy as np
import pytest

from robolearn.buffer.index import Index
from robolearn.buffer.seal import seal
from robolearn.buffer.store import StorePaths
from robolearn.core.errors import ConfigError
from robolearn.rewards.parts.saved import read
from robolearn.rewards.parts.train import Config
from robolearn.run.labelled import Labelling, frames, train_classifier, with_intervals
from robolearn.run.stats import wilson


def test_the_final_frames_of_a_success_show_it(tmp_path: Path) -> None:
    written = toy.write(tmp_path, 2, 1)
    found, inputs = frames(tmp_path, (), Labelling(last=2, gap=3))
    assert (inputs.vector, inputs.images) == ({"slider": (toy.SIZE,), "step": ()}, {})
    for number, rows in enumerate(written.values()):
        mine = found.episode == number
        expected = [0] * (len(rows) - 5) + [-1] * 3 + [1] * 2 if number < 2 else [0] * len(rows)
        assert found.label[mine].tolist() == expected
        assert found.row[mine].tolist() == list(range(len(rows)))
        np.testing.assert_array_equal(
            found.observation["slider"][mine], np.stack([row.observation["slider"] for row in rows])
        )


def test_what_people_marked_is_what_counts(tmp_path: Path) -> None:
    first, _, third = toy.write(tmp_path, 2, 1)
    index = Index(StorePaths(tmp_path).index, writable=True)
    index.edit(first, success=False)
    index.edit(third, success=True)
    index.close()
    found, _ = frames(tmp_path, ("step",), Labelling())
    assert [int((found.label[found.episode == n] == 1).sum()) for n in range(3)] == [0, 1, 1]
    assert set(found.observation) == {"step"}


def test_a_filter_selects_episodes(tmp_path: Path) -> None:
    toy.write(tmp_path, 3, 3)
    found, _ = frames(tmp_path, (), Labelling(select="demo,success"))
    assert len(np.unique(found.episode)) == 2  # numbers 0 and 2
    with pytest.raises(ConfigError, match="no complete episodes pass 'robot=nobody'"):
        frames(tmp_path, (), Labelling(select="robot=nobody"))


def test_frames_without_success_are_drawn_where_there_are_too_many(tmp_path: Path) -> None:
    written = toy.write(tmp_path, 4, 8)
    every, _ = frames(tmp_path, (), Labelling())
    some, _ = frames(tmp_path, (), Labelling(most=30))
    assert (some.label == 1).sum() == (every.label == 1).sum() == 4
    assert 15 <= (some.label == 0).sum() <= 45
    rows = list(written.values())
    for number, row, slider in zip(some.episode, some.row, some.observation["slider"], strict=True):
        np.testing.assert_array_equal(slider, rows[number][row].observation["slider"])


def test_images_come_from_the_rows_they_belong_to(tmp_path: Path) -> None:
    written = toy.write(tmp_path, 2, 2, schema=toy.PIXELS)
    seal(tmp_path)
    found, inputs = frames(tmp_path, (), Labelling(most=20))
    assert inputs.images == {"camera": (12, 16, 3)}
    rows = list(written.values())
    for number, row, image in zip(found.episode, found.row, found.observation["camera"], strict=True):
        np.testing.assert_array_equal(image, rows[number][row].observation["camera"])


def test_a_classifier_is_saved_with_intervals_and_where_it_came_from(tmp_path: Path) -> None:
    toy.write(tmp_path / "buffer", 12, 6)
    seal(tmp_path / "buffer")
    steps: list[int] = []
    out = tmp_path / "made"
    train_classifier(tmp_path / "buffer", out, Config(updates=300), keys=("slider",), say=steps.append)
    assert steps == list(range(1, 301))
    report = read(out).report
    assert (report["buffer"], report["keys"]) == (str(tmp_path / "buffer"), ["slider"])
    assert report["labelling"]["gap"] == 2
    for point in report["points"]:
        right, missed = point["true_positives"], point["false_negatives"]
        assert point["recall"] == pytest.approx([right / (right + missed), *wilson(right, right + missed)])
    with pytest.raises(ConfigError, match="holds a classifier already"):
        train_classifier(tmp_path / "buffer", out, Config(updates=1))


def test_intervals_by_hand() -> None:
    point = {"true_positives": 8, "false_positives": 2, "true_negatives": 998, "false_negatives": 0}
    told = with_intervals(point)
    assert told["precision"] == pytest.approx([0.8, 0.4902, 0.9433], abs=1e-4)
    assert told["recall"] == pytest.approx([1.0, 0.6756, 1.0], abs=1e-4)
    assert told["false_positives_per_1000"] == pytest.approx([2.0, 0.5486, 7.2635], abs=1e-3)
    nothing = with_intervals({**point, "true_positives": 0, "false_positives": 0})
    assert nothing["precision"] is None
    assert json.loads(json.dumps(nothing)) == nothing


@pytest.mark.parametrize("bad", [{"last": 0}, {"gap": -1}, {"most": 0}])
def test_wrong_labelling_is_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        Labelling(**bad)  # type: ignore[arg-type]
