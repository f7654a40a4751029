"""``robolearn buffer``: what it prints, what it changes, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robolearn.buffer.index import EpisodeRecord, Index
from robolearn.buffer.retain import Pruned
from robolearn.buffer.schema import Schema
from robolearn.buffer.seal import seal
from robolearn.buffer.segment import SegmentReader
from robolearn.buffer.store import StorePaths, read_schema
from robolearn.buffer.writer import Writer
from robolearn.cli.buffer import ACTIONS
from robolearn.cli.buffer_edit import seconds
from robolearn.core.errors import ConfigError
from robolearn.core.spec import ArraySpec
from robolearn.core.types import Kind, Source, Transition

Cli = Callable[..., tuple[int, str, str]]
SCHEMA = Schema({"q": ArraySpec("q", (3,), unit="rad")}, ArraySpec("action", (2,), low=-1.0, high=1.0))
STEPS = 4


def uuid_of(number: int) -> str:
    return f"{number:032x}"


def write(
    root: Path,
    numbers: range,
    *,
    robot: str = "arm",
    demo: bool = False,
    seal_it: bool = True,
    schema: Schema = SCHEMA,
) -> Path:
    images = {key: np.full(schema.observation[key].shape, 200, np.uint8) for key in schema.images}
    with Writer(root, schema, name=robot, robot=robot, task="peg", demo=demo) as w:
        for number in numbers:
            for i in range(STEPS + 1):
                kind = Kind.FIRST if i == 0 else Kind.TERMINATED if i == STEPS else Kind.MID
                action = np.full(2, 0.5 * (i > 0), np.float32)
                w.append(
                    Transition(
                        episode=uuid_of(number),
                        index=i,
                        observation={"q": np.full(3, number + i, np.float32), **images},
                        proposed=action,
                        executed=action,
                        human=None,
                        source=Source.HUMAN if demo else Source.POLICY,
                        reward=0.0,
                        discount=1.0 if kind.bootstraps else 0.0,
                        kind=kind,
                        policy_version=number,
                        stamp_ns=i * 100_000_000,
                    )
                )
            w.end_episode(number % 2 == 0)
    if seal_it:
        seal(root, everything=True)
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The buffer of a run: two segments of a policy, one of demonstrations, and a log."""
    run = tmp_path / "run"
    for numbers in (range(2), range(2, 4)):
        write(run / "buffer", numbers)
    write(run / "buffer", range(4, 6), robot="leader", demo=True)
    write(run / "buffer", range(6, 7), seal_it=False)
    return run


def records(root: Path) -> dict[str, EpisodeRecord]:
    index = Index(StorePaths(root / "buffer").index, writable=False)
    try:
        return {r.uuid: r for r in index.changes()}
    finally:
        index.close()


def said(cli: Cli, *arguments: str, status: int = 0) -> Any:
    code, out, err = cli("buffer", *arguments, "--json")
    assert (code, err) == (status, "")
    return json.loads(out)


