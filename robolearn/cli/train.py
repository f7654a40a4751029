"""``robolearn train``: from a command line to a complete TrainConfig, and from its result to a table."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from robolearn.cli.by_id import by_id, spell_out
from robolearn.cli.options import parse, peek, take, take_flag
from robolearn.cli.output import columns, print_json
from robolearn.core import config as typed
from robolearn.core import plugins
from robolearn.core.errors import ConfigError, suggest
from robolearn.run.config import TrainConfig
from robolearn.run.robots import choose

WHAT = """Teach a policy a task.

  robolearn train [TASK[:TIER]] [OPTIONS]     for example: robolearn train peg_insert:smoke --seed 1
  robolearn train gym:ENV_ID [OPTIONS]        a Gymnasium environment; of dm_control: dm:DOMAIN/TASK
  robolearn train --resume RUN                go on with a run where it stopped
  robolearn train ... --dry-run               say what would be leased, and whether it is free (exit status 0 or 1)

Robots: --robot fr3_sim (a private simulated copy), --robot ros2:/fr3_1,/fr3_2 or a name of the site file (robots that
exist once), --robot ros2 --robot-labels site=labA (any that have the labels); --robots N takes N of them.

Environments (gym:, dm:) also take --env-kwargs JSON, --success-key KEY, --expert MODULE:CALLABLE, --action-repeat N and
--max-steps N.

A tier's values come first, then those of --config PRESET.yaml, then options. Also: --json (the result as one JSON
document on stdout)."""

_STOPPED, _NOT_FREE = 130, 1


@dataclass(frozen=True)
class Request:
    """A parsed command line.

    Attributes:
        config: the whole configuration; for a resume, the options on top of the defaults are not in it yet.
        resume: run directory to go on with, or empty.
        options: what remains for ``apply_options``, on top of a stored configuration.
        json: print the result as JSON.
        dry_run: only say what would be leased.
    """

    config: TrainConfig | None
    resume: str
    options: tuple[str, ...]
    preset: str
    json: bool
    headless: bool
    dry_run: bool = False


def main(arguments: Sequence[str]) -> int:
    """Train or go on training; 0 when the run is done, 130 when the user stopped it."""
    request = read(arguments)
    if request.dry_run:
        return _preview(request)
    from robolearn.run import rundir

    config = request.config
    with ExitStack() as stack:
        if config is None:
            root = Path(request.resume)
        elif config.run_dir:
            root = Path(config.run_dir)
        else:
            root = stack.enter_context(rundir.claimed(rundir.stem_of(config)))
        return _train(request, root, ["robolearn", "train", *arguments])


def _train(request: Request, root: Path, argv: list[str]) -> int:
    from robolearn.run import start
    from robolearn.run.config import RunPaths
    from robolearn.run.live import LiveView, results_table

    output = sys.stderr if request.json else sys.stdout

    def show(begun: start.Start) -> None:
        print(placement_table([place.row() for place in begun.places]), file=output)
        for remark in begun.remarks:
            print(f"note: {remark}", file=output)
        print(file=output, flush=True)

    with LiveView(output, plain=request.headless, events=RunPaths(root).events) as live:
        if request.config is not None:
            config = dataclasses.replace(request.config, run_dir=str(root))
            result = start.train(config, argv=argv, live=live, show=show)
        else:
            result = start.resume(root, overrides=lambda stored: on_top_of(stored, request), live=live, show=show)
    if request.json:
        print_json({"run": str(result.run_dir), "state": result.state, **result.results})
    elif result.state == "done":
        print(results_table(result.results))
        if result.results.get("experts") == "n/a":
            print("experts: n/a (not evaluated; --eval-experts True does)")
        print(f"report: {RunPaths(result.run_dir).report}")
    else:
        print(f"stopped; go on with: robolearn train --resume {result.run_dir}")
    return 0 if result.state == "done" else _STOPPED


def _preview(request: Request) -> int:
    """Say what would be leased; 0 when all of it is free."""
    from robolearn.run import start

    found = start.preview(request.config, run_dir=request.resume, overrides=lambda stored: on_top_of(stored, request))
    possible = not any(entry.why for entry in found)
    if request.json:
        print_json({"possible": possible, "roles": [dataclasses.asdict(entry) for entry in found]})
    else:
        rows = [
            [entry.role, entry.resource or entry.wanted, "free" if not entry.why else "NOT FREE", entry.why]
            for entry in found
        ]
        print(columns(rows, head=("role", "resource", "", "")))
    return 0 if possible else _NOT_FREE


def placement_table(rows: Sequence[Mapping[str, str]]) -> str:
    """Where the roles of a run go, as text."""
    head = ("role", "resource", "where", "share")
    return columns([[row[key] for key in head] for row in rows], head=head)


def read(arguments: Sequence[str]) -> Request:
    """Understand a command line of ``train``.

    Raises:
        ConfigError: anything in it is unknown or of a wrong type.
    """
    rest = list(arguments)
    as_json, dry = take_flag(rest, "--json"), take_flag(rest, "--dry-run")
    preset, resume = take(rest, "--config") or "", take(rest, "--resume") or ""
    options = tuple(_spell_out_task(rest))
    if resume:
        return Request(None, resume, options, preset, as_json, "--headless" in options, dry)
    data = _read_preset(preset)
    task, tier, algo = (
        typed.check(peek(options, f"--{key}") or data.get(key, getattr(TrainConfig(), key)), str, key)
        for key in ("task", "tier", "algo")
    )
    module = plugins.load("task", task)
    tiers = module.TIERS
    if tier not in tiers:
        raise ConfigError(f"unknown tier '{tier}' of {task}{suggest(tier, tiers)}")
    if algo not in plugins.names("policy"):
        raise ConfigError(f"unknown algo '{algo}'{suggest(algo, plugins.names('policy'))}")
    family = plugins.load("policy", algo)
    robot = getattr(module, "ROBOT", TrainConfig().robot)
    script = typed.merge(TrainConfig().script, getattr(family, "SCRIPT", {}))
    base = TrainConfig(
        task=task, tier=tier, algo=algo, robot=robot, env=tiers[tier], policy=family.Config(), script=script
    )
    config = apply_options(typed.merge(base, data, types=_types(base)), options)
    if config.robot_labels and peek(options, "--robot") is None and "robot" not in data:
        config = dataclasses.replace(config, robot="")  # any driver's
    if by_id(task) and not (config.env.expert or config.demos_from or peek(options, "--demos") or "demos" in data):
        config = dataclasses.replace(config, demos=0)  # nobody shows how it is done
    choose(config)
    return Request(config, "", (), preset, as_json, config.headless, dry)


def on_top_of(stored: TrainConfig, request: Request) -> TrainConfig:
    """The stored configuration with a request's preset and options on top (``resume`` refuses what may not change)."""
    return apply_options(typed.merge(stored, _read_preset(request.preset), types=_types(stored)), request.options)


