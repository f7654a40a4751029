"""``robolearn buffer prune``, ``archive``, ``tag``, ``seal`` and ``add-key``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from robolearn.cli.buffer_look import PathArgument, size
from robolearn.cli.options import parse
from robolearn.cli.output import print_json
from robolearn.core.errors import ConfigError

if TYPE_CHECKING:
    from robolearn.buffer.archive import Archived
    from robolearn.buffer.index import EpisodeRecord, Index
    from robolearn.buffer.retain import Pruned

_UNITS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}
_SOME = 200  # episodes relabelled in one transaction: writers wait for it


@dataclass(frozen=True)
class PruneOptions:
    """Options of buffer prune.

    Attributes:
        path: the buffer's directory, or a run directory.
        max_gb: drop segments until logs, segments and index have at most so many GB (1e9 bytes).
        older_than: drop only segments all of whose episodes are older, e.g. 30d, 12h, 45m.
        select: drop only segments all of whose steps pass this filter.
        dry_run: only say what would be done.
        json: print one JSON document.
    """

    path: PathArgument
    max_gb: float | None = None
    older_than: str = ""
    select: str = ""
    dry_run: bool = False
    json: bool = False


@dataclass(frozen=True)
class ArchiveOptions:
    """Options of buffer archive.

    Attributes:
        path: the buffer's directory, or a run directory.
        older_than: archive only segments all of whose episodes are older, e.g. 30d, 12h, 45m.
        select: archive only segments all of whose steps pass this filter.
        keys: recode only these images; masks and depth are better left out. None for all.
        quality: of the JPEG files, 1 to 100.
        pinned: also segments with demonstrations, corrections or episodes tagged 'keep'.
        dry_run: only say what would be done.
        json: print one JSON document.
    """

    path: PathArgument
    older_than: str = ""
    select: str = ""
    keys: tuple[str, ...] = ()
    quality: int = 95
    pinned: bool = False
    dry_run: bool = False
    json: bool = False


@dataclass(frozen=True)
class TagOptions:
    """Options of buffer tag.

    Attributes:
        path: the buffer's directory, or a run directory.
        select: episodes with a step that passes this filter.
        episode: ids of episodes, instead of a filter.
        success: they solved the task, or not.
        demo: they are demonstrations, or not.
        tag: free text; a word "keep" in it pins them.
        last_reward: reward of the last step.
        drop: never read them again; sealing and pruning remove their rows.
        restore: undo a drop, while the rows are there; needs --episode.
        json: print one JSON document.
    """

    path: PathArgument
    select: str = ""
    episode: tuple[str, ...] = ()
    success: Literal["", "true", "false"] = ""
    demo: Literal["", "true", "false"] = ""
    tag: str | None = None
    last_reward: float | None = None
    drop: bool = False
    restore: bool = False
    json: bool = False


@dataclass(frozen=True)
class SealOptions:
    """Options of buffer seal.

    Attributes:
        path: the buffer's directory, or a run directory.
        min_mb: closed logs of a writer wait until they have so many MB (1e6 bytes) together; 0 seals all.
        json: print one JSON document.
    """

    path: PathArgument
    min_mb: float = 0.0
    json: bool = False


@dataclass(frozen=True)
class AddKeyOptions:
    """Options of buffer add-key.

    Attributes:
        path: the buffer's directory, or a run directory.
        key: name of the observation key, e.g. wrist/force.
        shape: its shape; none for a number.
        dtype: e.g. float32, int64, bool, or uint8 for images.
        unit: e.g. N or rad.
        fill: what rows that are there have for it.
        json: print one JSON document.
    """

    path: PathArgument
    key: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="KEY")]
    shape: tuple[int, ...] = ()
    dtype: str = "float32"
    unit: str = ""
    fill: float = 0.0
    json: bool = False


def prune(arguments: Sequence[str]) -> int:
    """Drop old segments."""
    what = (
        "Drop whole segments of a replay buffer, oldest first. Segments with demonstrations, corrections or episodes "
        "tagged 'keep' stay, and logs (seal first). Exit status 1 if the budget cannot be kept."
    )
    options = parse(PruneOptions, arguments, verb="buffer prune", what=what)
    if options.max_gb is None and not options.older_than:
        raise ConfigError("buffer prune: what has to go? --max-gb X or --older-than 30d")
    if options.max_gb is not None and not options.max_gb >= 0:
        raise ConfigError(f"--max-gb: expected at least 0, got {options.max_gb}")
    older = seconds(options.older_than) if options.older_than else None
    from robolearn.buffer.retain import prune as prune_
    from robolearn.run.inventory import buffer_root

    done = prune_(
        buffer_root(Path(options.path)),
        max_bytes=None if options.max_gb is None else int(options.max_gb * 1e9),
        older_than_s=older,
        select=options.select,
        dry_run=options.dry_run,
    )
    if options.json:
        print_json({**asdict(done), "freed": done.freed, "within": done.within})
    else:
        _tell(done)
    return 0 if done.within else 1


def _tell(done: Pruned) -> None:
    would = "would drop" if done.dry_run else "dropped"
    for one in done.dropped:
        print(f"  {would} {one.segment}: {one.episodes} episodes, {one.steps} steps, {size(one.bytes)}")
    for name, why in done.kept.items():
        print(f"  kept {name}: {why}")
    for name in done.waiting:
        print(f"  {name}: a reader has it open; the next prune removes its files")
    print(f"{would} {len(done.dropped)} segments, {size(done.freed)}; {size(done.after)} remain")
    if not done.within and done.max_bytes is not None:
        logs = f"; logs that are not sealed: {size(done.before.logs)}" if done.before.logs else ""
        print(f"still over the budget of {size(done.max_bytes)}{logs}")


def archive(arguments: Sequence[str]) -> int:
    """Recode images of old segments as JPEG."""
    what = (
        "Recode images of whole segments of a replay buffer as JPEG, oldest first, which takes less disk and cannot be "
        "undone. All else stays as it is. Segments with demonstrations, corrections or episodes tagged 'keep' stay "
        "unless --pinned is given, and logs (seal first)."
    )
    options = parse(ArchiveOptions, arguments, verb="buffer archive", what=what)
    if not options.older_than and not options.select:
        raise ConfigError("buffer archive: which segments? --older-than 30d or --select FILTER")
    if not 1 <= options.quality <= 100:
        raise ConfigError(f"--quality: expected 1 to 100, got {options.quality}")
    older = seconds(options.older_than) if options.older_than else None
    from robolearn.buffer.archive import archive as archive_
    from robolearn.run.inventory import buffer_root

    done = archive_(
        buffer_root(Path(options.path)),
        older_than_s=older,
        select=options.select,
        keys=options.keys,
        quality=options.quality,
        pinned=options.pinned,
        dry_run=options.dry_run,
    )
    if options.json:
        print_json({**asdict(done), "freed": done.freed})
    else:
        _tell_archived(done)
    return 0


def _tell_archived(done: Archived) -> None:
    for one in done.recoded:
        new = f"now {one.archive}, {size(one.archive_bytes)}" if one.archive else "would be archived"
        print(f"  {one.segment}: {one.episodes} episodes, {one.steps} steps, {size(one.bytes)}; {new}")
    for name, why in done.kept.items():
        print(f"  kept {name}: {why}")
    for name in done.waiting:
        print(f"  {name}: a reader has it open; the next archive, prune or seal removes its files")
    if done.dry_run:
        print(f"would archive {len(done.recoded)} segments, {size(sum(one.bytes for one in done.recoded))}")
    else:
        print(f"archived {len(done.recoded)} segments, which take {size(done.freed)} less")


def tag(arguments: Sequence[str]) -> int:
    """Change what is known of episodes."""
    what = "Change marks, tags and rewards of episodes that have ended, without rewriting data."
    options = parse(TagOptions, arguments, verb="buffer tag", what=what)
    changes = _changes(options)
    import numpy as np

    from robolearn.buffer.index import Index, Relabel
    from robolearn.buffer.relabel import relabel
    from robolearn.buffer.store import StorePaths
    from robolearn.run.inventory import buffer_root

    root = buffer_root(Path(options.path))
    index = Index(StorePaths(root).index, writable=True)
    try:
        found = _chosen(root, index, options)
        if options.last_reward is not None:
            value = np.array([options.last_reward])
            relabels = [Relabel(record.uuid, "reward", record.rows - 1, value) for record in found]
            for first in range(0, len(relabels), _SOME):
                relabel(root, relabels[first : first + _SOME])
        if changes and found:
            index.edit([record.uuid for record in found], **changes)  # type: ignore[arg-type]
    finally:
        index.close()
    if options.json:
        print_json({"buffer": root, "episodes": [record.uuid for record in found]})
    else:
        print(f"{root}: changed {len(found)} episodes")
    return 0


def seal(arguments: Sequence[str]) -> int:
    """Turn closed logs into segments."""
    what = "Turn closed logs of a replay buffer into segments; others may be writing and reading."
    options = parse(SealOptions, arguments, verb="buffer seal", what=what)
    from robolearn.buffer.seal import seal as seal_
    from robolearn.run.inventory import buffer_root

    root = buffer_root(Path(options.path))
    made = seal_(root, min_bytes=int(options.min_mb * 1e6), everything=options.min_mb <= 0)
    if options.json:
        print_json({"buffer": root, "segments": made})
    else:
        print(f"{root}: sealed {len(made)} segments" + "".join(f"\n  {name}" for name in made))
    return 0


def add_key(arguments: Sequence[str]) -> int:
    """Give a buffer one more observation key."""
    what = "Give a replay buffer one more observation key; rows that are there read as if they had the fill value."
    options = parse(AddKeyOptions, arguments, verb="buffer add-key", what=what)
    from robolearn.buffer.store import add_key as add
    from robolearn.core.spec import ArraySpec
    from robolearn.run.inventory import buffer_root

    root = buffer_root(Path(options.path))
    schema = add(root, ArraySpec(options.key, options.shape, options.dtype, options.unit), options.fill)
    if options.json:
        print_json({"buffer": root, "observation": {k: list(s.shape) for k, s in schema.observation.items()}})
    else:
        print(f"{root}: observes {', '.join(schema.observation)}")
    return 0


def seconds(text: str) -> float:
    """An age like ``30d``, ``12h`` or ``90s`` [s].

    Raises:
        ConfigError: it is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text.strip())
    if match is None:
        raise ConfigError(f"--older-than: expected e.g. 30d, 12h, 45m or 90s, got '{text}'")
    return float(match[1]) * _UNITS[match[2]]


