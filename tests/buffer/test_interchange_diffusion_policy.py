import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from buffer_rows import contents, records
from numcodecs import Blosc
from zarr.storage import LocalStore, ZipStore

from robolearn.buffer.interchange import import_diffusion_policy
from robolearn.buffer.verify import verify
from robolearn.core.errors import CorruptDataError, StoreError
from robolearn.core.types import Kind

ENDS = [4, 7, 12]


def _arrays() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "action": rng.uniform(0, 512, (12, 2)).astype(np.float32),
        "state": rng.normal(size=(12, 5)).astype(np.float32),
        "img": rng.integers(0, 256, (12, 6, 8, 3)).astype(np.float32),
        "camera": rng.integers(0, 256, (12, 4, 4, 3), np.uint8),
        "n_contacts": rng.integers(0, 3, (12, 1)).astype(np.float32),
    }


def _write(store: Any, arrays: dict[str, Any], ends: Any = ENDS) -> None:
    group = zarr.open_group(store, mode="w", zarr_format=2)
    for name, values in {**{f"data/{k}": v for k, v in arrays.items()}, "meta/episode_ends": np.array(ends)}.items():
        group.create_array(name, data=values, chunks=(5, *values.shape[1:]), compressors=Blosc("zstd", 5))


def _buffer(path: Path, change: Callable[[dict[str, Any]], None] | None = None, ends: Any = ENDS) -> Path:
    arrays = _arrays()
    if change:
        change(arrays)
    _write(LocalStore(path), arrays, ends)
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_episodes_come_whole(tmp_path: Path, packed: bool) -> None:
    source = tmp_path / ("pusht.zarr.zip" if packed else "pusht.zarr")
    if packed:
        with ZipStore(source, mode="w") as store:
            _write(store, _arrays())
    else:
        _buffer(source)
    summary = import_diffusion_policy(source, tmp_path / "buffer", action_range=([0, 0], [512, 512]), fps=10)
    assert (summary.episodes, summary.steps, summary.action_high) == (3, 12, (512.0, 512.0))
    sent, found = _arrays(), records(tmp_path / "buffer")
    assert [(r.transitions, r.task, r.demo, r.success, r.truncated) for r in found] == [
        (n, "pusht", True, False, True) for n in (4, 3, 5)
    ]
    for record, start, end in zip(found, [0, *ENDS], ENDS, strict=False):
        rows = contents(tmp_path / "buffer")[record.uuid]
        assert rows[-1].kind is Kind.TRUNCATED
        assert [t.stamp_ns for t in rows] == [100_000_000 * i for i in range(end - start + 1)]
        np.testing.assert_allclose([t.executed for t in rows[1:]], sent["action"][start:end] / 256 - 1, atol=1e-6)
        for key in ("state", "camera", "img", "n_contacts"):
            values = np.array([t.observation[key] for t in rows])
            np.testing.assert_array_equal(values[:-1], sent[key][start:end])
            np.testing.assert_array_equal(values[-1], values[-2])
            assert values.dtype == (np.uint8 if key in ("img", "camera") else np.float32)
    assert verify(tmp_path / "buffer").ok
    assert import_diffusion_policy(source, tmp_path / "buffer", action_range=([0, 0], [512, 512])).skipped == 3


def test_actions_as_they_are_need_a_range(tmp_path: Path) -> None:
    source = _buffer(tmp_path / "pusht.zarr")
    with pytest.raises(StoreError, match=r"episode 0: actions are outside \[-1, 1\]"):
        import_diffusion_policy(source, tmp_path / "buffer")
    assert not (tmp_path / "buffer").exists()
    other = import_diffusion_policy(source, tmp_path / "buffer", action_range="data", keys={"state": "s"})
    assert other.episodes == 3
    assert other.action_low == tuple(map(float, _arrays()["action"].min(0)))


def test_rewards_and_times_are_used(tmp_path: Path) -> None:
    def more(arrays: dict[str, Any]) -> None:
        arrays["action"] /= 512
        arrays["reward"] = np.arange(12.0)
        arrays["timestamp"] = 1e9 + 0.5 * np.arange(12.0)

    import_diffusion_policy(
        _buffer(tmp_path / "a.zarr", more), tmp_path / "buffer", success=True, robot="ur5", task="x"
    )
    first = records(tmp_path / "buffer")[0]
    assert (first.robot, first.task, first.success) == ("ur5", "x", True)
    rows = contents(tmp_path / "buffer")[first.uuid]
    assert [t.reward for t in rows] == [0, 0, 1, 2, 3]
    assert np.diff([t.stamp_ns for t in rows]).tolist() == [500_000_000] * 4
    assert rows[0].observation.keys() == {"state", "img", "camera", "n_contacts"}


