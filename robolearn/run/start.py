"""Starting a run, going on with one, and saying beforehand what that takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from robolearn.buffer.store import locked
from robolearn.core import config as typed
from robolearn.core.errors import ConfigError, ResumeError
from robolearn.run import rundir
from robolearn.run.base import base_run, freeze_base, role_of_base
from robolearn.run.complete import complete, remarks
from robolearn.run.config import RunPaths, TrainConfig
from robolearn.run.place import LocalScheduler, Outlook, Place, Scheduler
from robolearn.run.roles import plan
from robolearn.run.supervise import RunResult, Supervisor, View
from robolearn.run.watch import freeze_reward

_FREE = {
    *("run_dir", "base_algo", "base", "human", "script", "headless", "wait", "video", "device", "robots", "realtime"),
    *("eval_episodes", "eval_experts", "eval_every", "eval_curve_episodes", "checkpoint_every_s", "publish_every"),
    *("ram_gb", "disk_gb"),
}
"""What two bases may differ in and still be the same one."""


@dataclasses.dataclass(frozen=True)
class Start:
    """A run before it starts: where its roles go, and what is worth knowing."""

    run_dir: Path
    places: Sequence[Place]
    remarks: Sequence[str]


def train(
    config: TrainConfig, *, argv: Sequence[str], live: View | None = None, show: Callable[[Start], None] | None = None
) -> RunResult:
    """Train from nothing in a new run directory.

    Args:
        show: told what goes where before anything starts.
    """
    config, root = prepare(config)
    if role_of_base(config) == "wanted" and not config.base:
        made = _make_base(base_run(config, root), argv, live=live, show=show)
        if made.state != "done":
            return made
        demos_from = config.demos_from or (str(made.run_dir) if config.demos else "")
        config, root = prepare(dataclasses.replace(config, base=str(made.run_dir), demos_from=demos_from))
    paths = RunPaths(root)
    with _scheduler(config, paths) as scheduler:
        scheduler.place(wait_s=config.wait)
        paths = rundir.create(config, argv)
        with _only_supervisor(paths):
            return _run(paths, config, scheduler, live, show)


def _make_base(
    config: TrainConfig, argv: Sequence[str], *, live: View | None, show: Callable[[Start], None] | None
) -> RunResult:
    """Train the base of a run, go on with it where it stopped, or take it as it is when it is done.

    Raises:
        ConfigError: there is one of another configuration in its place.
    """
    paths = RunPaths(Path(config.run_dir))
    if not paths.config.is_file():
        return train(config, argv=argv, live=live, show=show)
    changed = [line for line in typed.diff(rundir.load_config(paths), prepare(config)[0]) if not _free(line)]
    if changed:
        raise ConfigError(
            f"the base {paths.root} is there already, but is not the one this run would make: {'; '.join(changed)}; "
            f"take it with --base {paths.root}, or choose another --run-dir"
        )
    if paths.results.is_file():
        return RunResult(paths.root, "done", {})
    return resume(paths.root, live=live, show=show)


def _free(line: str) -> bool:
    """Whether a line of ``typed.diff`` is of no account for what a base learns."""
    return line.partition(":")[0].partition(".")[0] in _FREE


def resume(
    run_dir: str | Path,
    *,
    overrides: Callable[[TrainConfig], TrainConfig] | None = None,
    live: View | None = None,
    show: Callable[[Start], None] | None = None,
) -> RunResult:
    """Go on with a run where it stopped.

    Args:
        overrides: what the user asks for on top of the stored configuration; only ``steps``, ``wait`` and ``headless``
            may differ.
        show: told what goes where before anything starts.

    Raises:
        ResumeError: the configuration would change, or the run goes on already; the message shows how.
    """
    paths = RunPaths(Path(run_dir).resolve())
    wanted = continued(paths, overrides)
    with _only_supervisor(paths), _scheduler(wanted, paths) as scheduler:
        scheduler.place(wait_s=wanted.wait)
        rundir.save_config(paths, wanted)
        return _run(paths, wanted, scheduler, live, show)


def preview(
    config: TrainConfig | None = None,
    *,
    run_dir: str | Path = "",
    overrides: Callable[[TrainConfig], TrainConfig] | None = None,
) -> list[Outlook]:
    """What starting a run, or going on with one, would lease now; nothing is leased or written."""
    if config is not None:
        config, root = prepare(config)
    else:
        root = Path(run_dir).resolve()
        config = continued(RunPaths(root), overrides)
    with _scheduler(config, RunPaths(root)) as scheduler:
        return scheduler.outlook()


def prepare(config: TrainConfig) -> tuple[TrainConfig, Path]:
    """A complete configuration and where its run will live (nothing is made)."""
    config = complete(config)
    root = (Path(config.run_dir) if config.run_dir else rundir.default_run_dir(config)).resolve()
    return dataclasses.replace(config, run_dir=str(root)), root


def continued(paths: RunPaths, overrides: Callable[[TrainConfig], TrainConfig] | None) -> TrainConfig:
    """The stored configuration of a run with what may change on top; raises like ``resume``."""
    stored = rundir.load_config(paths)
    wanted = overrides(stored) if overrides is not None else stored
    kept = dataclasses.replace(stored, steps=wanted.steps, headless=wanted.headless, wait=wanted.wait)
    changed = typed.diff(kept, wanted)
    if changed:
        raise ResumeError("a resumed run keeps its configuration; refused: " + "; ".join(changed))
    if wanted.steps < stored.steps:
        raise ResumeError(f"steps: a resumed run can only be extended, got {wanted.steps} after {stored.steps}")
    return dataclasses.replace(wanted, run_dir=str(paths.root))


def _scheduler(config: TrainConfig, paths: RunPaths) -> LocalScheduler:
    return LocalScheduler(plan(config, paths.root), holder=f"train {paths.root.name}", paths=paths)


@contextmanager
def _only_supervisor(paths: RunPaths) -> Iterator[None]:
    """Refuse a second supervisor of a run."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(paths.supervisor_lock))
        except BlockingIOError:
            raise ResumeError(f"the run {paths.root} goes on already; end it first") from None
        yield


def _run(
    paths: RunPaths, config: TrainConfig, scheduler: Scheduler, live: View | None, show: Callable[[Start], None] | None
) -> RunResult:
    if show is not None:
        show(Start(paths.root, scheduler.places(), remarks(config)))
    freeze_base(config, paths)
    freeze_reward(config, paths)
    return Supervisor(paths, config, scheduler, live).run()
