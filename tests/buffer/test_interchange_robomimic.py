import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from buffer_rows import contents, records

from robolearn.buffer.interchange import import_robomimic
from robolearn.buffer.verify import verify
from robolearn.core.errors import CorruptDataError, StoreError
from robolearn.core.types import Kind, Source

LENGTHS = {"demo_0": 3, "demo_2": 5, "demo_10": 4}
ENV = {"env_name": "Lift", "type": 1, "env_kwargs": {"robots": ["Panda"], "control_freq": 20, "reward_shaping": False}}


def _obs(number: int, steps: int) -> dict[str, Any]:
    """Observations 0 to ``steps``."""
    rng = np.random.default_rng(number)
    return {
        "robot0_eef_pos": rng.normal(size=(steps + 1, 3)),
        "agentview_image": rng.integers(0, 256, (steps + 1, 8, 9, 3), np.uint8),
    }


def _file(path: Path, *, env: dict[str, Any] | None = None, next_obs: bool = True) -> Path:
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps(ENV if env is None else env)
        data.attrs["total"] = sum(LENGTHS.values())
        for number, (name, steps) in enumerate(LENGTHS.items()):
            demo = data.create_group(name)
            demo.attrs["num_samples"] = steps
            rng = np.random.default_rng([1, number])
            demo["actions"] = rng.uniform(-1, 1, (steps, 7))
            demo["rewards"] = np.r_[np.zeros(steps - 1), 1.0 if number != 1 else 0.0]
            demo["dones"] = np.r_[np.zeros(steps - 1, np.int64), 1]
            demo["states"] = rng.normal(size=(steps, 20))
            for key, values in _obs(number, steps).items():
                demo.create_dataset(f"obs/{key}", data=values[:-1], compression="gzip" if values.ndim > 2 else None)
                if next_obs:
                    demo[f"next_obs/{key}"] = values[1:]
        file["mask/train"] = np.array([b"demo_10", b"demo_0"])
    return path


def test_demonstrations_come_whole_and_in_order(tmp_path: Path) -> None:
    source = _file(tmp_path / "low.hdf5")
    summary = import_robomimic(source, tmp_path / "buffer")
    assert (summary.episodes, summary.steps) == (3, 12)
    found = records(tmp_path / "buffer")
    assert [r.transitions for r in found] == [3, 5, 4]
    assert [(r.robot, r.task, r.demo, r.source) for r in found] == [("Panda", "Lift", True, "human")] * 3
    assert [(r.success, r.truncated) for r in found] == [(True, False), (False, True), (True, False)]
    with h5py.File(source) as file:
        for number, (record, name) in enumerate(zip(found, LENGTHS, strict=True)):
            rows = contents(tmp_path / "buffer")[record.uuid]
            sent = _obs(number, LENGTHS[name])
            assert all(t.observation["robot0_eef_pos"].dtype == np.float32 for t in rows)
            positions = [t.observation["robot0_eef_pos"] for t in rows]
            np.testing.assert_array_equal(positions, sent["robot0_eef_pos"].astype(np.float32))
            np.testing.assert_array_equal([t.observation["agentview_image"] for t in rows], sent["agentview_image"])
            demo = file["data"][name]
            np.testing.assert_array_equal([t.executed for t in rows[1:]], demo["actions"][()].astype(np.float32))
            np.testing.assert_array_equal([t.human for t in rows[1:]], demo["actions"][()].astype(np.float32))
            assert [t.reward for t in rows[1:]] == demo["rewards"][()].tolist()
            assert rows[0].human is None
            assert rows[0].kind is Kind.FIRST
            assert not rows[0].executed.any()
            assert [t.stamp_ns for t in rows[:2]] == [0, 50_000_000]
    assert verify(tmp_path / "buffer").ok
    assert import_robomimic(source, tmp_path / "buffer").skipped == 3
    assert import_robomimic(source.rename(tmp_path / "other.hdf5"), tmp_path / "buffer").skipped == 3


def test_without_next_obs_the_last_observation_is_repeated(tmp_path: Path) -> None:
    import_robomimic(_file(tmp_path / "a.hdf5", next_obs=False), tmp_path / "buffer", success=True)
    for rows in contents(tmp_path / "buffer").values():
        for key in ("robot0_eef_pos", "agentview_image"):
            np.testing.assert_array_equal(rows[-1].observation[key], rows[-2].observation[key])


def test_a_mask_keys_and_names(tmp_path: Path) -> None:
    source = _file(tmp_path / "a.hdf5", env={"env_name": "X", "env_kwargs": {"reward_shaping": True}})
    import_robomimic(
        source, tmp_path / "buffer", mask="train", keys={"robot0_eef_pos": "position"}, robot="r", task="t",
        demo=False, actor=Source.SCRIPT, fps=10,
    )  # fmt: skip
    found = records(tmp_path / "buffer")
    assert [(r.transitions, r.robot, r.task, r.demo, r.source) for r in found] == [
        (3, "r", "t", False, "script"),
        (4, "r", "t", False, "script"),
    ]
    rows = contents(tmp_path / "buffer")[found[0].uuid]
    assert rows[1].observation.keys() == {"position"}
    assert rows[1].stamp_ns == 100_000_000
    with pytest.raises(StoreError, match=r"no mask 'tests' \(have: train\)"):
        import_robomimic(source, tmp_path / "x", mask="tests")
    with pytest.raises(StoreError, match="no observation"):
        import_robomimic(source, tmp_path / "x", keys={"robot1": "position"})


