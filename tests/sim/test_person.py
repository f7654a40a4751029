"""An imperfect person: misjudges, looks again, lapses, trembles."""

from __future__ import annotations

import numpy as np
import pytest

from robolearn.sim import person
from robolearn.sim.person import Person


def _watch(seed: int, steps: int, spread: float = 1.0) -> tuple[Person, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    somebody = Person(rng, (spread, spread), 3)
    aims, tremors = [], []
    for _ in range(steps):
        somebody.step(rng)
        aims.append(somebody.aim.copy())
        tremors.append(somebody.tremor.copy())
    return somebody, np.array(aims), np.array(tremors)


def test_the_same_generator_gives_the_same_person() -> None:
    for first, second in zip(_watch(3, 50)[1:], _watch(3, 50)[1:], strict=True):
        np.testing.assert_array_equal(first, second)
    assert _watch(3, 1)[0].pace != _watch(4, 1)[0].pace


def test_the_aim_stays_for_a_while_and_is_as_wrong_as_announced() -> None:
    aims = np.concatenate([_watch(seed, 1000, spread=2.0)[1] for seed in range(20)])
    changes = (np.diff(aims[:, 0]) != 0).mean()
    assert 1 / person.PATIENCE < changes < 2 / person.PATIENCE + 2 / person.LAPSE_EVERY
    assert np.median(np.abs(aims)) == pytest.approx(2.0 * 0.6745, rel=0.2), "half of a normal distribution"


def test_lapses_are_rare_and_end() -> None:
    _, aims, _ = _watch(0, 20_000)
    lapsed = np.isclose(np.linalg.norm(aims, axis=1), person.LAPSE_SIZE, atol=1e-9)
    low, high = person.LAPSE
    mean = (low + high) / 2
    assert lapsed.mean() == pytest.approx(mean / (mean + person.LAPSE_EVERY), rel=0.2)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], lapsed.astype(int), [0]])))
    lengths = edges[1::2] - edges[::2]
    assert lengths.min() >= low
    assert np.percentile(lengths, 90) <= high


def test_the_tremor_has_its_size_and_correlation() -> None:
    _, _, tremor = _watch(0, 20_000)
    assert tremor.std() == pytest.approx(person.TREMOR, rel=0.05)
    correlation = np.corrcoef(tremor[:-1, 0], tremor[1:, 0])[0, 1]
    assert correlation == pytest.approx(np.exp(-1 / person.TREMOR_STEPS), rel=0.05)


def test_the_pace_is_within_its_range() -> None:
    paces = [_watch(seed, 1)[0].pace for seed in range(200)]
    assert min(paces) == pytest.approx(person.PACE[0], abs=0.02)
    assert max(paces) == pytest.approx(person.PACE[1], abs=0.02)
