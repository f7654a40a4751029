import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from buffer_rows import IMAGES, SCHEMA, contents, episode, records, same, uuid_of

from robolearn.buffer.interchange import FORMATS, export_lerobot, import_lerobot
from robolearn.buffer.interchange.pictures import from_picture
from robolearn.buffer.schema import Schema
from robolearn.buffer.verify import verify
from robolearn.buffer.writer import Writer
from robolearn.core.errors import CorruptDataError, StoreError
from robolearn.core.spec import ArraySpec
from robolearn.core.types import Kind, Source, Transition

pytestmark = pytest.mark.filterwarnings("error")
MORE = Schema(
    {
        **IMAGES.observation,
        "grey": ArraySpec("grey", (6, 4, 1), "uint8", "grey"),
        "depth": ArraySpec("depth", (2, 3, 2), "uint8"),
        "matrix": ArraySpec("matrix", (2, 3), "float64", "m", low=-5.0),
        "arm/force": ArraySpec("arm/force", (2,), "float32", "N"),
        "scalar": ArraySpec("scalar", (), "float32"),
    },
    IMAGES.action,
)


def _started(t: Transition) -> Transition:
    """Zeros are +0 in the actions of the first row."""
    return t if t.index else dataclasses.replace(t, proposed=t.proposed + 0, executed=t.executed + 0)


def _rich(number: int, steps: int, **kwargs: Any) -> list[Transition]:
    rows = []
    for t in map(_started, episode(number, steps, schema=IMAGES, **kwargs)):
        rng = np.random.default_rng([7, number, t.index])
        extra = {
            "grey": rng.integers(0, 256, (6, 4, 1), np.uint8),
            "depth": rng.integers(0, 256, (2, 3, 2), np.uint8),
            "matrix": rng.normal(size=(2, 3)),
            "arm/force": rng.normal(size=2).astype(np.float32),
            "scalar": np.float32(rng.normal()),
        }
        rows.append(dataclasses.replace(t, observation={**t.observation, **extra}))
    return rows