def damage(root: Path) -> None:
    path = max((root / "buffer" / "segments" / "arm-000001").rglob("c*"), key=lambda p: p.stat().st_size)
    data = bytearray(path.read_bytes())
    data[2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_has_its_help_and_is_in_the_overview(cli: Cli, action: str, capfd: Any) -> None:
    for line in (["buffer", action, "--help"], ["buffer", "--help"]):
        with pytest.raises(SystemExit) as exit_:
            cli(*line)
        assert exit_.value.code == 0
        assert action in capfd.readouterr().out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "which action? (have: info,"),
        ("prnue x", "unknown action 'prnue' of buffer; did you mean 'prune'?"),
        ("info", "missing: PATH"),
        ("info RUN --jsno", "unknown option '--jsno'; did you mean '--json'?"),
        ("prune RUN", "--max-gb X or --older-than 30d"),
        ("prune RUN --older-than 30", "expected e.g. 30d"),
        ("prune RUN --max-gb -1", "--max-gb: expected at least 0"),
        ("archive RUN", "--older-than 30d or --select FILTER"),
        ("archive RUN --older-than 30", "expected e.g. 30d"),
        ("archive RUN --older-than 1d --quality 0", "--quality: expected 1 to 100, got 0"),
        ("export RUN out --format robomimic", "cannot export to 'robomimic'"),
        ("export RUN out --fps -3", "--fps: expected a positive rate"),
        ("import x RUN", "missing: --format"),
        ("import x RUN --format lerobto", "unknown 'lerobto'; did you mean 'lerobot'?"),
        ("import x RUN --format lerobot --fps 3", "leave it out"),
        ("import x RUN --format lerobot --keys q", "expected SOURCE_KEY=KEY"),
        ("merge RUN", "at least two directories"),
        ("tag RUN --success true", "either --select FILTER or --episode ID"),
        ("tag RUN --select demo --episode x --drop", "either --select FILTER or --episode ID"),
        ("tag RUN --select demo", "what to change?"),
        ("tag RUN --select demo --restore", "--restore goes with --episode"),
        ("tag RUN --select demo --success maybe", "unknown value 'maybe'"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(cli: Cli, root: Path, line: str, message: str) -> None:
    status, out, err = cli("buffer", *line.replace("RUN", str(root)).split())
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("info nowhere", "no buffer in nowhere"),
        ("merge nowhere RUN", "no buffer in nowhere"),
        ("merge RUN RUN", "the target as well"),
        ("prune RUN --max-gb 0 --select robto=a", "unknown word 'robto'"),
        ("tag RUN --select sucess --drop", "unknown word 'sucess'"),
        ("tag RUN --episode abc --drop", "no such episode"),
        ("import nothing RUN --format robomimic", "nothing"),
        ("add-key RUN q", "q"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_status_1(cli: Cli, root: Path, line: str, message: str) -> None:
    status, out, err = cli("buffer", *line.replace("RUN", str(root)).split())
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert message in err


def test_info(cli: Cli, root: Path) -> None:
    found = said(cli, "info", str(root))
    assert (found["episodes"], found["steps"], found["demo_steps"], found["successes"]) == (7, 28, 8, 4)
    assert (found["segments"], found["logs"]) == (3, 1)
    assert (found["pinned_episodes"], found["pinned_segments"], found["policy_versions"]) == (2, 1, [0, 6])
    assert found["bytes"] == found["log_bytes"] + found["segment_bytes"] + found["index_bytes"]
    assert found["composition"] == [
        {"robot": "arm", "task": "peg", "source": "policy", "episodes": 5, "steps": 20, "successes": 3, "demos": 0,
         "intervention_steps": 0, "policy_versions": [0, 6]},
        {"robot": "leader", "task": "peg", "source": "human", "episodes": 2, "steps": 8, "successes": 1, "demos": 2,
         "intervention_steps": 8, "policy_versions": [4, 5]},
    ]  # fmt: skip
    status, out, _ = cli("buffer", "info", str(root))
    assert status == 0
    for line in ("sealed", "3 segments", "2 episodes, 29% of the steps", "ago", "leader  peg", "0 to 6"):
        assert line in out
    write(root.parent / "empty", range(0))
    assert said(cli, "info", str(root.parent / "empty"))["policy_versions"] is None
    assert cli("buffer", "info", str(root.parent / "empty"))[0] == 0


def test_verify_and_repair(cli: Cli, root: Path) -> None:
    assert said(cli, "verify", str(root))["ok"]
    damage(root)
    assert not said(cli, "verify", str(root), status=1)["ok"]
    found = said(cli, "verify", str(root), "--repair")
    assert (found["ok"], bool(found["repaired"]), found["problems"]) == (True, True, [])
    assert said(cli, "verify", str(root), "--repair")["repaired"] == []
    assert said(cli, "info", str(root))["damaged_bytes"] > 0
    assert "set aside by repair" in cli("buffer", "info", str(root))[1]


def test_verify_says_what_it_repaired(cli: Cli, root: Path) -> None:
    damage(root)
    status, out, _ = cli("buffer", "verify", str(root), "--repair")
    assert status == 0
    assert "  repair: " in out
    assert "are sound" in out


def test_prune(cli: Cli, root: Path) -> None:
    plan = said(cli, "prune", str(root), "--max-gb", "0", "--dry-run", status=1)
    assert [one["segment"] for one in plan["dropped"]] == ["arm-000001", "arm-000002"]
    assert said(cli, "info", str(root))["episodes"] == 7
    status, out, _ = cli("buffer", "prune", str(root), "--max-gb", "0", "--dry-run")
    assert (status, "would drop arm-000001: 2 episodes, 8 steps" in out) == (1, True)
    assert "still over the budget of 0.0 MiB; logs that are not sealed" in out
    assert said(cli, "prune", str(root), "--older-than", "1h")["dropped"] == []
    done = said(cli, "prune", str(root), "--older-than", "0s", "--select", "policy<2")
    assert ([one["segment"] for one in done["dropped"]], done["within"]) == (["arm-000001"], True)
    status, out, _ = cli("buffer", "prune", str(root), "--max-gb", "0")
    assert "kept leader-000001: pinned by 2 of 2 episodes" in out
    assert said(cli, "info", str(root))["episodes"] == 3
    assert said(cli, "verify", str(root))["ok"]


@pytest.fixture
def filmed(tmp_path: Path) -> Path:
    """A buffer with images of one colour: two segments of a policy, one of demonstrations."""
    camera = ArraySpec("camera", (32, 32, 3), "uint8", "rgb")
    schema = Schema({**SCHEMA.observation, "camera": camera}, SCHEMA.action)
    for robot, numbers in (("arm", range(2)), ("other", range(2, 4)), ("leader", range(4, 5))):
        write(tmp_path / "film", numbers, robot=robot, demo=robot == "leader", schema=schema)
    return tmp_path / "film"


def test_archive(cli: Cli, filmed: Path) -> None:
    plan = said(cli, "archive", str(filmed), "--older-than", "0s", "--dry-run")
    assert [r["segment"] for r in plan["recoded"]] == ["arm-000001", "other-000001"]
    assert (plan["dry_run"], plan["freed"]) == (True, 0)
    assert plan["kept"] == {"leader-000001": "pinned by 1 of 1 episodes"}
    status, out, _ = cli("buffer", "archive", str(filmed), "--older-than", "0s", "--dry-run")
    assert (status, "arm-000001: 2 episodes, 8 steps" in out, "would archive 2 segments" in out) == (0, True, True)
    status, out, _ = cli("buffer", "archive", str(filmed), "--older-than", "1h")
    assert (status, out) == (0, "archived 0 segments, which take 0.0 MiB less\n")
    done = said(cli, "archive", str(filmed), "--select", "robot=arm", "--quality", "80")
    assert [(r["segment"], r["archive"]) for r in done["recoded"]] == [("arm-000001", "arm-000001.jpeg1")]
    assert done["freed"] == done["recoded"][0]["bytes"] - done["recoded"][0]["archive_bytes"] > 0
    status, out, _ = cli("buffer", "archive", str(filmed), "--older-than", "0s", "--pinned", "--keys", "camera")
    assert (status, "now other-000001.jpeg1" in out, "archived 2 segments" in out) == (0, True, True)
    assert said(cli, "archive", str(filmed), "--older-than", "0s")["recoded"] == []
    assert said(cli, "verify", str(filmed))["episodes"] == 5
    assert said(cli, "info", str(filmed))["segments"] == 3
    status, _, err = cli("buffer", "archive", str(filmed), "--older-than", "0s", "--keys", "camra")
    assert (status, "'camra' is no image that JPEG takes; have: camera" in err) == (1, True)


def test_archive_says_what_waits_for_a_reader(cli: Cli, filmed: Path) -> None:
    reader = SegmentReader(filmed / "segments" / "arm-000001")
    status, out, _ = cli("buffer", "archive", str(filmed), "--select", "robot=arm")
    reader.close()
    assert (status, "arm-000001: a reader has it open" in out) == (0, True)
    assert said(cli, "archive", str(filmed), "--select", "robot=arm")["waiting"] == []


def test_prune_says_what_waits_for_a_reader(cli: Cli, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from robolearn.buffer.retain import DiskUse

    done = Pruned(DiskUse(0, 10, 0, 0), 10, None, False, waiting=["arm-000001"])
    monkeypatch.setattr("robolearn.buffer.retain.prune", lambda *_, **__: done)
    status, out, _ = cli("buffer", "prune", str(root), "--max-gb", "1")
    assert (status, "arm-000001: a reader has it open" in out) == (0, True)


def test_tag_by_filter_and_by_id(cli: Cli, root: Path) -> None:
    chosen = said(cli, "tag", str(root), "--select", "!demo,!success", "--success", "true", "--last-reward", "2.5")
    assert chosen["episodes"] == [uuid_of(1), uuid_of(3)]
    found = records(root)
    assert {n: (r.success, r.total_reward) for n in (1, 3) if (r := found[uuid_of(n)])} == dict.fromkeys(
        (1, 3), (True, 2.5)
    )
    status, out, _ = cli(
        "buffer", "tag", str(root), "--episode", uuid_of(0), uuid_of(6), "--tag", "keep", "--demo=true"
    )
    assert (status, "changed 2 episodes" in out) == (0, True)
    assert [(r.tag, r.demo) for r in records(root).values() if r.tag] == [("keep", True)] * 2
    said(cli, "tag", str(root), "--select", "tag=keep", "--tag", "", "--demo", "false")
    assert not [r for r in records(root).values() if r.tag]
    said(cli, "tag", str(root), "--select", "policy>=6", "--drop")
    assert records(root)[uuid_of(6)].state == "dropped"
    said(cli, "tag", str(root), "--episode", uuid_of(6), "--restore")
    assert records(root)[uuid_of(6)].state == "complete"
    assert said(cli, "tag", str(root), "--select", "robot=none", "--drop")["episodes"] == []
    assert said(cli, "verify", str(root))["ok"]


def test_seal(cli: Cli, root: Path) -> None:
    assert said(cli, "seal", str(root), "--min-mb", "1")["segments"] == []
    status, out, _ = cli("buffer", "seal", str(root))
    assert (status, "sealed 1 segments\n  arm-000003" in out) == (0, True)


def test_add_key(cli: Cli, root: Path) -> None:
    found = said(cli, "add-key", str(root), "wrist/force", "--shape", "3", "--unit", "N", "--fill", "1.5")
    assert found["observation"] == {"q": [3], "wrist/force": [3]}
    assert read_schema(root / "buffer").observation["wrist/force"].unit == "N"
    assert cli("buffer", "add-key", str(root), "count", "--dtype", "int64") == (
        0, f"{root}/buffer: observes q, wrist/force, count\n", ""
    )  # fmt: skip


def test_merge(cli: Cli, root: Path, tmp_path: Path) -> None:
    other, target = write(tmp_path / "other", range(10, 12)), tmp_path / "all"
    found = said(cli, "merge", str(root), str(other), str(target))
    assert (found["episodes"], found["steps"], found["known"]) == (9, 36, 0)
    status, out, _ = cli("buffer", "merge", str(other), str(target))
    assert (status, out) == (0, f"{other}: 0 episodes, 0 steps copied; 2 known\n")
    assert said(cli, "merge", str(other), str(root), "--select", "policy>10")["episodes"] == 1
    assert uuid_of(11) in records(root)


def test_export_and_import(cli: Cli, root: Path, tmp_path: Path) -> None:
    out, back = tmp_path / "dataset", tmp_path / "back"
    found = said(cli, "export", str(root), str(out), "--select", "demo")
    assert (found["episodes"], found["steps"], found["fps"]) == (2, 8, 10.0)
    status, text, _ = cli("buffer", "export", str(root), str(tmp_path / "more"), "--fps", "20")
    assert (status, text) == (0, f"{tmp_path / 'more'}: 7 episodes, 28 steps, 20 Hz\n")
    assert cli("buffer", "export", str(root), str(out))[0] == 1
    found = said(cli, "import", str(out), str(back), "--format", "lerobot")
    assert (found["episodes"], found["steps"], found["skipped"]) == (2, 8, 0)
    status, text, _ = cli("buffer", "import", str(out), str(back), "--format", "lerobot")
    assert (status, text) == (0, f"{back}: 0 episodes, 0 steps, 2 were there already\n")


def test_options_of_import_reach_the_format(cli: Cli, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from robolearn.buffer.interchange import FORMATS, Format, Summary

    asked: list[Any] = []

    def take(source: Path, target: Path, **more: Any) -> Summary:
        asked.append((source, target, more))
        return Summary(target, 1, 2, 0, (-3.0,), (4.0,))

    monkeypatch.setitem(FORMATS, "robomimic", Format("", take))
    line = ["import", "x.hdf5", str(root), "--format", "robomimic", "--keys", "a=b", "c=d", "--task", "lift"]
    status, out, _ = cli("buffer", *line, "--no-demo", "--action-range", "data", "--fps", "5")
    assert (status, "actions [-3.0] to [4.0] became -1 to 1" in out) == (0, True)
    more = {
        "success": False, "demo": False, "action_range": "data", "task": "lift", "fps": 5.0,
        "keys": {"a": "b", "c": "d"},
    }  # fmt: skip
    assert asked == [(Path("x.hdf5"), root / "buffer", more)]


def test_ages() -> None:
    assert [seconds(text) for text in ("90s", "45m", "12h", "1.5d", "2w")] == [90, 2700, 43_200, 129_600, 1_209_600]
    with pytest.raises(ConfigError):
        seconds("d")
