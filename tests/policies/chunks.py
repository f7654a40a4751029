"""Chunks to learn from: random ones, and a toy with two ways of doing the same."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from robolearn.core.spec import Array, ArraySpec
from robolearn.core.types import ChunkBatch, TaskSpec
from robolearn.policies.parts.chunking import Execution
from robolearn.policies.parts.planner import GenerativePlanner
from robolearn.policies.parts.realtime import Guide

from .helpers import observations

CHUNK = 4
SMALL: dict[str, Any] = {
    "chunk": CHUNK, "history": 2, "execution": Execution(execute=2), "inference_steps": 4, "mlp_width": 16,
    "mlp_blocks": 1, "unet_channels": (8, 16), "transformer_width": 16, "transformer_layers": 2,
    "transformer_heads": 2, "batch": 8, "updates": 100, "updates_per_call": 3, "warmup": 2,
    "image_channels": (4, 4), "image_width": 6, "shift_pad": 1,
}  # fmt: skip
"""Values of a tiny policy."""
MODE = 0.6
TWO = TaskSpec("two", {"x": ArraySpec("x", (2,))}, ArraySpec("action", (1,), low=-1.0, high=1.0), 20, 10.0)
"""Whatever is observed, a demonstration does either +MODE or -MODE, for a whole chunk."""
HERE = {"x": np.zeros((1, 2), np.float32)}
"""An observation of ``TWO``."""


def chunk_batch(spec: TaskSpec, rows: int, seed: int = 0, history: int = 2, chunk: int = CHUNK) -> ChunkBatch:
    """Random rows of demonstrations; the last action of every fourth is padding."""
    rng = np.random.default_rng(seed)
    flat = observations(spec, rows * history, rng)
    pad = np.zeros((rows, chunk), bool)
    pad[::4, -1] = True
    return ChunkBatch(
        {key: value.reshape(rows, history, *value.shape[1:]) for key, value in flat.items()},
        rng.uniform(-1.0, 1.0, (rows, chunk, spec.action.size)).astype(np.float32),
        np.zeros((rows, history), bool),
        pad,
        np.ones(rows, bool),
        np.ones((rows, chunk), bool),
    )


def two_ways(rows: int, rng: np.random.Generator) -> ChunkBatch:
    """Demonstrations of ``TWO``."""
    sign = np.where(rng.random((rows, 1, 1)) < 0.5, -1.0, 1.0)
    return ChunkBatch(
        {"x": rng.standard_normal((rows, 1, 2)).astype(np.float32)},
        np.broadcast_to(MODE * sign, (rows, CHUNK, 1)).astype(np.float32),
        np.zeros((rows, 1), bool),
        np.zeros((rows, CHUNK), bool),
        np.ones(rows, bool),
        np.ones((rows, CHUNK), bool),
    )


def unit(spec: TaskSpec) -> dict[str, tuple[Array, Array]]:
    """Mean 0 and deviation 1."""
    vectors = {key: array for key, array in spec.observation.items() if array.dtype != "uint8"}
    return {key: (np.zeros(a.shape, np.float32), np.ones(a.shape, np.float32)) for key, a in vectors.items()}


def learned_two_ways(family: ModuleType, **values: Any) -> GenerativePlanner:
    """A planner that has learned ``TWO``."""
    config = family.Config(
        **SMALL | {"history": 1, "mlp_width": 64, "mlp_blocks": 2, "batch": 128, "updates": 500, "lr": 2e-3,
                   "warmup": 50, "updates_per_call": 10, "inference_steps": 10} | values
    )  # fmt: skip
    learner = family.build_learner(config, TWO, seed=0, statistics=unit(TWO))
    rng = np.random.default_rng(0)
    while learner.updates < learner.total_updates:
        learner.update(two_ways(learner.batch_rows, rng))
    planner: GenerativePlanner = family.build_planner(config, TWO, seed=0)
    planner.load(learner.snapshot())
    return planner


def assert_in_both_modes(planner: GenerativePlanner, *, between: float, loyal: float) -> None:
    """Samples of what learned ``TWO`` are of either mode, at most a share ``between`` of the actions lies between the
    two, and at least a share ``loyal`` in the mode in which its plan begins."""
    plans = planner.plan(HERE, 400)[..., 0]
    up = plans[:, 0] > 0.0
    assert 0.35 < up.mean() < 0.65
    assert (np.abs(plans) < MODE / 2).mean() < between
    assert np.median(np.abs(np.abs(plans) - MODE)) < 0.05
    assert ((plans > 0.0) == up[:, None]).mean() > loyal


def assert_guided_plans_keep_the_prefix_and_its_mode(planner: GenerativePlanner, sign: float) -> None:
    """Of what learned ``TWO``, guided to the mode of a ``sign``; what is not guided goes either way."""
    weights = np.array([1.0, 1.0, 0.4, 0.0], np.float32)
    previous = np.full((CHUNK, 1), sign * MODE, np.float32)
    guide = Guide(previous, weights, 5.0)
    plans = np.concatenate([planner.plan(HERE, 1, guide=guide) for _ in range(60)])
    assert np.abs(plans[:, :2] - previous[:2]).max() < 1e-5
    assert (np.sign(plans[:, 2:, 0]) == sign).mean() > 0.9
    free = planner.plan(HERE, 60)
    assert (np.sign(free[:, 2:, 0]) == sign).mean() < 0.75


def assert_a_guide_without_weights_changes_nothing(family: ModuleType) -> None:
    """Plans are the same as without a guide, to the bit."""
    first, second = learned_two_ways(family, updates=20), learned_two_ways(family, updates=20)
    guide = Guide(np.full((CHUNK, 1), 0.9, np.float32), np.zeros(CHUNK, np.float32), 5.0)
    np.testing.assert_array_equal(first.plan(HERE, 3), second.plan(HERE, 3, guide=guide))
