"""Success classifiers: trained, split, saved and used."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import labelled_episodes as toy
import numpy as np
import pytest

from robolearn.buffer.schema import Schema
from robolearn.core.errors import ConfigError, CorruptDataError, SpecError
from robolearn.core.spec import Array, ArraySpec
from robolearn.core.types import Judgement, Kind, TaskSpec
from robolearn.rewards import classifier as plugin
from robolearn.rewards.parts import calibrate, saved
from robolearn.rewards.parts.network import Inputs
from robolearn.rewards.parts.saved import Classifier, Shape
from robolearn.rewards.parts.train import Config, Frames, episodes, split, train

QUICK = Config(updates=500, batch=64)


def task(schema: Schema = toy.STATE) -> TaskSpec:
    return TaskSpec("slide", schema.observation, schema.action, 20, 10.0)


def frames(successes: int, failures: int, *, schema: Schema = toy.STATE, first: int = 0, gap: int = 2) -> Frames:
    """Labelled frames of the toy: the last one of a success, and none of the ``gap`` before it."""
    observation: dict[str, list[Array]] = {key: [] for key in schema.observation}
    label, episode, row = [], [], []
    for number in range(first, first + successes + failures):
        success = number < first + successes
        rows = toy.episode(number, success=success, schema=schema)
        for t in rows:
            left = len(rows) - 1 - t.index
            label.append((1 if left == 0 else -1 if left <= gap else 0) if success else 0)
            episode.append(number)
            row.append(t.index)
            for key, value in t.observation.items():
                observation[key].append(value)
    stacked = {key: np.stack(values) for key, values in observation.items()}
    return Frames(stacked, np.array(label, np.int8), np.array(episode), np.array(row))


def trained(data: Frames, config: Config = QUICK, schema: Schema = toy.STATE, keys: tuple[str, ...] = ()) -> Classifier:
    return train(data, Inputs.of(schema.observation, keys), config, Shape(), say=lambda _: None)


@pytest.fixture(scope="module")
def slider() -> Classifier:
    return trained(frames(30, 10), keys=("slider",))


def test_success_is_told_apart_on_episodes_nobody_trained_on(slider: Classifier) -> None:
    fresh = frames(20, 10, first=500)
    above = slider.probabilities(fresh.observation) > slider.threshold
    found = episodes(fresh, above)
    assert found["found"] >= 18
    assert found["false"] == 0
    assert above[fresh.label == 0].mean() < 0.01
    assert set(found["early"]) <= {0, 1, 2}


def test_what_has_nothing_to_do_with_success_is_not_looked_at(slider: Classifier) -> None:
    assert slider.report["used"] < toy.SIZE
    first = slider.network.head[0].weight.detach().norm(dim=0)  # type: ignore[union-attr]
    assert int(first.argmax()) == 0
    dense = trained(frames(30, 10), dataclasses.replace(QUICK, sparsity=0.0), keys=("slider",))
    assert dense.report["used"] == toy.SIZE


def test_the_report_is_what_the_held_out_episodes_say(slider: Classifier) -> None:
    """Every number once more, from the probabilities alone."""
    data, report = frames(30, 10), slider.report
    held = np.isin(data.episode, report["held_out_episodes"])
    counted = held & (data.label >= 0)
    p, label = slider.probabilities(data.observation), data.label == 1
    assert report["held_out"] == {
        "episodes": len(report["held_out_episodes"]),
        "successes": int((counted & label).sum()),
        "others": int((counted & ~label).sum()),
    }
    assert report["training"]["episodes"] == 40 - report["held_out"]["episodes"]
    for point in report["points"]:
        said = p > point["threshold"]
        assert point["true_positives"] == (said & label)[counted].sum()
        assert point["false_positives"] == (said & ~label)[counted].sum()
        assert point["true_negatives"] == (~said & ~label)[counted].sum()
        assert point["false_negatives"] == (~said & label)[counted].sum()
    chosen = next(point for point in report["points"] if point["threshold"] == slider.threshold)
    rate = chosen["false_positives"] / (chosen["false_positives"] + chosen["true_negatives"])
    assert report["target_met"] == (rate <= 0.001)
    assert report["separation"] == pytest.approx(calibrate.separation(p[counted], label[counted]))
    wins = {number for number in report["held_out_episodes"] if number < 30}
    hit = {int(number) for number in data.episode[held & (p > slider.threshold)]}
    assert report["episodes"]["successes"] == len(wins)
    assert report["episodes"]["found"] == len(hit & wins)
    assert report["episodes"]["others"] == len(report["held_out_episodes"]) - len(wins)
    assert report["episodes"]["false"] == len(hit - wins)


def test_training_can_be_repeated_and_depends_on_its_seed() -> None:
    data, quick = frames(8, 4), dataclasses.replace(QUICK, updates=60)
    inputs = Inputs.of(toy.STATE.observation, ("slider",))
    one, same = (train(data, inputs, quick, Shape(), say=lambda _: None) for _ in range(2))
    np.testing.assert_array_equal(one.probabilities(data.observation), same.probabilities(data.observation))
    other = split(data, 0.3, np.random.default_rng(1))
    assert not np.array_equal(other, split(data, 0.3, np.random.default_rng(2)))


def test_pixels_are_told_apart_too() -> None:
    made = trained(frames(16, 8, schema=toy.PIXELS), dataclasses.replace(QUICK, updates=150), toy.PIXELS)
    fresh = frames(10, 6, schema=toy.PIXELS, first=300)
    found = episodes(fresh, made.probabilities(fresh.observation) > made.threshold)
    assert found["found"] >= 8
    assert found["false"] <= 1


@pytest.mark.parametrize("seed", range(4))
def test_no_episode_is_on_both_sides(seed: int) -> None:
    data = frames(6, 3)
    apart = split(data, 0.3, np.random.default_rng(seed))
    held, kept = set(data.episode[apart]), set(data.episode[~apart])
    assert not held & kept
    assert held | kept == set(range(9))
    assert (len([n for n in held if n < 6]), len([n for n in held if n >= 6])) == (2, 1)


def test_two_successes_do_for_a_split_and_one_does_not() -> None:
    apart = split(frames(2, 0), 0.01, np.random.default_rng(0))
    assert apart.any()
    assert not apart.all()
    with pytest.raises(ConfigError, match=r"at least 2 episodes with a success.* got 1 such episodes of 4"):
        split(frames(1, 3), 0.3, np.random.default_rng(0))


def test_whole_episodes_by_hand() -> None:
    data = Frames(
        {}, np.array([0, -1, 1, 0, 0, 1, 0, 0], np.int8), np.array([0, 0, 0, 1, 1, 1, 2, 2]), np.arange(8) % 3
    )
    above = np.array([0, 1, 1, 0, 0, 0, 1, 1], bool)
    assert episodes(data, above) == {"successes": 2, "found": 1, "early": [1], "others": 1, "false": 1}


def test_data_that_cannot_be_learned_from_is_refused() -> None:
    data = frames(4, 2)
    data.observation["slider"][3, 1] = np.nan
    with pytest.raises(SpecError, match="frames: 'slider' is not finite everywhere"):
        trained(data)
    with pytest.raises(ConfigError, match=r"no observation smell \(have: slider, step\)"):
        Inputs.of(toy.STATE.observation, ("smell",))
    for bad in ({"updates": 0}, {"lr": 0.0}, {"noise": -1.0}, {"held_out": 1.0}, {"false_positives": 0.0}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            Config(**bad)  # type: ignore[arg-type]


def test_a_saved_classifier_says_the_same(slider: Classifier, tmp_path: Path) -> None:
    saved.write(slider, tmp_path / "made" / "here")
    again = saved.read(tmp_path / "made" / "here")
    data = frames(2, 2)
    np.testing.assert_array_equal(again.probabilities(data.observation), slider.probabilities(data.observation))
    assert (again.threshold, again.calibration, again.shape) == (slider.threshold, slider.calibration, slider.shape)
    assert again.report == json.loads(json.dumps(slider.report))
    assert {path.suffix for path in (tmp_path / "made" / "here").iterdir()} == {".json", ".safetensors"}


def test_a_damaged_classifier_is_not_used(slider: Classifier, tmp_path: Path) -> None:
    saved.write(slider, tmp_path)
    facts, weights = tmp_path / "classifier.json", tmp_path / "classifier.safetensors"
    whole = weights.read_bytes()
    for damage in (whole[:-4], b"", None):
        weights.unlink(missing_ok=True)
        if damage is not None:
            weights.write_bytes(damage)
        with pytest.raises(CorruptDataError, match="classifier in"):
            saved.read(tmp_path)
    weights.write_bytes(whole)
    text = json.loads(facts.read_text())
    facts.write_text(json.dumps({**text, "vector": {"slider": [5]}}))
    with pytest.raises(CorruptDataError, match="size mismatch"):
        saved.read(tmp_path)
    facts.write_text(json.dumps({**text, "format": 99}))
    with pytest.raises(ConfigError, match="not a classifier of format 1"):
        saved.read(tmp_path)
    facts.write_text("{")
    with pytest.raises(CorruptDataError, match=r"classifier\.json"):
        saved.read(tmp_path)


def reward(slider: Classifier, folder: Path, **options: Any) -> Any:
    saved.write(slider, folder)
    return plugin.build(plugin.Config(str(folder), **options), task())


def seen(place: float) -> dict[str, Array]:
    return toy.frame(place, 3, np.random.default_rng(0))


MID = Judgement(0.0, Kind.MID, False, {"depth_mm": 1.0})


def test_the_reward_ends_the_episode_when_it_sees_a_success(slider: Classifier, tmp_path: Path) -> None:
    made = reward(slider, tmp_path)
    low, high = (made.of(MID, seen(place), taken_over=False) for place in (0.3, 1.0))
    assert (low.reward, low.kind, low.success) == (0.0, Kind.MID, False)
    assert (high.reward, high.kind, high.success) == (1.0, Kind.TERMINATED, True)
    assert low.info["depth_mm"] == 1.0
    assert 0.0 <= low.info["success_probability"] < slider.threshold < high.info["success_probability"] <= 1.0


def test_a_success_must_be_seen_in_consecutive_frames(slider: Classifier, tmp_path: Path) -> None:
    made = reward(slider, tmp_path, consecutive=2)
    places = (1.0, 0.3, 1.0, 1.0)
    assert [made.of(MID, seen(p), taken_over=False).success for p in places] == [False, False, False, True]
    made.reset()
    assert not made.of(MID, seen(1.0), taken_over=False).success


def test_a_threshold_of_ones_own_goes_over_the_chosen_one(slider: Classifier, tmp_path: Path) -> None:
    strict = reward(slider, tmp_path, threshold=0.999999)
    assert not strict.of(MID, seen(1.0), taken_over=False).success


def test_the_task_decides_only_ends_that_are_no_success(slider: Classifier, tmp_path: Path) -> None:
    made = reward(slider, tmp_path)
    for told, kind in (
        (Judgement(1.0, Kind.TERMINATED, True), Kind.MID),
        (Judgement(0.0, Kind.TERMINATED, False), Kind.TERMINATED),
        (Judgement(0.0, Kind.TRUNCATED, False), Kind.TRUNCATED),
    ):
        judged = made.of(told, seen(0.3), taken_over=False)
        assert (judged.reward, judged.kind, judged.success) == (0.0, kind, False)


def test_a_task_that_shows_something_else_is_refused(slider: Classifier, tmp_path: Path) -> None:
    saved.write(slider, tmp_path)
    action = toy.STATE.action
    for observation, message in (
        ({"q": ArraySpec("q", (2,))}, r"does not fit t: no vector 'slider' \(6,\) \(have: q\)"),
        ({"slider": ArraySpec("slider", (7,))}, r"'slider' is float32 \(7,\), expected vector \(6,\)"),
    ):
        with pytest.raises(ConfigError, match=message):
            plugin.build(plugin.Config(str(tmp_path)), TaskSpec("t", observation, action, 20, 10.0))
    for bad in ({"threshold": 1.0}, {"consecutive": 0}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            plugin.Config("x", **bad)  # type: ignore[arg-type]
