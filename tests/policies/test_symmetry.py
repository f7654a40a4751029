"""Augmentation: every row in one of the task's views, the same for observation, action and next observation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from robolearn.core.errors import ConfigError
from robolearn.core.spec import ArraySpec
from robolearn.core.symmetry import SignedPermutation, Symmetry
from robolearn.core.types import TaskSpec
from robolearn.policies.parts.observation import ObservationLayout
from robolearn.policies.parts.symmetry import Augmentation

TURN, MIRROR = SignedPermutation((1, 0), (-1, 1)), SignedPermutation((0, 1), (1, -1))
SPEC = TaskSpec(
    "plane",
    {"a": ArraySpec("a", (2,)), "other": ArraySpec("other", (1,))},
    ArraySpec("action", (2,), low=-1.0, high=1.0),
    10,
    10.0,
    (Symmetry({"a": TURN}, TURN), Symmetry({"a": MIRROR}, MIRROR)),
)
LAYOUT = ObservationLayout.of(SPEC)


def test_rows_are_seen_in_one_view_each() -> None:
    augmentation = Augmentation(SPEC, LAYOUT)
    views = augmentation.draw(300, torch.Generator().manual_seed(0))
    assert np.bincount(views).min() > 60
    x = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    seen, actions = augmentation.vectors(x, views), augmentation.actions(x[:, :2], views)
    for view, change in enumerate((SignedPermutation.identity(2), TURN, MIRROR)):
        mine = views == view
        assert np.array_equal(seen[mine][:, :2], change(x[mine][:, :2]))
        assert np.array_equal(actions[mine], seen[mine][:, :2])
    assert np.array_equal(seen[:, 2], x[:, 2])
    assert seen.dtype == actions.dtype == np.float32


def test_statistics_are_those_of_all_views() -> None:
    augmentation = Augmentation(SPEC, LAYOUT)
    rows = np.random.default_rng(1).normal([1.0, -3.0, 5.0], [0.5, 2.0, 1.0], (50, 3)).astype(np.float32)
    every = np.concatenate([augmentation.vectors(rows, np.full(50, view)) for view in range(3)])
    found = augmentation.statistics(
        {"a": (rows[:, :2].mean(0), rows[:, :2].std(0)), "other": (rows[:, 2:].mean(0), rows[:, 2:].std(0))}
    )
    for key, part in (("a", slice(0, 2)), ("other", slice(2, 3))):
        assert np.allclose(found[key][0], every[:, part].mean(0), atol=1e-5)
        assert np.allclose(found[key][1], every[:, part].std(0), atol=1e-5)


def test_switched_off_or_not_declared_nothing_is_drawn() -> None:
    rng = torch.Generator().manual_seed(0)
    before = rng.get_state()
    x = np.ones((4, 3), np.float32)
    for augmentation in (Augmentation(SPEC, LAYOUT, enabled=False), Augmentation(replace(SPEC, symmetries=()), LAYOUT)):
        assert augmentation.views == 1
        assert augmentation.vectors(x, augmentation.draw(4, rng)) is x
    assert torch.equal(rng.get_state(), before)


def test_images_cannot_be_transformed() -> None:
    spec = replace(SPEC, observation={**SPEC.observation, "camera": ArraySpec("camera", (8, 8, 3), "uint8")})
    with pytest.raises(ConfigError, match="declares symmetries, but images"):
        Augmentation(spec, ObservationLayout.of(spec))
    assert Augmentation(spec, ObservationLayout.of(spec), enabled=False).views == 1