def _changes(options: TagOptions) -> dict[str, bool | str]:
    """What to change, for ``Index.edit``.

    Raises:
        ConfigError: the options make no sense.
    """
    if bool(options.select) == bool(options.episode):
        raise ConfigError("buffer tag: which episodes? either --select FILTER or --episode ID ...")
    if options.restore and (options.drop or not options.episode):
        raise ConfigError("buffer tag: --restore goes with --episode ID ... and without --drop")
    changes: dict[str, bool | str] = {}
    if options.success:
        changes["success"] = options.success == "true"
    if options.demo:
        changes["demo"] = options.demo == "true"
    if options.tag is not None:
        changes["tag"] = options.tag
    if options.drop or options.restore:
        changes["dropped"] = options.drop
    if not changes and options.last_reward is None:
        raise ConfigError("buffer tag: what to change? --success, --demo, --tag, --last-reward, --drop or --restore")
    return changes


def _chosen(root: Path, index: Index, options: TagOptions) -> list[EpisodeRecord]:
    """Episodes by id or filter."""
    from robolearn.buffer.files import EpisodeFiles
    from robolearn.buffer.filters import Filter
    from robolearn.buffer.selecting import selected
    from robolearn.buffer.store import StorePaths

    if options.episode:
        return [index.editable(uuid) for uuid in options.episode]
    with EpisodeFiles(StorePaths(root), index) as files:
        return list(selected(index, files, Filter.parse(options.select)))


ACTIONS = {"prune": prune, "archive": archive, "tag": tag, "seal": seal, "add-key": add_key}
