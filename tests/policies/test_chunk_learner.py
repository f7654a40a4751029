"""What diffusion and flow share: learning, masks, resuming, starting from a base, planning, errors."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from robolearn.core.errors import ConfigError, ResumeError, SpecError
from robolearn.core.protocols import Learner, Policy
from robolearn.core.types import Base, ChunkBatch, TaskSpec
from robolearn.policies import diffusion, flow
from robolearn.policies.parts.chunk_model import _shifted
from robolearn.policies.parts.chunking import Execution
from robolearn.policies.parts.realtime import Guide

from .chunks import CHUNK, SMALL, chunk_batch
from .helpers import ACTION, assert_resumes, learner, observations, pixel_spec, same, state_spec, statistics

CASES = {
    "flow mlp": (flow, {"net": "mlp"}, state_spec()),
    "flow pixels": (flow, {"net": "mlp"}, pixel_spec()),
    "diffusion mlp": (diffusion, {"net": "mlp"}, state_spec()),
    "diffusion unet pixels": (diffusion, {"net": "unet"}, pixel_spec()),
    "diffusion transformer": (diffusion, {"net": "transformer"}, state_spec()),
}
cases = pytest.mark.parametrize(("family", "values", "spec"), CASES.values(), ids=CASES.keys())
both = pytest.mark.parametrize("family", [flow, diffusion], ids=["flow", "diffusion"])


def config_of(family: ModuleType, **values: Any) -> Any:
    return family.Config(**SMALL | values)


def frames(spec: TaskSpec, count: int = 2) -> dict[str, np.ndarray]:
    return observations(spec, count, np.random.default_rng(5))


@cases
def test_protocols_and_rates(family: ModuleType, values: dict[str, Any], spec: TaskSpec) -> None:
    config = config_of(family, **values)
    made = learner(family, config, spec)
    policy = family.build_policy(config, spec, seed=0)
    assert isinstance(made, Learner)
    assert isinstance(policy, Policy)
    assert (made.batch_rows, made.updates_per_call, made.chunk, made.history) == (24, 3, CHUNK, 2)
    assert (made.online, made.demo_fraction, made.total_updates) == (False, 1.0, 100)
    one = {key: value[0] for key, value in frames(spec).items()}
    np.testing.assert_array_equal(policy.act(one, explore=False), np.zeros(ACTION))
    policy.reset()
    policy.load(made.snapshot())
    action = policy.act(one, explore=True)
    assert (action.shape, action.dtype) == ((ACTION,), np.float32)
    assert np.abs(action).max() > 0.0


@cases
def test_resume_is_bit_exact(family: ModuleType, values: dict[str, Any], spec: TaskSpec) -> None:
    config = config_of(family, **values, observation_noise=0.1)
    made, other = learner(family, config, spec, seed=1), learner(family, config, spec, seed=2)
    assert_resumes(made, other, lambda seed: chunk_batch(spec, made.batch_rows, seed))


@cases
def test_learning_lowers_the_loss(family: ModuleType, values: dict[str, Any], spec: TaskSpec) -> None:
    config = config_of(family, **values, updates=60, lr=1e-2, batch=32, updates_per_call=1)
    made = learner(family, config, spec)
    rows = chunk_batch(spec, made.batch_rows)
    losses = [made.update(rows)["loss"] for _ in range(60)]
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:3])


@both
def test_learning_stops_at_its_budget_and_the_rate_falls(family: ModuleType) -> None:
    spec, config = state_spec(), config_of(family, updates=10, warmup=4)
    made = learner(family, config, spec)
    rates = [made.update(chunk_batch(spec, made.batch_rows))["lr"] for _ in range(4)]
    assert made.updates == made.total_updates == 10
    expected = [0.75, *(0.5 * (1 + np.cos(np.pi * step / 6)) for step in (1, 4, 5))]
    np.testing.assert_allclose(rates, config.lr * np.array(expected), rtol=1e-6)
    weights = made.snapshot()
    assert np.isnan(made.update(chunk_batch(spec, made.batch_rows))["loss"])
    assert same(weights, made.snapshot())


@both
def test_online_there_is_no_end_and_the_rate_stays(family: ModuleType) -> None:
    spec, config = state_spec(), config_of(family, updates=4)
    made = family.build_learner(config, spec, seed=0, statistics=statistics(spec), online=True)
    for _ in range(3):
        metrics = made.update(chunk_batch(spec, made.batch_rows))
    assert (made.online, made.total_updates, made.updates, metrics["lr"]) == (True, 0, 9, config.lr)


def changed(batch: ChunkBatch, where: np.ndarray) -> ChunkBatch:
    """Other actions at (B, H) ``where``."""
    action = batch.action.copy()
    action[where] = -action[where]
    return replace(batch, action=action)


@both
@pytest.mark.parametrize("masked", [True, False])
def test_padding_counts_unless_it_is_masked(family: ModuleType, masked: bool) -> None:
    """The loss, and so the gradient, of one step with other actions in the padding; targets alone, not inputs."""
    made = learner(family, config_of(family, mask_padding=masked, updates_per_call=1), state_spec())
    batch = chunk_batch(state_spec(), made.batch_rows)
    _, _, weight = made._prepared(batch)
    np.testing.assert_array_equal(weight.numpy(), np.where(batch.action_pad & masked, 0.0, 1.0))


@both
def test_actions_that_are_no_demonstrations_have_no_influence(
    family: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors at masked actions change nothing; the same errors at the others do."""
    spec = state_spec()

    def learned(shift_masked: float, shift_others: float) -> Any:
        made = learner(family, config_of(family, updates_per_call=1), spec)
        rows = chunk_batch(spec, made.batch_rows)
        demo = np.ones_like(rows.action_demo)
        demo[1::2, 2:] = False
        rows = replace(rows, action_demo=demo)
        corrupt = made._process.corrupt

        def shifted(action: torch.Tensor, rng: torch.Generator) -> Any:
            noisy, time, target = corrupt(action, rng)
            shift = np.where(demo, shift_others, shift_masked).astype(np.float32)
            return noisy, time, target + torch.from_numpy(shift).unsqueeze(-1)

        monkeypatch.setattr(made._process, "corrupt", shifted)
        made.update(rows)
        return made.state()

    assert same(learned(0.0, 0.0), learned(3.0, 0.0))
    assert not same(learned(0.0, 0.0), learned(0.0, 3.0))