def _nan(arrays: dict[str, Any]) -> None:
    arrays["state"][5, 2] = np.nan


def _short(arrays: dict[str, Any]) -> None:
    arrays["camera"] = arrays["camera"][:-1]


def _no_action(arrays: dict[str, Any]) -> None:
    del arrays["action"]


def _unit_image(arrays: dict[str, Any]) -> None:
    arrays["img"] /= 255


@pytest.mark.parametrize(
    ("change", "ends", "message"),
    [
        (_nan, ENDS, "episode 1: 'state' row 1: expected finite"),
        (_short, ENDS, r"'data/camera': expected 12 rows.*\(11, 4, 4, 3\)"),
        (_no_action, ENDS, "'data/action' is missing"),
        (None, [4, 4, 12], "growing numbers"),
        (None, [4, 7, 13], "expected 13 rows"),
        (None, [0.5, 7, 12], "growing numbers"),
    ],
)
def test_a_bad_buffer_is_refused_before_anything_is_written(
    tmp_path: Path, change: Any, ends: Any, message: str
) -> None:
    source = _buffer(tmp_path / "a.zarr", change, ends)
    with pytest.raises(StoreError, match=message):
        import_diffusion_policy(source, tmp_path / "buffer", action_range="data")
    assert not (tmp_path / "buffer").exists()


def test_images_from_0_to_1_are_refused(tmp_path: Path) -> None:
    source = _buffer(tmp_path / "a.zarr", _unit_image)
    with pytest.raises(CorruptDataError, match="episode 0: 'data/img': expected an image with values from 0 to 255"):
        import_diffusion_policy(source, tmp_path / "buffer", action_range="data")
    assert records(tmp_path / "buffer") == []


@pytest.mark.parametrize("key", ["state", "img"])
@pytest.mark.parametrize("left", [0, 20, 100])
def test_a_truncated_chunk_is_named(tmp_path: Path, key: str, left: int) -> None:
    source = _buffer(tmp_path / "a.zarr")
    chunk = next((source / "data" / key).glob("1.*"))
    chunk.write_bytes(chunk.read_bytes()[:left])
    with pytest.raises(CorruptDataError, match=rf"'data/{key}': chunk 1\.0.* is truncated"):
        import_diffusion_policy(source, tmp_path / "buffer", action_range="data")
    assert not (tmp_path / "buffer").exists()


def test_a_chunk_that_does_not_decode_is_named(tmp_path: Path) -> None:
    source = _buffer(tmp_path / "a.zarr")
    chunk = next((source / "data/img").glob("1.*"))
    chunk.write_bytes(b"\xff" * 12 + (500).to_bytes(4, "little") + b"\xff" * 484)
    with pytest.raises(CorruptDataError, match="episode 1: 'data/img' cannot be read"):
        import_diffusion_policy(source, tmp_path / "buffer", action_range="data")
    assert [r.transitions for r in records(tmp_path / "buffer")] == [4]
    assert verify(tmp_path / "buffer").ok


def test_a_missing_chunk_is_no_row_of_zeros(tmp_path: Path) -> None:
    source = _buffer(tmp_path / "a.zarr")
    next((source / "data/state").glob("1.*")).unlink()
    with pytest.raises(CorruptDataError, match="'data/state': 1 of 3 chunks are missing"):
        import_diffusion_policy(source, tmp_path / "buffer", action_range="data")
    assert not (tmp_path / "buffer").exists()
    assert import_diffusion_policy(source, tmp_path / "buffer", action_range="data", empty_chunks=True).episodes == 3


def test_other_things_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such file"):
        import_diffusion_policy(tmp_path / "nothing", tmp_path / "buffer")
    (tmp_path / "x.zip").write_bytes(b"PK nonsense")
    with pytest.raises(StoreError, match="not a zarr v2 group"):
        import_diffusion_policy(tmp_path / "x.zip", tmp_path / "buffer")
    zarr.open_group(LocalStore(tmp_path / "y.zarr"), mode="w", zarr_format=2)
    with pytest.raises(StoreError, match="episode_ends"):
        import_diffusion_policy(tmp_path / "y.zarr", tmp_path / "buffer")
    source = _buffer(tmp_path / "z.zarr")
    shutil.rmtree(source / "meta")
    with pytest.raises(StoreError, match="episode_ends"):
        import_diffusion_policy(source, tmp_path / "buffer")