EPISODES = {
    1: _rich(1, 5, humans=[2, 3]),
    2: _rich(2, 3, end=Kind.TRUNCATED),
    3: _rich(3, 1, source=Source.SCRIPT),
    4: _rich(4, 4, humans=[4]),
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    for robot, task, numbers in (("arm", "peg", (1, 2)), ("leg", "plug", (3,)), ("arm", "peg", (4,))):
        with Writer(root, MORE, name=f"w{numbers[0]}", robot=robot, task=task) as w:
            for number in numbers:
                for t in EPISODES[number]:
                    w.append(t)
                w.end_episode(number != 2, demo=number == 1)
    return root


def _known(root: Path) -> dict[str, tuple[Any, ...]]:
    names = (
        "robot",
        "task",
        "success",
        "demo",
        "interventions",
        "truncated",
        "source",
        "policy_min",
        "policy_max",
        "rows",
    )
    return {r.uuid: tuple(getattr(r, n) for n in names) for r in records(root)}


def test_a_round_trip_gives_equal_rows(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = export_lerobot(source, out, fps=10)
    assert (summary.episodes, summary.steps) == (4, 13)
    assert not (tmp_path / "out.tmp").exists()
    back = import_lerobot(out, tmp_path / "back")
    assert (back.episodes, back.steps, back.skipped) == (4, 13, 0)
    found = contents(tmp_path / "back")
    assert found.keys() == {uuid_of(n) for n in EPISODES}
    for number, rows in EPISODES.items():
        assert same(found[uuid_of(number)], rows), number
    assert _known(tmp_path / "back") == _known(source)
    assert verify(tmp_path / "back").ok


def test_a_frame_has_the_action_taken_at_its_observation(source: Path, tmp_path: Path) -> None:
    export_lerobot(source, tmp_path / "out", fps=10)
    table = pq.read_table(tmp_path / "out/data/chunk-000/file-000.parquet").to_pylist()
    rows = EPISODES[1]
    frames = [f for f in table if f["episode_index"] == 0]
    assert len(frames) == 5
    for t, frame in enumerate(frames):
        np.testing.assert_array_equal(np.float32(frame["action"]), rows[t + 1].executed)
        np.testing.assert_array_equal(np.float32(frame["robolearn.proposed"]), rows[t + 1].proposed)
        assert frame["next.reward"] == rows[t + 1].reward
        assert frame["complementary_info.is_intervention"] == (rows[t + 1].source is Source.HUMAN)
        assert frame["robolearn.policy_version"] == rows[t + 1].policy_version
        assert frame["observation.count"] == rows[t].observation["count"]
        state = np.concatenate([np.ravel(rows[t].observation[k]) for k in ("arm/force", "q", "scalar")])
        np.testing.assert_array_equal(np.float32(frame["observation.state"]), state)
        picture = from_picture(frame["observation.images.camera"]["bytes"], (4, 5, 3))
        np.testing.assert_array_equal(picture, rows[t].observation["camera"])
        assert (frame["next.done"], frame["next.success"]) == (t == 4, t == 4)
        assert not frame["next.truncated"]
        assert frame["frame_index"] == t
        assert frame["timestamp"] == np.float32(t / 10)
    assert [f["next.truncated"] for f in table if f["episode_index"] == 1] == [False, False, True]
    assert [f["index"] for f in table] == list(range(13))


def test_the_description_is_what_lerobot_reads(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_lerobot(source, out, fps=10)
    info = json.loads((out / "meta/info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["robot_type"]) == ("v3.0", 10, "arm+leg")
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (4, 13, 2)
    assert info["features"]["observation.state"]["names"] == [
        "arm/force.0",
        "arm/force.1",
        "q.0",
        "q.1",
        "q.2",
        "scalar",
    ]
    assert not any("/" in name for name in info["features"])
    meta = pq.read_table(out / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [(e["dataset_from_index"], e["dataset_to_index"]) for e in meta] == [(0, 5), (5, 8), (8, 9), (9, 13)]
    assert [e["tasks"] for e in meta] == [["peg"], ["peg"], ["plug"], ["peg"]]
    stats = json.loads((out / "meta/stats.json").read_text())
    actions = np.concatenate([[t.executed for t in rows[1:]] for rows in EPISODES.values()]).astype(np.float64)
    np.testing.assert_allclose(stats["action"]["mean"], actions.mean(0))
    np.testing.assert_allclose(stats["action"]["std"], actions.std(0))
    np.testing.assert_allclose(stats["action"]["max"], actions.max(0))
    assert stats["action"]["count"] == [13]
    pixels = np.concatenate([[t.observation["camera"] for t in rows[:-1]] for rows in EPISODES.values()]) / 255
    np.testing.assert_allclose(np.ravel(stats["observation.images.camera"]["mean"]), pixels.mean((0, 1, 2)))
    assert np.shape(stats["observation.images.camera"]["q99"]) == (3, 1, 1)


def test_many_small_files(source: Path, tmp_path: Path) -> None:
    export_lerobot(source, tmp_path / "out", fps=10, file_mb=0.001)
    assert len(list((tmp_path / "out/data").glob("*/*.parquet"))) == 4
    import_lerobot(tmp_path / "out", tmp_path / "back")
    assert all(same(contents(tmp_path / "back")[uuid_of(n)], rows) for n, rows in EPISODES.items())


SCENE = Schema({"camera": ArraySpec("camera", (32, 48, 3), "uint8", "rgb"), "q": ArraySpec("q", (1,))}, IMAGES.action)


def _smooth(number: int, steps: int) -> list[Transition]:
    y, x = np.mgrid[0:32, 0:48]
    rows = []
    for t in map(_started, episode(number, steps)):
        frame = np.stack([x * 4 + 10 * t.index, y * 5 + 20 * number, x + y], axis=-1).clip(0, 255).astype(np.uint8)
        rows.append(dataclasses.replace(t, observation={"camera": frame, "q": np.float32([t.index])}))
    return rows


def test_video_comes_back_nearly_as_it_was(tmp_path: Path) -> None:
    with Writer(tmp_path / "source", SCENE, name="w", robot="arm", task="peg") as w:
        for number in (1, 2):
            for t in _smooth(number, 6):
                w.append(t)
            w.end_episode(True)
    out = tmp_path / "out"
    export_lerobot(tmp_path / "source", out, fps=10, video=True)
    assert json.loads((out / "meta/info.json").read_text())["features"]["observation.images.camera"]["dtype"] == "video"
    import_lerobot(out, tmp_path / "back")
    found = contents(tmp_path / "back")
    for number in (1, 2):
        for got, sent in zip(found[uuid_of(number)], _smooth(number, 6), strict=True):
            error = np.abs(got.observation["camera"].astype(int) - sent.observation["camera"])
            assert error.mean() < 4
            assert same([dataclasses.replace(got, observation={})], [dataclasses.replace(sent, observation={})])

    video = out / "videos/observation.images.camera/chunk-000/file-001.mp4"
    video.write_bytes(video.read_bytes()[:500])
    with pytest.raises(CorruptDataError, match=r"episode 1: .*'observation.images.camera'"):
        import_lerobot(out, tmp_path / "again")
    assert set(contents(tmp_path / "again")) == {uuid_of(1)}
    assert verify(tmp_path / "again").ok


def test_importing_again_writes_what_is_missing(source: Path, tmp_path: Path) -> None:
    export_lerobot(source, tmp_path / "out", fps=10)
    picture = pq.read_table(tmp_path / "out/data/chunk-000/file-000.parquet")
    broken = tmp_path / "broken"
    shutil.copytree(tmp_path / "out", broken)
    cells = picture.column("observation.images.camera").to_pylist()
    cells[6] = {"bytes": cells[6]["bytes"][:60], "path": None}
    at = picture.schema.get_field_index("observation.images.camera")
    field = picture.schema.field(at)
    pq.write_table(
        picture.set_column(at, field, pa.array(cells, field.type)), broken / "data/chunk-000/file-000.parquet"
    )
    with pytest.raises(CorruptDataError, match=r"episode 1: 'observation.images.camera': frame 1: not a readable"):
        import_lerobot(broken, tmp_path / "back")
    assert set(contents(tmp_path / "back")) == {uuid_of(1)}
    again = import_lerobot(tmp_path / "out", tmp_path / "back")
    assert (again.episodes, again.skipped) == (3, 1)
    assert import_lerobot(tmp_path / "out", tmp_path / "back").skipped == 4
    assert _known(tmp_path / "back") == _known(source)


def test_an_export_is_there_as_a_whole_or_not_at_all(source: Path, tmp_path: Path) -> None:
    log = source / "logs" / "w4-000001.log"
    raw = bytearray(log.read_bytes())
    raw[-200] ^= 1
    log.write_bytes(raw)
    out = tmp_path / "out"
    with pytest.raises(CorruptDataError):
        export_lerobot(source, out, fps=10)
    assert not out.exists()
    assert not (tmp_path / "out.tmp").exists()
    with pytest.raises(StoreError, match="positive rate"):
        export_lerobot(source, out, fps=0)
    with pytest.raises(StoreError, match="no buffer"):
        export_lerobot(tmp_path / "nothing", out, fps=10)
    out.mkdir()
    with pytest.raises(StoreError, match="exists already"):
        export_lerobot(source, out, fps=10)
    out.rmdir()
    (tmp_path / "out.tmp").mkdir()
    (tmp_path / "out.tmp/mine").touch()
    with pytest.raises(StoreError, match="not a broken-off export"):
        export_lerobot(source, out, fps=10)
    assert (tmp_path / "out.tmp/mine").exists()


def test_what_a_killed_export_left_is_replaced(source: Path, tmp_path: Path) -> None:
    left = tmp_path / "out.tmp"
    (left / "data").mkdir(parents=True)
    (left / ".robolearn-export").touch()
    (left / "data/part.parquet").write_bytes(b"PAR1")
    export_lerobot(source, tmp_path / "out", fps=10)
    assert not left.exists()
    assert not (tmp_path / "out/data/part.parquet").exists()
    assert import_lerobot(tmp_path / "out", tmp_path / "back").episodes == 4


# ---------------------------------------------------------------- datasets of others


def _foreign(
    root: Path, change: Any = None, *, drop: tuple[str, ...] = (), features: dict[str, Any] | None = None
) -> Path:
    """Two episodes of 3 and 4 frames as LeRobot's own recorder lays them out."""
    n = 7
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {
        "observation.state": rng.normal(size=(n, 2)).astype(np.float32),
        "action": rng.uniform(-1, 1, (n, 3)).astype(np.float32),
        "next.reward": np.array([0, 0, 1, 0, 0, 0, 0], np.float32),
        "next.done": np.array([0, 0, 1, 0, 0, 0, 1], bool),
        "next.success": np.array([0, 0, 1, 0, 0, 0, 0], bool),
        "timestamp": np.array([0, 0.1, 0.2, 0, 0.1, 0.2, 0.3], np.float32),
        "frame_index": np.array([0, 1, 2, 0, 1, 2, 3]),
        "episode_index": np.array([0, 0, 0, 1, 1, 1, 1]),
        "index": np.arange(n),
        "task_index": np.array([1, 1, 1, 0, 0, 0, 0]),
    }
    for name in drop:
        del columns[name]
    if change:
        change(columns)
    info = {
        "codebase_version": "v3.0", "robot_type": "so101", "total_episodes": 2, "total_frames": n, "fps": 10,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet", "video_path": None,
        "features": {
            k: {"dtype": v.dtype.name, "shape": list(v.shape[1:]) or [1], "names": None} for k, v in columns.items()
        } | (features or {}),
    }  # fmt: skip
    for folder in ("meta/episodes/chunk-000", "data/chunk-000"):
        (root / folder).mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    table = pa.table({k: list(v) if v.ndim > 1 else v for k, v in columns.items()})
    pq.write_table(table, root / "data/chunk-000/file-000.parquet", row_group_size=5)
    entries = [
        {"episode_index": e, "tasks": [["fold", "stack"][1 - e]], "length": b - a, "data/chunk_index": 0,
         "data/file_index": 0, "dataset_from_index": a, "dataset_to_index": b}
        for e, (a, b) in enumerate(((0, 3), (3, 7)))
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(entries), root / "meta/episodes/chunk-000/file-000.parquet")
    return root


def test_a_foreign_dataset(tmp_path: Path) -> None:
    dataset = _foreign(tmp_path / "dataset")
    summary = import_lerobot(dataset, tmp_path / "buffer")
    assert (summary.episodes, summary.steps) == (2, 7)
    table = pq.read_table(dataset / "data/chunk-000/file-000.parquet").to_pydict()
    fold, stack = records(tmp_path / "buffer")
    assert (fold.task, fold.robot, fold.success, fold.truncated, fold.demo) == ("fold", "so101", False, True, True)
    assert (stack.task, stack.success, stack.truncated, stack.source) == ("stack", True, False, "human")
    rows = contents(tmp_path / "buffer")[stack.uuid]
    assert [t.kind for t in rows] == [Kind.FIRST, Kind.MID, Kind.MID, Kind.TERMINATED]
    assert [t.reward for t in rows] == [0, 0, 0, 1]
    np.testing.assert_array_equal([t.executed for t in rows[1:]], np.float32(table["action"][:3]))
    np.testing.assert_array_equal(
        [t.observation["state"] for t in rows[:-1]], np.float32(table["observation.state"][:3])
    )
    np.testing.assert_array_equal(rows[-1].observation["state"], rows[-2].observation["state"])
    assert [t.stamp_ns for t in rows] == pytest.approx([0, 1e8, 2e8, 3e8], abs=100)
    assert import_lerobot(dataset, tmp_path / "buffer").skipped == 2
    shutil.move(dataset, tmp_path / "moved")
    assert import_lerobot(tmp_path / "moved", tmp_path / "buffer").skipped == 2


def test_ends_of_a_foreign_dataset_are_truncations_unless_it_says_otherwise(tmp_path: Path) -> None:
    def truncated(columns: dict[str, Any]) -> None:
        columns["next.truncated"] = columns["next.done"]
        columns["complementary_info.is_intervention"] = np.array([0, 1, 0, 0, 0, 0, 0], bool)

    import_lerobot(_foreign(tmp_path / "a", drop=("next.success", "next.done")), tmp_path / "x")
    import_lerobot(_foreign(tmp_path / "b", truncated), tmp_path / "y", demo=False)
    import_lerobot(_foreign(tmp_path / "c", drop=("next.success",)), tmp_path / "z", success=True, task="t")
    assert [(r.truncated, r.success) for r in records(tmp_path / "x")] == [(True, False)] * 2
    assert [(r.truncated, r.success) for r in records(tmp_path / "y")] == [(True, False), (True, True)]
    assert [(r.demo, r.interventions) for r in records(tmp_path / "y")] == [(False, 0), (False, 1)]
    assert [(r.truncated, r.success, r.task) for r in records(tmp_path / "z")] == [(False, True, "t")] * 2


def test_actions_beyond_one_are_refused_or_scaled(tmp_path: Path) -> None:
    def degrees(columns: dict[str, Any]) -> None:
        columns["action"] = columns["action"] * 90
        columns["action"][:, 2] = 30

    dataset = _foreign(tmp_path / "dataset", degrees)
    with pytest.raises(StoreError, match=r"episode 0: .*outside \[-1, 1\].*action_range='data'"):
        import_lerobot(dataset, tmp_path / "x")
    assert not (tmp_path / "x").exists()
    with pytest.raises(StoreError, match="3 lows below 3 highs"):
        import_lerobot(dataset, tmp_path / "x", action_range=([0], [1]))
    with pytest.raises(StoreError, match="outside of action_range"):
        import_lerobot(dataset, tmp_path / "x", action_range=([-10] * 3, [10] * 3))
    raw = np.array(pq.read_table(dataset / "data/chunk-000/file-000.parquet").column("action").to_pylist())
    summary = import_lerobot(dataset, tmp_path / "x", action_range="data")
    np.testing.assert_allclose(summary.action_high, raw.max(0))
    actions = np.array([t.executed for rows in contents(tmp_path / "x").values() for t in rows[1:]])
    assert actions[:, :2].min(0).tolist() == [-1, -1]
    assert actions[:, :2].max(0).tolist() == [1, 1]
    assert (actions[:, 2] == 0).all()
    import_lerobot(dataset, tmp_path / "y", action_range=([-90] * 3, [90] * 3))
    actions = np.concatenate(
        [[t.executed for t in contents(tmp_path / "y")[r.uuid][1:]] for r in records(tmp_path / "y")]
    )
    np.testing.assert_allclose(actions, np.concatenate([raw[3:], raw[:3]]) / 90, atol=1e-6)
    assert all((rows[0].executed == 0).all() for rows in contents(tmp_path / "y").values())


def _nan(columns: dict[str, Any]) -> None:
    columns["observation.state"][4, 1] = np.nan


def _order(columns: dict[str, Any]) -> None:
    columns["frame_index"][5] = 1


def _owner(columns: dict[str, Any]) -> None:
    columns["episode_index"][3] = 0


@pytest.mark.parametrize(
    ("change", "features", "message"),
    [
        (_nan, {}, r"episode 1: .*'state' row 1: expected finite"),
        (_order, {}, "episode 1: .*other frames"),
        (_owner, {}, "episode 1: .*other frames"),
        (
            None,
            {"observation.more": {"dtype": "float32", "shape": [2], "names": None}},
            "episode 0: .*observation.more",
        ),
        (None, {"action": {"dtype": "float32", "shape": [4], "names": None}}, "episode 0: .*'action': expected"),
    ],
)
def test_a_bad_dataset_is_refused_before_anything_is_written(
    tmp_path: Path, change: Any, features: dict[str, Any], message: str
) -> None:
    dataset = _foreign(tmp_path / "dataset", change, features=features)
    with pytest.raises(CorruptDataError, match=message):
        import_lerobot(dataset, tmp_path / "buffer")
    assert not (tmp_path / "buffer").exists()


@pytest.mark.parametrize(
    "name", ["meta/info.json", "data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"]
)
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, damage: str) -> None:
    dataset = _foreign(tmp_path / "dataset")
    path = dataset / name
    raw = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(StoreError, match="meta/episodes" if "episodes" in name and damage == "gone" else name):
        import_lerobot(dataset, tmp_path / "buffer")
    assert not (tmp_path / "buffer").exists()


def test_old_versions_and_other_directories_are_refused(tmp_path: Path) -> None:
    dataset = _foreign(tmp_path / "dataset")
    info = json.loads((dataset / "meta/info.json").read_text())
    (dataset / "meta/info.json").write_text(json.dumps({**info, "codebase_version": "v2.1"}))
    with pytest.raises(StoreError, match=r"v2\.1; expected v3"):
        import_lerobot(dataset, tmp_path / "buffer")
    with pytest.raises(StoreError, match="no LeRobot dataset"):
        import_lerobot(tmp_path, tmp_path / "buffer")


def test_keys_choose_and_rename(tmp_path: Path) -> None:
    dataset = _foreign(tmp_path / "dataset")
    with Writer(
        tmp_path / "buffer",
        Schema({"q": ArraySpec("q", (2,), "float64", "rad")}, ArraySpec("action", (3,), low=-1.0, high=1.0)),
        name="w",
        robot="r",
        task="t",
    ):
        pass
    with pytest.raises(StoreError, match=r"(?s)q: float64\[2\] -> missing.*state: missing -> float32\[2\]"):
        import_lerobot(dataset, tmp_path / "buffer")
    with pytest.raises(StoreError, match=r"no observation \['observation.x'\]"):
        import_lerobot(dataset, tmp_path / "buffer", keys={"observation.x": "q"})
    assert import_lerobot(dataset, tmp_path / "buffer", keys={"observation.state": "q"}).episodes == 2
    assert next(iter(contents(tmp_path / "buffer").values()))[0].observation["q"].dtype == np.float64
    assert verify(tmp_path / "buffer").ok


def test_an_own_dataset_edited_by_others_is_not_taken_for_what_it_was(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_lerobot(source, out, fps=10)
    own = out / "meta/robolearn/episodes.parquet"
    pq.write_table(pq.read_table(own).slice(1), own)
    with pytest.raises(CorruptDataError, match="remove meta/robolearn"):
        import_lerobot(out, tmp_path / "back")
    shutil.rmtree(out / "meta/robolearn")
    assert import_lerobot(out, tmp_path / "back").episodes == 4
    export_lerobot(source, tmp_path / "other", fps=10)
    with pytest.raises(StoreError, match="comes back as it was"):
        import_lerobot(tmp_path / "other", tmp_path / "back", keys={"observation.state": "q"})


def test_no_episodes_is_an_error(tmp_path: Path) -> None:
    with Writer(tmp_path / "empty", SCHEMA, name="w", robot="arm", task="peg"):
        pass
    with pytest.raises(StoreError, match="no complete episodes"):
        export_lerobot(tmp_path / "empty", tmp_path / "out", fps=10)
    assert not (tmp_path / "out").exists()


def test_formats_are_listed() -> None:
    assert set(FORMATS) == {"lerobot", "robomimic", "diffusion_policy"}
    assert FORMATS["lerobot"].export is export_lerobot


@pytest.mark.parametrize(
    ("select", "numbers"),
    [
        ("success", {1, 3, 4}),
        ("demo", {1}),
        ("intervention", {1, 4}),
        ("robot=leg", {3}),
        ("policy>=7", {4}),
        ("success,!demo", {3, 4}),
    ],
)
def test_a_selection_of_episodes(source: Path, tmp_path: Path, select: str, numbers: set[int]) -> None:
    assert export_lerobot(source, tmp_path / "out", fps=10, select=select).episodes == len(numbers)
    import_lerobot(tmp_path / "out", tmp_path / "back")
    assert set(contents(tmp_path / "back")) == {uuid_of(n) for n in numbers}
    assert {k: v for k, v in _known(source).items() if k in contents(tmp_path / "back")} == _known(tmp_path / "back")


def test_a_selection_that_is_wrong_or_empty(source: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="unknown word 'sucess'"):
        export_lerobot(source, tmp_path / "out", fps=10, select="sucess")
    with pytest.raises(StoreError, match="no complete episodes to export that pass 'robot=no'"):
        export_lerobot(source, tmp_path / "out", fps=10, select="robot=no")
    assert not list(tmp_path.glob("out*"))