def _nan(demo: Any) -> None:
    demo["obs/robot0_eef_pos"][2, 1] = np.nan


def _short(demo: Any) -> None:
    del demo["obs/robot0_eef_pos"]
    demo["obs/robot0_eef_pos"] = np.zeros((4, 3))


def _shape(demo: Any) -> None:
    del demo["obs/agentview_image"]
    demo["obs/agentview_image"] = np.zeros((5, 9, 9, 3), np.uint8)


def _no_actions(demo: Any) -> None:
    del demo["actions"]


def _no_key(demo: Any) -> None:
    del demo["obs/robot0_eef_pos"]


def _rewards(demo: Any) -> None:
    del demo["rewards"]
    demo["rewards"] = np.zeros(9)


def _after(demo: Any) -> None:
    del demo["next_obs/robot0_eef_pos"]
    demo["next_obs/robot0_eef_pos"] = np.full((5, 2), 1.0)


def _after_nan(demo: Any) -> None:
    demo["next_obs/robot0_eef_pos"][4, 0] = np.inf


def _action_nan(demo: Any) -> None:
    demo["actions"][0, 0] = np.nan


def _large(demo: Any) -> None:
    demo["actions"][3, 6] = 1.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_nan, "demo_2: 'robot0_eef_pos' row 2: expected finite numbers, got nan"),
        (_short, r"demo_2: 'obs/robot0_eef_pos': expected float32 \(5, 3\), got float64 \(4, 3\)"),
        (_no_actions, "demo_2: 'actions' is missing"),
        (_no_key, "demo_2: 'obs/robot0_eef_pos' is missing"),
        (_rewards, r"demo_2: 'rewards': expected \(5,\)"),
        (_after, "demo_2: 'next_obs/robot0_eef_pos': expected"),
        (_after_nan, "demo_2: 'robot0_eef_pos' row 5"),
        (_action_nan, "demo_2: 'action' row 1"),
        (_large, r"demo_2: actions are outside \[-1, 1\].*1\.5"),
    ],
)
def test_a_bad_demonstration_is_named_and_nothing_is_written(
    tmp_path: Path, change: Callable[[Any], None], message: str
) -> None:
    source = _file(tmp_path / "a.hdf5")
    with h5py.File(source, "r+") as file:
        change(file["data/demo_2"])
    with pytest.raises(StoreError, match=message):
        import_robomimic(source, tmp_path / "buffer")
    assert not (tmp_path / "buffer").exists()


def test_a_bad_image_stops_the_import_at_its_demonstration(tmp_path: Path) -> None:
    source = _file(tmp_path / "a.hdf5")
    with h5py.File(source, "r+") as file:
        _shape(file["data/demo_2"])
    with pytest.raises(CorruptDataError, match=r"demo_2: 'obs/agentview_image': expected uint8 \(5, 8, 9, 3\)"):
        import_robomimic(source, tmp_path / "buffer")
    assert [r.transitions for r in records(tmp_path / "buffer")] == [3]
    assert verify(tmp_path / "buffer").ok
    assert import_robomimic(_file(tmp_path / "b.hdf5"), tmp_path / "buffer").skipped == 1
    assert len(records(tmp_path / "buffer")) == 3


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    source = _file(tmp_path / "a.hdf5")
    raw = source.read_bytes()
    source.write_bytes(raw[: int(len(raw) * share)])
    with pytest.raises(CorruptDataError, match="truncated"):
        import_robomimic(source, tmp_path / "buffer")
    assert not (tmp_path / "buffer").exists()


def test_damaged_chunks_are_named(tmp_path: Path) -> None:
    source = _file(tmp_path / "a.hdf5")
    with h5py.File(source) as file:
        chunk = file["data/demo_0/obs/agentview_image"].id.get_chunk_info(0)
    raw = bytearray(source.read_bytes())
    raw[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\0" * chunk.size
    source.write_bytes(raw)
    with pytest.raises(CorruptDataError, match="demo_0: 'obs/agentview_image' cannot be read"):
        import_robomimic(source, tmp_path / "buffer")
    assert records(tmp_path / "buffer") == []


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such file"):
        import_robomimic(tmp_path / "nothing.hdf5", tmp_path / "buffer")
    with h5py.File(tmp_path / "b.hdf5", "w") as file:
        file["x"] = 1
    with pytest.raises(StoreError, match="no group 'data'"):
        import_robomimic(tmp_path / "b.hdf5", tmp_path / "buffer")
    with h5py.File(tmp_path / "c.hdf5", "w") as file:
        file.create_group("data")
    with pytest.raises(StoreError, match="no demonstrations"):
        import_robomimic(tmp_path / "c.hdf5", tmp_path / "buffer")
