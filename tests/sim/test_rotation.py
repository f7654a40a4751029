"""Algebra of quaternions and rotation vectors."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from robolearn.sim import rotation

vectors = st.tuples(*[st.floats(-1.7, 1.7)] * 3).map(np.array)


def _reference(v: np.ndarray) -> Rotation:
    return Rotation.from_rotvec(v)


@given(vectors)
def test_rotvec_round_trip_and_matrix(v: np.ndarray) -> None:
    q = rotation.from_rotvec(v)
    assert abs(np.linalg.norm(q) - 1) < 1e-12
    np.testing.assert_allclose(rotation.matrix(q), _reference(v).as_matrix(), atol=1e-12)
    np.testing.assert_allclose(rotation.to_rotvec(q), _reference(v).as_rotvec(), atol=1e-9)
    np.testing.assert_allclose(rotation.to_rotvec(-q), _reference(v).as_rotvec(), atol=1e-9)


@given(vectors, vectors)
def test_product_turns_by_the_right_factor_first(a: np.ndarray, b: np.ndarray) -> None:
    product = rotation.multiply(rotation.from_rotvec(a), rotation.from_rotvec(b))
    np.testing.assert_allclose(rotation.matrix(product), (_reference(a) * _reference(b)).as_matrix(), atol=1e-12)
    inverse = rotation.multiply(product, rotation.conjugate(product))
    np.testing.assert_allclose(inverse, [1, 0, 0, 0], atol=1e-12)


@given(vectors, vectors)
def test_cross(a: np.ndarray, b: np.ndarray) -> None:
    np.testing.assert_allclose(rotation.cross(a, b), np.cross(a, b), atol=1e-12)


def test_tiny_turns_keep_their_precision() -> None:
    v = np.array([1e-9, -2e-9, 3e-10])
    np.testing.assert_allclose(rotation.to_rotvec(rotation.from_rotvec(v)), v, rtol=1e-9)
