"""What ``bench_learning.py`` runs: every case beside the figure that it is there for."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Case:
    """One command line of ``robolearn train``, up to its seed.

    Attributes:
        name: of the case and of its run directories.
        task: ``TASK:TIER``.
        algo: policy family.
        options: everything else.
        base: case whose run of the same seed gives the demonstrations.
        starts_from_base: and the policy to start from (``--base``).
        experts: examine the scripted experts on the same episodes.
    """

    name: str
    task: str
    algo: str
    options: tuple[str, ...] = ()
    base: Case | None = None
    starts_from_base: bool = field(default=True, kw_only=True)
    experts: bool = field(default=False, kw_only=True)


@dataclass(frozen=True)
class Evaluation:
    """A trained case, executed in another way.

    Attributes:
        options: of ``robolearn eval``.
    """

    name: str
    of: Case
    options: tuple[str, ...]


def _peg() -> list[Case | Evaluation]:
    """RLPD on the tiers of peg insertion, beside no demonstrations and cloning."""
    cases: list[Case | Evaluation] = []
    for tier in ("smoke", "default", "hard"):
        task = f"peg_insert:{tier}"
        cases.append(Case(f"{tier}-rlpd", task, "rlpd", experts=True))
        cases.append(Case(f"{tier}-rlpd-no-demos", task, "rlpd", ("--demos", "0")))
        cases.append(Case(f"{tier}-bc", task, "bc"))
    return cases


def _imitate(task: str, algo: str) -> Case:
    return Case(f"{task}-{algo}", f"{task}:default", algo, experts=algo == "bc")


IMITATION = [_imitate(task, algo) for task in ("pick_place", "charger") for algo in ("bc", "flow", "diffusion")]
"""20 demonstrations: at least 90 % with diffusion and flow; cloning with an MLP worse somewhere."""


def _refine() -> list[Case | Evaluation]:
    """A base of 30 to 70 %: at least 95 % within 20,000 steps; EXPO in no more steps than RLPD."""
    cases: list[Case | Evaluation] = []
    for task, tier, base_algo, demos in REFINED:
        base = _half_good(task, tier, base_algo, demos)
        cases.append(base)
        cases += [Case(f"{task}-{tier}-{algo}", base.task, algo, base=base) for algo in ("residual", "expo")]
        cases.append(Case(f"{task}-{tier}-rlpd", base.task, "rlpd", base=base, starts_from_base=False))
    return cases


def _half_good(task: str, tier: str, algo: str, demos: int) -> Case:
    return Case(f"{task}-{tier}-base", f"{task}:{tier}", algo, ("--demos", str(demos)), experts=True)


REFINED = (("peg_insert", "smoke", "bc", 20), ("charger", "default", "flow", 5))
"""Task, tier, the family of the base, and how many demonstrations make it half good."""


def _ablations() -> list[Case | Evaluation]:
    """What should lose."""
    task, tier, *_ = REFINED[0]
    base = _half_good(*REFINED[0])
    name = f"{task}-{tier}"
    return [
        Case(f"{name}-residual-scale-0", base.task, "residual", ("--policy.scale", "0"), base=base),
        Case(f"{name}-rlpd-no-layernorm", base.task, "rlpd", ("--policy.no-layer-norm",), base, starts_from_base=False),
        Case(f"{name}-rlpd-no-demos", base.task, "rlpd", ("--demos", "0")),
    ]


def _corrections() -> list[Case | Evaluation]:
    """People who help, beside nobody."""
    few = Case("hg-base", "cap_tighten:default", "flow", ("--demos", "5"), experts=True)
    return [
        few,
        Case("hg-dagger", few.task, "hg_dagger", ("--steps", "5000", "--policy.pretrain", "0"), few),
        Case("cap-rlpd", "cap_tighten:default", "rlpd", experts=True),
        Case("cap-hil-rlpd", "cap_tighten:default", "hil_rlpd"),
        Case("rlif-weak", "peg_insert:smoke", "rlif", ("--script.skill", "WEAK"), experts=True),
    ]


def _execution() -> list[Case | Evaluation]:
    """Two steps of delay, with and without real-time chunking."""
    flow = _imitate("pick_place", "flow")
    ways = {"none": (), "ensemble": ("--mode", "ensemble")}
    cases: list[Case | Evaluation] = [Evaluation(f"delay-{name}", flow, options) for name, options in ways.items()]
    for mode in ("naive", "realtime"):
        cases.append(Evaluation(f"delay-2-{mode}", flow, ("--mode", mode, "--delay", "2")))
    return cases


SUITES: dict[str, list[Case | Evaluation]] = {
    "peg": _peg(),
    "imitation": list(IMITATION),
    "refine": _refine(),
    "ablations": _ablations(),
    "corrections": _corrections(),
    "execution": _execution(),
}