@both
def test_rows_without_any_demonstration_teach_nothing(family: ModuleType) -> None:
    spec = state_spec()
    made = learner(family, config_of(family, weight_decay=0.0), spec)
    rows = chunk_batch(spec, made.batch_rows)
    before = made.snapshot()
    assert made.update(replace(rows, action_demo=np.zeros_like(rows.action_demo)))["loss"] == 0.0
    assert same(before, made.snapshot())


@both
@pytest.mark.parametrize(("key", "value"), [("tcp", np.nan), ("force", np.inf), ("action", np.nan)])
def test_numbers_that_are_not_finite_are_named(family: ModuleType, key: str, value: float) -> None:
    spec = state_spec()
    made = learner(family, config_of(family), spec)
    rows = chunk_batch(spec, made.batch_rows)
    before = made.state()
    (rows.action if key == "action" else rows.observation[key])[3, 1, 0] = value
    with pytest.raises(SpecError, match=f"{key}'?: 1 of 24 rows hold NaN or infinite"):
        made.update(rows)
    assert same(before, made.state())


@both
def test_statistics_that_are_not_finite_are_named(family: ModuleType) -> None:
    broken = {"tcp": (np.full(5, np.nan), np.ones(5)), "force": (np.zeros(2), np.ones(2))}
    with pytest.raises(ConfigError, match="statistics of 'tcp'"):
        family.build_learner(config_of(family), state_spec(), seed=0, statistics=broken)


@both
def test_constant_dimensions_stay_finite(family: ModuleType) -> None:
    spec, config = state_spec(), config_of(family)
    constant = {"tcp": (np.full(5, 2.0), np.zeros(5)), "force": (np.zeros(2), np.zeros(2))}
    made = family.build_learner(config, spec, seed=0, statistics=constant)
    rows = chunk_batch(spec, made.batch_rows)
    rows.observation["tcp"][:] = 2.0
    rows.action[..., 1] = 0.25
    for _ in range(3):
        assert np.isfinite(made.update(rows)["loss"])
    planner = family.build_planner(config, spec, seed=0)
    planner.load(made.snapshot())
    assert np.isfinite(planner.plan(frames(spec), 3)).all()


@both
def test_a_chunk_longer_than_the_episode_is_learned_from_its_last_action(family: ModuleType) -> None:
    """An episode of one step: all but the first action is padding, which repeats it."""
    spec = state_spec()
    for masked in (False, True):
        made = learner(family, config_of(family, mask_padding=masked), spec)
        rows = chunk_batch(spec, made.batch_rows)
        rows.action[:] = rows.action[:, :1]
        rows.action_pad[:, 1:] = True
        assert np.isfinite(made.update(rows)["loss"])


