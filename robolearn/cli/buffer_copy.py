"""``robolearn buffer export``, ``import`` and ``merge``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from robolearn.cli.buffer_look import PathArgument
from robolearn.cli.options import parse
from robolearn.cli.output import print_json
from robolearn.core.errors import ConfigError, StoreError, suggest


@dataclass(frozen=True)
class ExportOptions:
    """Options of buffer export.

    Attributes:
        path: the buffer's directory, or a run directory.
        out: what to write; must not exist.
        format: lerobot.
        select: only episodes with a step that passes this filter.
        video: images as H.264, which loses detail; else as PNG, which does not.
        fps: control rate [Hz]; 0 for the mean rate of the recorded times.
        json: print one JSON document.
    """

    path: PathArgument
    out: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    format: str = "lerobot"
    select: str = ""
    video: bool = False
    fps: float = 0.0
    json: bool = False


@dataclass(frozen=True)
class ImportOptions:
    """Options of buffer import.

    Attributes:
        source: file or directory to read.
        path: the buffer's directory, or a run directory; made when there is none.
        format: lerobot, robomimic or diffusion_policy.
        keys: only these keys of the source, each as SOURCE_KEY=KEY.
        robot: written into every episode; default as the source says.
        task: written into every episode; default as the source says.
        success: they are successes, where the source does not tell.
        demo: they are demonstrations.
        action_range: unit: actions are within [-1, 1]; data: scale what there is to [-1, 1].
        fps: control rate [Hz] where the source does not tell; 0 for the format's default.
        json: print one JSON document.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    path: PathArgument
    format: str
    keys: tuple[str, ...] = ()
    robot: str = ""
    task: str = ""
    success: bool = False
    demo: bool = True
    action_range: Literal["unit", "data"] = "unit"
    fps: float = 0.0
    json: bool = False


@dataclass(frozen=True)
class MergeOptions:
    """Options of buffer merge.

    Attributes:
        paths: buffers or runs to copy from, and last the buffer to copy into; made when there is none.
        select: only episodes with a step that passes this filter.
        json: print one JSON document.
    """

    paths: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE ... PATH")]
    select: str = ""
    json: bool = False


def export(arguments: Sequence[str]) -> int:
    """Write a buffer in another format."""
    what = "Write complete episodes of a replay buffer in another project's format."
    options = parse(ExportOptions, arguments, verb="buffer export", what=what)
    from robolearn.buffer.interchange import FORMATS
    from robolearn.run.inventory import buffer_root

    have = {name: format_.export for name, format_ in FORMATS.items() if format_.export is not None}
    if options.format not in have:
        raise ConfigError(f"--format: cannot export to '{options.format}'{suggest(options.format, have)}")
    if options.fps < 0:
        raise ConfigError(f"--fps: expected a positive rate [Hz], got {options.fps}")
    root = buffer_root(Path(options.path))
    fps = options.fps or _mean_rate(root)
    done = have[options.format](root, Path(options.out), select=options.select, video=options.video, fps=fps)
    if options.json:
        print_json({**asdict(done), "fps": fps})
    else:
        print(f"{done.path}: {done.episodes} episodes, {done.steps} steps, {fps:g} Hz")
    return 0


def import_(arguments: Sequence[str]) -> int:
    """Read another format into a buffer."""
    what = "Read episodes of another project's format into a replay buffer; call again to go on after an interruption."
    options = parse(ImportOptions, arguments, verb="buffer import", what=what)
    from robolearn.buffer.interchange import FORMATS

    if options.format not in FORMATS:
        raise ConfigError(f"--format: unknown '{options.format}'{suggest(options.format, FORMATS)}")
    more: dict[str, Any] = {"success": options.success, "demo": options.demo, "action_range": options.action_range}
    more |= {name: value for name in ("robot", "task") if (value := getattr(options, name))}
    if options.keys:
        more["keys"] = _mapping(options.keys)
    if options.fps:
        if options.format == "lerobot":
            raise ConfigError("--fps: a LeRobot dataset says its own rate; leave it out")
        more["fps"] = options.fps
    done = FORMATS[options.format].import_(Path(options.source), _target(Path(options.path)), **more)
    if options.json:
        print_json(asdict(done))
        return 0
    known = f", {done.skipped} were there already" if done.skipped else ""
    print(f"{done.path}: {done.episodes} episodes, {done.steps} steps{known}")
    if done.action_low is not None:
        print(f"  actions {list(done.action_low)} to {list(done.action_high or ())} became -1 to 1")
    return 0


def merge(arguments: Sequence[str]) -> int:
    """Copy episodes of other buffers into one."""
    what = "Copy complete episodes of other replay buffers into one; call again to go on after an interruption."
    options = parse(MergeOptions, arguments, verb="buffer merge", what=what)
    if len(options.paths) < 2:
        raise ConfigError("buffer merge: expected SOURCE ... PATH, at least two directories")
    from robolearn.buffer.merge import merge as merge_
    from robolearn.run.inventory import buffer_root

    sources = [buffer_root(Path(path)) for path in options.paths[:-1]]
    done = merge_(sources, _target(Path(options.paths[-1])), select=options.select)
    if options.json:
        print_json(
            {
                "buffer": done.target, "episodes": done.episodes, "steps": done.steps, "known": done.known,
                "sources": {str(source): asdict(copied) for source, copied in done.sources.items()},
            }
        )  # fmt: skip
        return 0
    for source, copied in done.sources.items():
        removed = f", {copied.removed} were removed meanwhile" if copied.removed else ""
        print(f"{source}: {copied.episodes} episodes, {copied.steps} steps copied; {copied.known} known{removed}")
    return 0


def _target(path: Path) -> Path:
    """A buffer to write to, which may not exist yet."""
    from robolearn.run.inventory import buffer_root

    try:
        return buffer_root(path)
    except StoreError:
        return path


def _mapping(pairs: Sequence[str]) -> dict[str, str]:
    """Raises: ConfigError: not all are ``A=B``."""
    mapping = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    if len(mapping) != len(pairs) or not all(mapping.values()):
        raise ConfigError(f"--keys: expected SOURCE_KEY=KEY of different keys, got {' '.join(pairs)}")
    return mapping


def _mean_rate(root: Path) -> float:
    """Mean control rate of a buffer by its stamps [Hz], a whole number from 1 on."""
    from robolearn.buffer.index import Index
    from robolearn.buffer.store import StorePaths

    index = Index(StorePaths(root).index, writable=False)
    try:
        records = [r for r in index.changes() if r.state == "complete" and r.transitions]
    finally:
        index.close()
    duration_s = sum(r.last_stamp_ns - r.first_stamp_ns for r in records) * 1e-9
    if duration_s <= 0:
        raise StoreError(f"buffer {root}: its times do not tell the control rate; say it with --fps")
    rate = sum(r.transitions for r in records) / duration_s
    return float(round(rate)) if rate >= 1 else rate


ACTIONS = {"export": export, "import": import_, "merge": merge}
