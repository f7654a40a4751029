"""Families that learn from a person's corrections: whose steps enter which loss, resuming, starting from a base."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from robolearn.buffer.replay import Replay
from robolearn.buffer.schema import Schema
from robolearn.buffer.writer import Writer
from robolearn.core import config as typed
from robolearn.core.errors import ConfigError
from robolearn.core.protocols import Learner, Policy
from robolearn.core.spec import Array
from robolearn.core.types import Base, ChunkBatch, Kind, Source, TaskSpec, Transition
from robolearn.policies import bc, flow, hg_dagger, hil_rlpd, rlif
from robolearn.policies.parts.chunking import Execution
from robolearn.teleop import scripted

from .helpers import (
    ACTION,
    assert_resumes,
    batch,
    learner,
    observations,
    one_of,
    pixel_spec,
    same,
    state_spec,
    statistics,
)

BC = bc.Config(hidden=16, batch=8, updates_per_call=3)
FLOW = flow.Config(mlp_width=16, mlp_blocks=1, batch=8, updates_per_call=2, chunk=4, execution=Execution(execute=2))
DAGGER = hg_dagger.Config(bc=BC, flow=FLOW, correction_share=0.25)
SMALL: dict[str, Any] = {"critics": 3, "hidden": 16, "batch": 8, "utd": 3}
CASES: dict[str, tuple[ModuleType, Any]] = {
    "hg_dagger bc": (hg_dagger, replace(DAGGER, imitation="bc")),
    "hg_dagger flow": (hg_dagger, DAGGER),
    "hil_rlpd": (hil_rlpd, hil_rlpd.Config(**SMALL)),
    "rlif": (rlif, rlif.Config(**SMALL)),
}
families = pytest.mark.parametrize(("family", "config"), CASES.values(), ids=CASES.keys())


def chunks(spec: TaskSpec, made: Learner, seed: int = 0, action_demo: Array | None = None) -> ChunkBatch:
    """Random chunks, of which the first action is demonstrated and the others may be."""
    rng, rows = np.random.default_rng(seed), made.batch_rows
    frames = observations(spec, rows * made.history, rng)
    if action_demo is None:
        action_demo = rng.random((rows, made.chunk)) < 0.6
        action_demo[:, 0] = True
    return ChunkBatch(
        observation={key: value.reshape(rows, made.history, *value.shape[1:]) for key, value in frames.items()},
        action=rng.uniform(-1.0, 1.0, (rows, made.chunk, spec.action.size)).astype(np.float32),
        observation_pad=np.zeros((rows, made.history), bool),
        action_pad=np.zeros((rows, made.chunk), bool),
        demo=action_demo[:, 0],
        action_demo=action_demo,
    )


def rows_of(made: Learner, spec: TaskSpec, seed: int) -> Any:
    return chunks(spec, made, seed) if made.chunk else batch(spec, made.batch_rows, seed)


def feed(made: Learner, spec: TaskSpec, seed: int) -> dict[str, float]:
    return made.update(rows_of(made, spec, seed))


# -------------------------------------------------------------------------------- a buffer with every kind of step

SPEC = state_spec()
OWN, CORRECTION, DEMO, SAFETY = 0.1, 0.2, 0.3, 0.4
"""First component of an executed action: who it was."""


def episode(writer: Writer, name: str, sources: list[Source], *, demo: bool) -> None:
    marks = {Source.POLICY: OWN, Source.HUMAN: CORRECTION, Source.SCRIPT: DEMO, Source.SAFETY: SAFETY}
    rng, zeros = np.random.default_rng(0), np.zeros(ACTION, np.float32)
    for index in range(len(sources) + 1):
        seen = {key: value[0] for key, value in observations(SPEC, 1, rng).items()}
        source = sources[max(index - 1, 0)]
        action = zeros if index == 0 else np.full(ACTION, marks[source], np.float32)
        last = index == len(sources)
        kind = Kind.FIRST if index == 0 else Kind.TRUNCATED if last else Kind.MID
        human = action if source is Source.HUMAN and index else None
        writer.append(Transition(name, index, seen, zeros, action, human, source, 0.0, 1.0, kind, 0, index))
    writer.end_episode(success=False, demo=demo)


@pytest.fixture
def replay(tmp_path: Path) -> Iterator[Replay]:
    schema = Schema(SPEC.observation, SPEC.action)
    policy, human, safety = Source.POLICY, Source.HUMAN, Source.SAFETY
    with Writer(tmp_path, schema, name="a", robot="r", task="t") as writer:
        episode(writer, "0" * 32, [Source.SCRIPT] * 6, demo=True)
        episode(writer, "1" * 32, [policy, policy, human, human, human, policy, safety, policy], demo=False)
        episode(writer, "2" * 32, [policy] * 5, demo=False)
    made = Replay(tmp_path, schema)
    made.refresh()
    yield made
    made.close()


def drawn(replay: Replay, made: Any) -> dict[float, float]:
    """Who executed the first action -> share of a large batch."""
    rng, mixture = np.random.default_rng(0), getattr(made, "mixture", None)
    kwargs: dict[str, Any] = {"demo_fraction": made.demo_fraction, "mixture": mixture, "rng": rng}
    if made.chunk:
        who = replay.sample_chunks(4000, history=made.history, chunk=made.chunk, **kwargs).action[:, 0, 0]
    else:
        who = replay.sample(4000, horizon=made.horizon, gamma=made.gamma, **kwargs).action[:, 0]
    values, counts = np.unique(np.round(who, 3), return_counts=True)
    return dict(zip(values.astype(float).round(3).tolist(), (counts / len(who)).tolist(), strict=True))


@pytest.mark.parametrize("imitation", ["bc", "flow"])
def test_hg_dagger_clones_demonstrations_and_corrections_alone(replay: Replay, imitation: Any) -> None:
    config = replace(DAGGER, imitation=imitation, correction_share=0.0)
    shares = drawn(replay, learner(hg_dagger, config, SPEC))
    assert shares == {DEMO: pytest.approx(6 / 9, abs=0.03), CORRECTION: pytest.approx(3 / 9, abs=0.03)}
    weighted = drawn(replay, learner(hg_dagger, replace(config, correction_share=0.75), SPEC))
    assert weighted == {DEMO: pytest.approx(0.25, abs=1e-3), CORRECTION: pytest.approx(0.75, abs=1e-3)}


def test_hil_rlpd_sees_a_correction_in_both_halves(replay: Replay) -> None:
    shares = drawn(replay, learner(hil_rlpd, hil_rlpd.Config(**SMALL), SPEC))
    # half of 6 demonstrated and 3 corrected steps, half of 13 online steps of which 3 are corrections
    assert shares[DEMO] == pytest.approx(6 / 18, abs=0.03)
    assert shares[CORRECTION] == pytest.approx(3 / 18 + 3 / 26, abs=0.03)
    assert shares[OWN] == pytest.approx(9 / 26, abs=0.03)
    config = hil_rlpd.Config(**SMALL, correction_share=0.5)
    shares = drawn(replay, learner(hil_rlpd, config, SPEC))
    assert shares[DEMO] == pytest.approx(0.25, abs=1e-3)
    assert shares[CORRECTION] == pytest.approx(0.25 + 3 / 26, abs=0.03)


def test_rlif_learns_from_all_steps_or_from_the_policys_own(replay: Replay) -> None:
    every = drawn(replay, learner(rlif, rlif.Config(**SMALL, demo_fraction=0.5), SPEC))
    assert set(every) == {OWN, CORRECTION, DEMO, SAFETY}
    own = drawn(replay, learner(rlif, rlif.Config(**SMALL, demo_fraction=0.5, data="policy"), SPEC))
    assert set(own) == {OWN, DEMO, SAFETY}
    assert own[DEMO] == pytest.approx(0.5, abs=1e-3)


def test_imitation_has_a_weight_of_its_own_while_rlif_pretrains() -> None:
    """One call of pretraining: there the marks of demonstrations matter, afterwards (weight 0) they do not."""
    made, other = (learner(rlif, rlif.Config(**SMALL, pretrain=1), SPEC) for _ in range(2))
    data = batch(SPEC, made.batch_rows)
    unmarked = replace(data, demo=np.zeros_like(data.demo))
    made.update(data)
    other.update(unmarked)
    assert not same(made.snapshot(), other.snapshot())
    other.restore(made.state())
    made.update(data)
    other.update(unmarked)
    assert same(made.state(), other.state())


# ------------------------------------------------------------------------------------------- chunks end at release


def test_what_the_policy_did_changes_no_update() -> None:
    made, other = (learner(hg_dagger, DAGGER, SPEC) for _ in range(2))
    data = chunks(SPEC, made)
    after = ~np.logical_and.accumulate(data.action_demo, axis=1)
    assert after.any()
    changed = replace(data, action=np.where(after[:, :, None], -data.action, data.action))
    assert made.update(data) == other.update(changed)
    assert same(made.state(), other.state())
    first = data.action.copy()
    first[:, 0] *= -1.0  # what was demonstrated does count
    assert made.update(data) != other.update(replace(data, action=first))


@settings(max_examples=100, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 5), st.integers(1, 8))), st.integers(0, 99))
def test_a_chunk_ends_where_hands_let_go(action_demo: Array, seed: int) -> None:
    action_demo[:, 0] = True
    rows, length = action_demo.shape
    action = np.random.default_rng(seed).uniform(-1.0, 1.0, (rows, length, 2)).astype(np.float32)
    pad = np.zeros_like(action_demo)
    data = ChunkBatch({}, action.copy(), pad[:, :1], pad, action_demo[:, 0], action_demo.copy())
    ended = hg_dagger.ended_at_release(data)
    for row in range(rows):
        end = next((i for i in range(length) if not action_demo[row, i]), length)
        np.testing.assert_array_equal(ended.action[row, :end], action[row, :end])
        np.testing.assert_array_equal(ended.action[row, end:], np.tile(action[row, end - 1], (length - end, 1)))
        assert ended.action_demo[row].tolist() == [True] * end + [False] * (length - end)
    again = hg_dagger.ended_at_release(ended)
    np.testing.assert_array_equal(again.action, ended.action)
    np.testing.assert_array_equal(data.action, action)  # the replay's memory is left alone


# ------------------------------------------------------------------------------------- protocols, resume, base, errors


@families
def test_protocols_and_flags(family: ModuleType, config: Any) -> None:
    made = learner(family, config, SPEC)
    assert isinstance(made, Learner)
    assert isinstance(family.build_policy(config, SPEC, seed=0), Policy)
    assert made.online
    assert family.ONLINE
    assert family.HUMAN
    assert getattr(family, "REWARD", "") == ("intervention" if family is rlif else "")
    assert getattr(family, "BASE", "") == ("optional" if family is hg_dagger else "")
    assert config.utd * 8 >= made.updates_per_call  # what the limiter asks for with its usual slack


@families
def test_the_policy_takes_what_the_learner_gives(family: ModuleType, config: Any) -> None:
    made = learner(family, config, SPEC)
    feed(made, SPEC, 0)
    policy = family.build_policy(config, SPEC, seed=0)
    policy.load(made.snapshot())
    policy.reset()
    seen = one_of(SPEC)
    action = policy.act(seen, explore=False)
    assert action.shape == (ACTION,)
    assert 0.0 < np.abs(action).max() <= 1.0


@families
def test_resume_is_bit_exact(family: ModuleType, config: Any) -> None:
    made, other = learner(family, config, SPEC, seed=1), learner(family, config, SPEC, seed=2)
    assert_resumes(made, other, lambda seed: rows_of(made, SPEC, seed))


def test_cloning_goes_on_at_its_learning_rate() -> None:
    config = replace(DAGGER, imitation="bc", bc=replace(BC, updates=3, lr=2e-3))
    made = learner(hg_dagger, config, SPEC)
    rates = [feed(made, SPEC, seed)["lr"] for seed in range(3)]
    assert rates == pytest.approx([2e-3] * 3, rel=1e-6)
    online = learner(hg_dagger, replace(DAGGER, flow=replace(FLOW, updates=3, warmup=0)), SPEC)
    assert [feed(online, SPEC, seed)["lr"] for seed in range(3)] == [FLOW.lr] * 3


@pytest.mark.parametrize("algo", ["bc", "flow"])
def test_starts_as_its_base_and_moves_on(algo: str) -> None:
    module, config = (bc, BC) if algo == "bc" else (flow, FLOW)
    trained = learner(module, config, SPEC, seed=5)
    feed(trained, SPEC, 0)
    base = Base(algo, config, trained.snapshot())
    other = "flow" if algo == "bc" else "bc"  # the base decides who learns
    asked = replace(DAGGER, imitation=other, bc=replace(BC, batch=4, hidden=99), flow=replace(FLOW, batch=4, chunk=2))
    made = hg_dagger.build_learner(asked, SPEC, seed=0, statistics=statistics(SPEC), base=base)
    assert same(made.snapshot(), base.weights)
    assert made.batch_rows == 4 * config.updates_per_call  # the network is the base's, the learning the run's
    policy = hg_dagger.build_policy(asked, SPEC, seed=3, base=base)
    theirs = module.build_policy(config, SPEC, seed=3)
    theirs.load(base.weights)
    seen = one_of(SPEC)
    np.testing.assert_array_equal(policy.act(seen, explore=False), theirs.act(seen, explore=False))
    feed(made, SPEC, 1)
    assert not same(made.snapshot(), base.weights)


def test_bases_that_cannot_be_are_named() -> None:
    with pytest.raises(ConfigError, match="family 'rlpd'; expected one of flow, diffusion, bc"):
        hg_dagger.build_policy(DAGGER, SPEC, seed=0, base=Base("rlpd", None, {}))
    other = learner(bc, BC, replace(pixel_spec(), observation={"tcp": SPEC.observation["tcp"]}))
    base = Base("bc", BC, other.snapshot())
    with pytest.raises(ConfigError, match=r"another task.*normaliser.mean expected \(7,\), got \(5,\)"):
        hg_dagger.build_learner(DAGGER, SPEC, seed=0, statistics=statistics(SPEC), base=base)


@pytest.mark.parametrize(
    ("family", "change"),
    [
        (hg_dagger, {"imitation": "rlpd"}),
        (hg_dagger, {"utd": 0.0}),
        (hg_dagger, {"pretrain": -1}),
        (hg_dagger, {"correction_share": 1.0}),
        (hil_rlpd, {"correction_share": 1.5}),
        (hil_rlpd, {"gamma": 2.0}),
        (hil_rlpd, {"actor_every": -1}),
        (rlif, {"data": "policy_and_last"}),
        (rlif, {"critics": 0}),
        (rlif, {"pretrain_bc_weight": -0.1}),
    ],
)
def test_bad_hyperparameters_are_named(family: ModuleType, change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        family.Config(**change)


def test_every_setting_is_documented() -> None:
    for family in (hg_dagger, hil_rlpd, rlif):
        inherited = {f.name for base in family.Config.__mro__[1:-1] for f in fields(base)}
        for field in fields(family.Config):
            assert field.name in inherited or field.name in (family.Config.__doc__ or "")


@pytest.mark.parametrize("family", [hg_dagger, hil_rlpd, rlif])
def test_a_familys_person_is_one_that_can_be(family: ModuleType) -> None:
    person = typed.from_dict(scripted.Config, family.SCRIPT)
    assert (
        person.disagree > 0.0 or person.hurry > 0.0
    )  # a person who only helps when it is stuck or late corrects nothing before
