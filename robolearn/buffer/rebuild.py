"""Make the index of a buffer again from its segments and logs."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from robolearn.buffer.index import EpisodeRecord, Index, LogRecord, Relabel, SegmentRecord
from robolearn.buffer.log import Frame, FrameType, mapped, scan, sound_frame_after
from robolearn.buffer.recover import Recovery, schema_of_log
from robolearn.buffer.segment import SegmentReader
from robolearn.buffer.store import StorePaths
from robolearn.buffer.versions import Versions
from robolearn.core.errors import CorruptDataError, StoreError
from robolearn.core.files import fsync_dir

_LATER = ("demo", "success", "tag", "state", "relabels", "total_reward", "interventions", "source")


def rebuild_index(paths: StorePaths, versions: Versions) -> list[str]:
    """Replace the index by one made from segments and logs; the old one is set aside. Nobody may be writing.

    Edits are kept of episodes whose entry in the old index is sound; of others, what was known when they were sealed,
    or ended. Episodes that a log has only in part are kept as far as they go.

    Returns:
        What was done, one line each.

    Raises:
        StoreError: the disk does not take it, or a file cannot be read, which is no damage; the old index is still
            there.
    """
    told: list[str] = []
    episodes, segments, sealed = _from_segments(paths, told)
    logs = []
    for path in sorted(paths.logs.glob("*.log")):
        if path.name in sealed:
            logs.append(LogRecord(path.name, path.stem.rpartition("-")[0], 0, 0, closed=True))
            continue
        log, found = _from_log(path, versions, told)
        logs.append(log)
        for record in found:
            episodes.setdefault(record.uuid, record)
    old, relabels = _salvage(paths)
    for known in old:
        if known.uuid in episodes and known.state != "open":
            changes = {k: getattr(known, k) for k in _LATER}
            episodes[known.uuid] = dataclasses.replace(episodes[known.uuid], **changes)
        elif known.uuid not in episodes:
            episodes[known.uuid] = _gone(known, told)
    episodes = {u: _with_relabels(r, relabels, told) for u, r in episodes.items()}
    fresh = paths.root / "index.rebuilt.sqlite"
    for suffix in ("", "-wal", "-shm"):
        fresh.with_name(fresh.name + suffix).unlink(missing_ok=True)
    _fill(fresh, list(episodes.values()), segments, logs, [r for r in relabels if r.uuid in episodes])
    aside = paths.aside(paths.index)
    for suffix in ("-wal", "-shm", ""):  # a journal must not outlive its database
        path = paths.index.with_name(paths.index.name + suffix)
        if path.exists():
            os.replace(path, aside.with_name(aside.name + suffix))
    os.replace(fresh, paths.index)
    fsync_dir(paths.root)
    return [*told, f"index: made again from {len(segments)} segments and {len(logs)} logs, {len(episodes)} episodes"]


def _gone(record: EpisodeRecord, told: list[str]) -> EpisodeRecord:
    tag = record.tag
    if record.state != "dropped":
        tag = "repair: its rows are gone"
        told.append(f"episode {record.uuid}: dropped, its rows are gone")
    return dataclasses.replace(record, log="", offset=0, segment="", first_row=0, state="dropped", tag=tag)


def _from_segments(
    paths: StorePaths, told: list[str]
) -> tuple[dict[str, EpisodeRecord], list[SegmentRecord], set[str]]:
    """Episodes, segments, and names of the logs they were made from."""
    episodes: dict[str, EpisodeRecord] = {}
    sealed: set[str] = set()
    segments = []
    for folder in sorted(paths.segments.iterdir()):
        if folder.suffix == ".tmp":
            continue
        try:
            reader = SegmentReader(folder)
        except CorruptDataError as error:
            told.append(f"segment {folder.name}: set aside, since the index is damaged as well: {error}")
            os.replace(folder, paths.aside(folder))
            continue
        size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        reader.close()
        segments.append(SegmentRecord(folder.name, reader.attributes["writer"], reader.rows, size))
        episodes |= {e.uuid: e for e in reader.episodes}
        sealed |= set(reader.logs)
    return episodes, segments, sealed


def _from_log(path: Path, versions: Versions, told: list[str]) -> tuple[LogRecord, list[EpisodeRecord]]:
    """Goes on behind damage: what cannot be read is left out, and the log is marked."""
    data = mapped(path)
    known = LogRecord(path.name, path.stem.rpartition("-")[0], 0, 0, closed=True)
    try:
        schema = schema_of_log(data, path, versions.newest)
    except StoreError as error:
        told.append(f"log {path.name}: {error}")
        schema = versions.newest
    state, position, end, damage = Recovery(known, schema, None, end=0), 0, 0, -1
    while position >= 0:
        if position > end and damage < 0:
            damage = end
        for frame in scan(data, position):
            _take(state, frame)
            end = frame.end
        state.finish()
        position = sound_frame_after(data, end + 1) if end + 1 < len(data) else -1
    problem = f"damaged at byte {damage}" if damage >= 0 else ""
    return dataclasses.replace(known, length=end, synced=end, problem=problem), state.found


def _take(state: Recovery, frame: Frame) -> None:
    if frame.type is FrameType.ROW and state.tally is None:
        return  # the episode it belongs to was cut short before
    if not state.take(frame):
        state.finish()


def _salvage(paths: StorePaths) -> tuple[list[EpisodeRecord], list[Relabel]]:
    if not paths.index.is_file():
        return [], []
    try:
        index = Index(paths.index, writable=False)
    except CorruptDataError:
        return [], []
    try:
        return index.salvage()
    finally:
        index.close()


def _with_relabels(record: EpisodeRecord, relabels: list[Relabel], told: list[str]) -> EpisodeRecord:
    found = sum(r.uuid == record.uuid for r in relabels)
    if found < record.relabels:
        told.append(f"episode {record.uuid}: {record.relabels - found} corrections of its steps are lost")
    return dataclasses.replace(record, relabels=found)


def _fill(
    path: Path,
    episodes: list[EpisodeRecord],
    segments: list[SegmentRecord],
    logs: list[LogRecord],
    relabels: list[Relabel],
) -> None:
    Index.create(path)
    index = Index(path, writable=True)
    try:
        with index.transaction(durable=True) as revision:
            for record in sorted(episodes, key=lambda r: (r.unix_ns, r.first_stamp_ns)):
                index.move_episode(record, revision)
            for segment in segments:
                index.put_segment(segment)
            for log in logs:
                index.put_log(log)
            for relabel in relabels:
                index.put_relabel(relabel)
    finally:
        index.close()
