"""Entry point of the processes of a run: ``python -m robolearn.run.worker RUN ROLE [ARGUMENTS]``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from robolearn.run.guard import Grant
from robolearn.run.process import (
    CONFIG_EXIT,
    DIVERGED_EXIT,
    GRANT,
    LOST_EXIT,
    PARENT,
    STARTED,
    STOPPED_EXIT,
    Process,
    die_with_parent,
    run_paths,
)


def _process(directory: str, role: str, row: int) -> Process:
    process = Process(
        role,
        row,
        run_paths(directory),
        started_ns=int(os.environ.get(STARTED, "0")),
        grant=Grant.from_json(os.environ.get(GRANT, "")),
    )
    process.handle_signals()
    process.beat()
    return process


def _limit_torch() -> None:
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def learner(directory: str) -> None:
    """Learn."""
    from robolearn.run.counters import Row

    process = _process(directory, "learner", Row.LEARNER)
    from robolearn.run.learner import LearnerProcess, only_learner
    from robolearn.run.limiter import limiter_of
    from robolearn.run.rundir import load_config

    _limit_torch()
    config = load_config(process.paths)
    with only_learner(process):
        LearnerProcess(process, config, limiter_of(config)).run()


def actor(directory: str, index: str) -> None:
    """Act with one robot."""
    from robolearn.run.counters import Row

    number = int(index)
    process = _process(directory, f"actor{number}", Row.ACTORS + number)
    from robolearn.run.actor import Actor
    from robolearn.run.limiter import limiter_of
    from robolearn.run.rundir import load_config

    _limit_torch()
    config = load_config(process.paths)
    Actor(process, config, number, limiter_of(config)).run()


def evaluator(directory: str) -> None:
    """Draw the learning curve."""
    from robolearn.run.counters import Row

    process = _process(directory, "evaluator", Row.EVALUATOR)
    from robolearn.run.curve import CurveEvaluator
    from robolearn.run.rundir import load_config

    _limit_torch()
    CurveEvaluator(process, load_config(process.paths)).run()


def recorder(directory: str) -> None:
    """Record the demonstrations of the run."""
    from robolearn.run.counters import Row

    process = _process(directory, "recorder", Row.EVALUATOR)
    from robolearn.run.record import record_demonstrations
    from robolearn.run.rundir import load_config

    config = load_config(process.paths)
    result = record_demonstrations(
        config,
        process.paths.buffer,
        episodes=config.demos,
        grant=process.grant,
        hold=process.hold,
        script="script",
        going_on=lambda: not process.stopping(),
    )
    process.event("demonstrations recorded", **result)


def sealer(directory: str, everything: str = "") -> None:
    """Seal and prune the run's buffer: now and then, or once and all closed logs."""
    from robolearn.run.counters import Row

    process = _process(directory, "sealer", Row.SEALER)
    from robolearn.run.rundir import load_config
    from robolearn.run.sealer import Sealer

    os.nice(10)
    tidying = Sealer(process, int(1e9 * load_config(process.paths, policy=False).disk_gb))
    tidying.once(everything=True) if everything else tidying.along()


def examiner(directory: str, out: str, request: str) -> None:
    """Evaluate a share of the final episodes."""
    from robolearn.run.examine import examine

    examine(Path(directory), Path(out), **json.loads(request))


ROLES: dict[str, Callable[..., None]] = {
    "learner": learner,
    "actor": actor,
    "evaluator": evaluator,
    "recorder": recorder,
    "sealer": sealer,
    "examiner": examiner,
}


def main(argv: list[str]) -> int:
    """Run one role; an error the user can act on becomes one line on stderr."""
    from robolearn.core.errors import (
        ConfigError,
        LeaseError,
        RobolearnError,
        RobotStoppedError,
        TrainingDivergedError,
    )

    directory, role, *arguments = argv
    if parent := os.environ.get(PARENT):
        die_with_parent(int(parent))
    try:
        ROLES[role](directory, *arguments)
    except RobotStoppedError as error:
        sys.stderr.write(f"{error}\n")
        return STOPPED_EXIT
    except TrainingDivergedError as error:
        sys.stderr.write(f"{error}\n")
        return DIVERGED_EXIT
    except (ConfigError, LeaseError) as error:
        sys.stderr.write(f"{error}\n")
        return CONFIG_EXIT if isinstance(error, ConfigError) else LOST_EXIT
    except (RobolearnError, OSError) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
