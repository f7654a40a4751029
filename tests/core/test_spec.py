"""ArraySpec: round trips, and every way in which an array can be wrong."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robolearn.core.errors import SpecError
from robolearn.core.spec import ArraySpec, validate_all

shapes: st.SearchStrategy[tuple[int, ...]] = st.lists(st.integers(0, 4), max_size=3).map(tuple)
floats = st.sampled_from(["float32", "float64"])


@st.composite
def specs(draw: st.DrawFn) -> ArraySpec:
    shape = draw(shapes)
    dtype = draw(st.sampled_from(["float32", "float64", "uint8", "int64", "bool"]))
    per_element: bool = draw(st.booleans())
    if shape and per_element:
        low = tuple(draw(st.lists(st.integers(-5, 0).map(float), min_size=shape[-1], max_size=shape[-1])))
        high = tuple(draw(st.sampled_from([1.0, 2.5, math.inf])) for _ in low)
        return ArraySpec("x", shape, dtype, "m", low, high)
    bounds = draw(st.sampled_from([(-math.inf, math.inf), (0.0, 1.0), (-1.0, math.inf), (0.0, 255.0)]))
    return ArraySpec("x", shape, dtype, draw(st.text(max_size=5)), *bounds)


@given(specs())
def test_json_round_trip(spec: ArraySpec) -> None:
    assert ArraySpec.from_json(json.loads(json.dumps(spec.to_json(), allow_nan=False))) == spec


@given(specs(), st.randoms(use_true_random=False))
def test_what_is_clipped_is_valid_and_clipping_again_changes_nothing(spec: ArraySpec, random: Any) -> None:
    raw = np.array([random.uniform(-300, 300) for _ in range(spec.size)]).reshape(spec.shape)
    if spec.dtype in ("uint8", "bool"):
        raw = raw % 2
    clipped = spec.clip(raw)
    assert clipped.dtype == np.dtype(spec.dtype)
    np.testing.assert_array_equal(spec.validate(clipped), clipped)
    np.testing.assert_array_equal(spec.clip(clipped), clipped)


@given(floats, st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3))
def test_values_within_bounds_pass_unchanged(dtype: str, values: list[float]) -> None:
    spec = ArraySpec("x", (3,), dtype, low=(-1.0, -1.0, -1.0), high=1.0)
    np.testing.assert_array_equal(spec.validate(np.array(values)), np.array(values, dtype=dtype))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros(2, np.float32), r"expected shape \(3,\), got \(2,\)"),
        (np.array([0, np.nan, 0], np.float32), "finite"),
        (np.array([0, np.inf, 0], np.float32), "finite"),
        (np.array([0, 0, 1.5], np.float32), "within"),
        (np.array([0, 0, -1.5], np.float32), "within"),
        (np.zeros(3, np.complex64), "dtype float32"),
        (np.array(["a", "b", "c"]), "dtype float32"),
    ],
)
def test_what_is_wrong_is_named(value: Any, message: str) -> None:
    with pytest.raises(SpecError, match=f"^force: .*{message}"):
        ArraySpec("force", (3,), low=-1, high=1).validate(value)


def test_images_are_not_silently_made_of_floats() -> None:
    with pytest.raises(SpecError, match="dtype uint8, got float64"):
        ArraySpec("camera", (2, 2, 3), "uint8").validate(np.zeros((2, 2, 3)))


@given(floats)
def test_clipping_does_not_hide_nan(dtype: str) -> None:
    with pytest.raises(SpecError, match="finite"):
        ArraySpec("x", (1,), dtype, low=-1, high=1).clip([np.nan])


@pytest.mark.parametrize(
    "values",
    [
        {"shape": (3,), "low": (0.0, 0.0)},
        {"shape": (), "low": (0.0,)},
        {"shape": (2,), "low": 1.0, "high": 0.0},
        {"shape": (2,), "low": (0.0, 2.0), "high": (1.0, 1.0)},
        {"shape": (-1,)},
    ],
)
def test_impossible_specs_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=r"^x: "):
        ArraySpec("x", **values)


def test_zeros_has_shape_and_dtype() -> None:
    zeros = ArraySpec("x", (2, 3), "uint8").zeros()
    assert zeros.shape == (2, 3)
    assert zeros.dtype == np.uint8
    assert not zeros.any()


def test_missing_and_unexpected_keys_are_named() -> None:
    all_specs = {"a": ArraySpec("a", (1,)), "b": ArraySpec("b", (1,))}
    with pytest.raises(SpecError, match=r"missing \['b'\], unexpected \['c'\]"):
        validate_all(all_specs, {"a": np.zeros(1), "c": np.zeros(1)})
    assert set(validate_all(all_specs, {"a": np.zeros(1), "b": np.zeros(1)})) == {"a", "b"}
