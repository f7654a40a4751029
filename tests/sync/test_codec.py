import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robolearn.core.errors import CorruptDataError
from robolearn.sync.codec import Snapshot, decode, encode


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "actor.0": rng.standard_normal((5, 3)).astype(np.float32),
        "steps": np.array([7], dtype=np.int64),
        "empty": np.zeros((0, 4), dtype=np.float32),
    }


@given(version=st.integers(0, 2**40), steps=st.integers(0, 2**40))
def test_what_is_encoded_is_decoded_bit_for_bit(version: int, steps: int) -> None:
    snapshot = decode(encode(Snapshot(version, steps, weights())))
    assert (snapshot.version, snapshot.steps) == (version, steps)
    assert snapshot.weights.keys() == weights().keys()
    for name, array in weights().items():
        assert snapshot.weights[name].dtype == array.dtype
        np.testing.assert_array_equal(snapshot.weights[name], array)


@given(position=st.integers(0), bit=st.integers(0, 7))
def test_any_flipped_bit_is_noticed(position: int, bit: int) -> None:
    data = bytearray(encode(Snapshot(1, 2, weights())))
    data[position % len(data)] ^= 1 << bit
    with pytest.raises(CorruptDataError):
        decode(bytes(data))


@given(length=st.integers(0, 200))
def test_a_part_is_never_taken_for_the_whole(length: int) -> None:
    data = encode(Snapshot(1, 2, weights()))
    with pytest.raises(CorruptDataError):
        decode(data[: min(length, len(data) - 1)])
