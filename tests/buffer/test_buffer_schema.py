import json

import numpy as np
import pytest
from buffer_rows import IMAGES, SCHEMA, episode
from hypothesis import given
from hypothesis import strategies as st

from robolearn.buffer.log import HEAD
from robolearn.buffer.rows import RowPacker, unpack
from robolearn.buffer.schema import FORMAT, Schema
from robolearn.core.errors import CorruptDataError, SpecError, StoreError
from robolearn.core.spec import ArraySpec


@given(
    shapes=st.dictionaries(
        st.text("abcxyz", min_size=1, max_size=4),
        st.tuples(
            st.sampled_from(["float32", "float64", "int16", "uint8", "bool"]), st.lists(st.integers(1, 4), max_size=3)
        ),
        min_size=1,
        max_size=5,
    ),
    actions=st.integers(1, 9),
)
def test_any_layout_is_aligned_and_survives_json(shapes: dict[str, tuple[str, list[int]]], actions: int) -> None:
    schema = Schema(
        {k: ArraySpec(k, tuple(s), d) for k, (d, s) in shapes.items()}, ArraySpec("a", (actions,), low=-1, high=1)
    )
    again = Schema.from_json(json.loads(json.dumps(schema.to_json())))
    assert again.difference(schema) == []
    assert again.fingerprint == schema.fingerprint
    for dtype in (schema.row, schema.sample):
        assert dtype.itemsize % 8 == 0
        end = 0
        for name in dtype.names:
            field, offset = dtype.fields[name][:2]
            assert offset % field.base.itemsize == 0
            assert offset >= end, "fields overlap"
            end = offset + field.itemsize


@pytest.mark.parametrize("schema", [SCHEMA, IMAGES])
def test_rows_survive_packing(schema: Schema) -> None:
    from buffer_rows import same

    packer = RowPacker(schema)
    rows = episode(3, 5, humans=[2], schema=schema)
    packed = [np.frombuffer(bytes(packer.pack(t)), schema.row, offset=HEAD.size)[0] for t in rows]
    assert same([unpack(p, schema) for p in packed], rows)


def test_the_difference_names_what_differs() -> None:
    other = Schema(
        {"q": ArraySpec("q", (4,), unit="rad"), "extra": ArraySpec("extra", ()), "flag": SCHEMA.observation["flag"]},
        ArraySpec("action", (2,), low=-2.0, high=1.0),
    )
    lines = "\n".join(SCHEMA.difference(other))
    assert "observation 'q': shape [3] -> [4]" in lines
    assert "observation 'extra': missing -> float32[]" in lines
    assert "observation 'count': int64[] -> missing" in lines
    assert "action: low -1.0 -> -2.0" in lines
    assert "flag" not in lines


@pytest.mark.parametrize(
    ("observation", "action", "message"),
    [
        ({}, (2,), "at least one"),
        ({"q": ArraySpec("q", (2,))}, (2, 2), r"shape \(A,\)"),
        ({"q": ArraySpec("q", (2,), "complex64")}, (2,), "complex64"),
    ],
)
def test_what_cannot_be_stored_is_refused(
    observation: dict[str, ArraySpec], action: tuple[int, ...], message: str
) -> None:
    with pytest.raises(StoreError, match=message):
        Schema(observation, ArraySpec("action", action))


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"format": FORMAT},
        {"format": FORMAT, "observation": {"q": {}}, "action": {}},
        {"format": FORMAT, "observation": 3},
    ],
)
def test_damaged_json_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(CorruptDataError):
        Schema.from_json(data)


def test_a_future_format_is_refused() -> None:
    with pytest.raises(StoreError, match="format 99"):
        Schema.from_json({**SCHEMA.to_json(), "format": 99})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("q", np.zeros(4, np.float32), r"q: expected shape \(3,\), got \(4,\)"),
        ("q", np.array([1, np.nan, 0], np.float32), "observation/q: expected finite"),
        ("count", np.float64(1.5), "count: expected dtype int64"),
        ("other", np.zeros(1), r"unexpected \['other'\]"),
    ],
)
def test_rows_that_do_not_fit_are_refused(key: str, value: np.ndarray, message: str) -> None:
    import dataclasses

    good = episode(0, 1)[0]
    bad = dataclasses.replace(good, observation={**good.observation, key: value})
    with pytest.raises(SpecError, match=message):
        RowPacker(SCHEMA).pack(bad)


def test_values_out_of_bounds_are_stored_as_they_happened() -> None:
    import dataclasses

    t = dataclasses.replace(episode(0, 1)[1], executed=np.array([5.0, -5.0], np.float32))
    packed = np.frombuffer(bytes(RowPacker(SCHEMA).pack(t)), SCHEMA.row, offset=HEAD.size)[0]
    assert unpack(packed, SCHEMA).executed.tolist() == [5.0, -5.0]
