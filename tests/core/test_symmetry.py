"""Signed permutations, and which of them a task may declare."""

from __future__ import annotations

import numpy as np
import pytest

from robolearn.core.errors import SpecError
from robolearn.core.spec import ArraySpec
from robolearn.core.symmetry import SignedPermutation, Symmetry
from robolearn.core.types import TaskSpec

SWAP = SignedPermutation((1, 0), (1, -1))


def test_of_matrix_and_joined_do_what_the_matrix_does() -> None:
    matrix = np.array([[0, -1, 0], [0, 0, 1], [1, 0, 0]])
    change = SignedPermutation.of_matrix(matrix)
    x = np.arange(6.0).reshape(2, 3)
    assert np.array_equal(change(x), x @ matrix.T)
    joined = SignedPermutation.joined(change, SWAP)
    assert joined(np.array([1.0, 2.0, 3.0, 4.0, 5.0])).tolist() == [-2.0, 3.0, 1.0, 5.0, -4.0]
    assert SignedPermutation.identity(3)(x).tolist() == x.tolist()


@pytest.mark.parametrize(("order", "sign"), [((0, 0), (1, 1)), ((0, 2), (1, 1)), ((0, 1), (1, 2)), ((0, 1), (1,))])
def test_what_is_no_signed_permutation_is_refused(order: tuple[int, ...], sign: tuple[int, ...]) -> None:
    with pytest.raises(SpecError, match="expected an order of 0 to 1"):
        SignedPermutation(order, sign)


@pytest.mark.parametrize(
    ("symmetry", "said"),
    [
        (Symmetry({"state": SWAP}, SignedPermutation.identity(3)), r"2 elements of 'state' of shape \(3,\)"),
        (Symmetry({}, SWAP), r"2 elements of 'action' of shape \(3,\)"),
        (Symmetry({"stat": SWAP}, SignedPermutation.identity(3)), "2 elements of no such key"),
    ],
)
def test_a_task_refuses_a_symmetry_that_does_not_fit(symmetry: Symmetry, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        TaskSpec("t", {"state": ArraySpec("state", (3,))}, ArraySpec("action", (3,)), 10, 10.0, (symmetry,))