@both
def test_wrong_batch_is_refused(family: ModuleType) -> None:
    made = learner(family, config_of(family), state_spec())
    with pytest.raises(SpecError, match=r"expected a batch of \(24, 4\) actions \(rows, chunk\), got \(24, 3\)"):
        made.update(chunk_batch(state_spec(), 24, chunk=3))


@both
def test_a_base_is_where_it_starts(family: ModuleType) -> None:
    spec, config = state_spec(), config_of(family)
    first = learner(family, config, spec, seed=3)
    first.update(chunk_batch(spec, first.batch_rows))
    weights = {name: array + 0.01 for name, array in first.snapshot().items()}
    name = family.__name__.rsplit(".", 1)[1]
    base = Base(name, config, weights)
    made = family.build_learner(config, spec, seed=0, statistics={}, base=base)
    assert same(made.snapshot(), weights)
    policy, plain = (family.build_policy(config, spec, seed=0, base=b) for b in (base, None))
    plain.load(weights)
    one = {key: value[0] for key, value in frames(spec).items()}
    np.testing.assert_array_equal(policy.act(one), plain.act(one))
    made.update(chunk_batch(spec, made.batch_rows))
    np.testing.assert_array_equal(made.snapshot()["normaliser.mean"], weights["normaliser.mean"])
    for other, message in (
        (Base("bc", config, weights), f"{name} can start from a {name} run, not from one of bc"),
        (Base(name, replace(config, mlp_width=12), weights), r"mlp_width 12 \(here 16\)"),
    ):
        with pytest.raises(ConfigError, match=message):
            family.build_learner(config, spec, seed=0, statistics={}, base=other)


@both
def test_planner_loads_all_or_nothing(family: ModuleType) -> None:
    spec, config = state_spec(), config_of(family)
    planner, twin = (family.build_planner(config, spec, seed=0) for _ in range(2))
    weights = learner(family, config, spec).snapshot()
    planner.load(weights)
    twin.load(weights)
    for array in weights.values():
        array += 1.0
    other = learner(family, replace(config, mlp_width=12), spec).snapshot()
    for refuse in (planner.check, planner.load):
        with pytest.raises(ResumeError, match=r"model\.denoiser\.enter\.weight"):
            refuse(other)
    np.testing.assert_array_equal(planner.plan(frames(spec), 2), twin.plan(frames(spec), 2))


@both
def test_plans_are_independent_and_bounded(family: ModuleType) -> None:
    spec, config = state_spec(), config_of(family)
    planner = family.build_planner(config, spec, seed=0)
    made = learner(family, config, spec)
    weights = {name: array * 3.0 if "leave" in name else array for name, array in made.snapshot().items()}
    planner.load(weights)
    plans = planner.plan(frames(spec), 5)
    assert (plans.shape, plans.dtype) == ((5, CHUNK, ACTION), np.float32)
    assert np.abs(plans).max() <= 1.0
    assert np.abs(plans[0] - plans[1]).max() > 1e-3
    with pytest.raises(SpecError, match="expected 2 observation frames, got 3"):
        planner.plan(frames(spec, 3), 1)
    with pytest.raises(SpecError, match="guide: expected"):
        planner.plan(frames(spec), 1, guide=Guide(plans[0, :2], np.ones(2, np.float32), 5.0))


@both
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"chunk": 0}, "chunk is 0"),
        ({"lr": 0.0}, "lr is 0"),
        ({"warmup": -1}, "warmup is -1"),
        ({"ema_cap": 1.0}, "ema_cap is 1"),
        ({"execution": Execution(execute=9)}, "execution.execute is 9"),
    ],
)
def test_bad_hyperparameters_are_named(family: ModuleType, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(family, **values)


def test_images_of_a_row_are_shifted_as_one() -> None:
    spec = pixel_spec()
    made = learner(flow, config_of(flow, shift_pad=2), spec)
    frame = torch.randint(0, 256, (6, 1, 12, 16, 3), dtype=torch.uint8)
    moved = _shifted(frame.expand(-1, 2, -1, -1, -1), 2, torch.Generator().manual_seed(0))
    assert torch.equal(moved[:, 0], moved[:, 1])
    assert not torch.equal(moved, frame.expand_as(moved))
    images = {key: torch.cat([frame, 255 - frame], 1) for key in ("side", "wrist")}
    features = made._model.condition(torch.zeros(6, 2, 5), images)
    assert features.shape == (6, 2, 5 + 2 * SMALL["image_width"])
    assert (features[:, 0] - features[:, 1]).abs().max() > 1e-3