def apply_options(base: TrainConfig, options: Sequence[str]) -> TrainConfig:
    """``base`` with command line options on top."""
    types = _types(base)
    cls = _options_class(types["env"], types["policy"])
    default = cls(**{field.name: getattr(base, field.name) for field in dataclasses.fields(base)})
    chosen = parse(cls, options, verb="train", what=WHAT, default=default)
    return TrainConfig(**{field.name: getattr(chosen, field.name) for field in dataclasses.fields(base)})


@lru_cache(maxsize=8)
def _options_class(env: type, policy: type) -> Any:
    """TrainConfig with the plug-ins' own types in place of ``Any``."""
    hints = typed.hints(TrainConfig) | {"env": env, "policy": policy}
    fields = [(field.name, hints[field.name]) for field in dataclasses.fields(TrainConfig)]
    namespace = {"__doc__": TrainConfig.__doc__}
    return dataclasses.make_dataclass("TrainOptions", fields, frozen=True, namespace=namespace)


def _types(config: TrainConfig) -> dict[str, type]:
    return {"env": type(config.env), "policy": type(config.policy)}


def _spell_out_task(arguments: list[str]) -> list[str]:
    """A leading ``TASK`` or ``TASK:TIER`` as options; ``--task TASK:TIER`` likewise."""
    options = list(arguments)
    task = options.pop(0) if options and not options[0].startswith("-") else None
    named = take(options, "--task")
    if task is not None and named is not None and task != named:
        raise ConfigError(f"two tasks are given: '{task}' and '{named}'")
    task = task or named
    if task is None:
        return options
    name, _, tier = task.partition(":")
    if by_id(name):
        return ["--task", name, *spell_out(tier, options)]
    if tier:
        other = peek(options, "--tier")
        if other not in (None, tier):
            raise ConfigError(f"two tiers are given: '{tier}' and '{other}'")
        take(options, "--tier")
        options = ["--tier", tier, *options]
    return ["--task", name, *options]


def _read_preset(path: str) -> dict[str, Any]:
    """A preset's values; a run's own ``config.yaml`` as preset does not bring its directory along."""
    if not path:
        return {}
    data = typed.load_yaml(path)
    own = data.get("run_dir")
    if isinstance(own, str) and own and Path(own).resolve() == Path(path).resolve().parent:
        del data["run_dir"]
    return data
