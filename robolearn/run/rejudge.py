"""Stored episodes with another reward: a new buffer, the old one is only read."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from robolearn.buffer.files import EpisodeFiles
from robolearn.buffer.filters import Filter
from robolearn.buffer.index import EpisodeRecord, Index
from robolearn.buffer.rows import unpack
from robolearn.buffer.schema import Schema
from robolearn.buffer.selecting import selected, wherever
from robolearn.buffer.store import StorePaths, read_schema
from robolearn.buffer.writer import Writer
from robolearn.core.errors import ConfigError
from robolearn.core.files import fsync_dir
from robolearn.core.protocols import Reward
from robolearn.core.types import Judgement, Kind, TaskSpec, Transition
from robolearn.rewards.parts.build import build_reward
from robolearn.run.act import by_human, own

WRITER = "rejudged"
"""Writer name of episodes with another reward."""


class _NotStored(dict[str, float]):
    """``info`` of a stored step: empty, since buffers keep none of it."""

    def __missing__(self, key: str) -> float:
        raise ConfigError(
            f"the reward needs '{key}', which the task says of each step and buffers do not keep; "
            "it can judge a run while robots act (train --reward), but no stored episodes"
        )


@dataclass
class Rejudged:
    """What ``rejudge`` did, in numbers before and after.

    Attributes:
        target: the new buffer.
        episodes, steps: in it.
        successes, reward: of them as they were stored; ``new_successes``, ``new_reward``: as they are now.
        shortened: episodes that the new reward ends earlier; what came after is left out.
    """

    target: Path
    episodes: int = 0
    steps: int = 0
    successes: int = 0
    new_successes: int = 0
    reward: float = 0.0
    new_reward: float = 0.0
    shortened: int = 0


def rejudge(source: Path, target: Path, text: str, *, select: str = "") -> Rejudged:
    """Write complete episodes of a buffer into a new one, judged by the reward that ``text`` describes.

    Where the reward ends an episode, it ends; where it does not see the success that ended it, it is truncated there,
    since nobody knows how it would have gone on. Corrections of the source (``buffer tag``) are applied before.
    Episodes keep ids, robot, task, times, marks and tags. The new buffer is there as a whole or not at all.

    Raises:
        ConfigError: the target exists, or the reward cannot be understood or does not fit.
        StoreError, CorruptDataError: the source cannot be read.
    """
    passes = Filter.parse(select)
    if target.exists():
        raise ConfigError(f"{target} exists; rewards are changed in a new buffer, never in place")
    schema, paths = read_schema(source), StorePaths(source)
    index = Index(paths.index, writable=False)
    target.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        stack.callback(index.close)
        files = stack.enter_context(EpisodeFiles(paths, index))
        found = list(selected(index, files, passes))
        reward = build_reward(text, _spec(schema, found))
        if not found:
            raise ConfigError(f"{source}: no complete episodes" + f" pass '{select}'" * bool(select))
        part = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        stack.callback(shutil.rmtree, part, ignore_errors=True)
        done = Rejudged(target)
        tags: dict[str, list[str]] = {}
        for robot, task in sorted({(record.robot, record.task) for record in found}):
            group = [record for record in found if (record.robot, record.task) == (robot, task)]
            _write(part / "buffer", schema, index, files, group, reward, done)
        for record in found:
            if record.tag:
                tags.setdefault(record.tag, []).append(record.uuid)
        _tag(part / "buffer", tags)
        (part / "buffer").rename(target)
        fsync_dir(target.parent)
    return done


def rewarded(rows: Sequence[Transition], success: bool, reward: Reward) -> tuple[list[Transition], bool]:
    """Rows of a whole episode as a reward judges them, and whether it is a success now.

    Args:
        rows: T+1 rows.
        success: whether the task was solved at the last of them.

    Raises:
        ConfigError: the reward looks into a judgement's ``info``, which is not stored.
    """
    reward.reset()
    new = [rows[0]]
    for t in range(1, len(rows)):
        row, last = rows[t], t + 1 == len(rows)
        taken_over = own(row) and not last and by_human(rows[t + 1])
        # the step limit is the loop's, not the task's: a reward is told of the task's own ends
        end = Kind.MID if row.kind is Kind.TRUNCATED else row.kind
        told = Judgement(row.reward, end, success and last, _NotStored())
        judged = reward.of(told, row.observation, taken_over=taken_over)
        kind = Kind.TRUNCATED if last and not judged.kind.is_last else judged.kind
        new.append(dataclasses.replace(row, reward=judged.reward, kind=kind, discount=1.0 if kind.bootstraps else 0.0))
        if kind.is_last:
            break
    return new, judged.success


def _spec(schema: Schema, records: Sequence[EpisodeRecord]) -> TaskSpec:
    """The task as the buffer knows it; its rate [Hz] by the stamps."""
    steps = sum(record.transitions for record in records)
    duration_s = sum(record.last_stamp_ns - record.first_stamp_ns for record in records) * 1e-9
    names = sorted({record.task for record in records})
    longest = max((record.transitions for record in records), default=1)
    rate = steps / duration_s if duration_s > 0.0 else 1.0
    return TaskSpec(", ".join(names) or "buffer", schema.observation, schema.action, longest, rate)


def _write(
    target: Path,
    schema: Schema,
    index: Index,
    files: EpisodeFiles,
    records: Sequence[EpisodeRecord],
    reward: Reward,
    done: Rejudged,
) -> None:
    """Episodes of one robot and task."""
    now = records[0]

    def began() -> int:
        return now.unix_ns

    with Writer(
        target, schema, name=WRITER, robot=now.robot, task=now.task, partial=False, unix_ns=began,
        split_rows=max(record.rows for record in records),
    ) as writer:  # fmt: skip
        for now in records:
            stored = wherever(now, index, files.rows)
            if stored is None:
                continue  # removed meanwhile
            rows = [unpack(row, schema) for row in stored]
            if not rows[-1].kind.is_last:  # cut short by a crash
                rows[-1] = dataclasses.replace(rows[-1], kind=Kind.TRUNCATED)
            new, success = rewarded(rows, now.success, reward)
            for row in new:
                writer.append(row)
            writer.end_episode(success, demo=now.demo, wait=False)
            done.episodes, done.steps = done.episodes + 1, done.steps + len(new) - 1
            done.successes, done.new_successes = done.successes + now.success, done.new_successes + success
            done.reward += sum(row.reward for row in rows)
            done.new_reward += sum(row.reward for row in new)
            done.shortened += len(new) < len(rows)


def _tag(target: Path, tags: dict[str, list[str]]) -> None:
    index = Index(StorePaths(target).index, writable=True)
    try:
        for tag, episodes in tags.items():
            index.edit([uuid for uuid in episodes if index.episode(uuid) is not None], tag=tag)
    finally:
        index.close()
