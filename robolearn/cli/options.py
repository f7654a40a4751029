"""Options of a verb: tyro reads them from a dataclass, and whatever is wrong becomes one line."""

from __future__ import annotations

import contextlib
import difflib
import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args, get_origin

import tyro

from robolearn.core import config as typed
from robolearn.core.errors import ConfigError, suggest

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

RunArgument = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
"""A positional run directory."""
TaskArgument = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TASK[:TIER]")]
"""A positional task."""

_POSITIONAL = tyro.conf.Positional[str].__metadata__[0]  # type: ignore[attr-defined]
_BOX = re.compile(r"[╭╮╰╯│─┌┐└┘|]+")
_REWORD = (
    (re.compile(r"^Error parsing (\S+):"), r"\1:"),
    (re.compile(r"invalid literal for int\(\) with base 10:"), "expected a whole number, got"),
    (re.compile(r"could not convert string to float:"), "expected a number, got"),
    (re.compile(r"^Missing from .*?: "), "missing: "),
    (re.compile(r"^Unrecognized options:"), "unexpected argument:"),
    (re.compile(r" \(required\)"), ""),
)
_CHOICE = re.compile(r"invalid choice '(.*?)' for argument '(.*?)'\. Expected one of \((.*?)\)")
_QUOTED = r"'([^']*)'"
_NUMBER = re.compile(r"^-\.?\d")


def parse(cls: type[T], arguments: Sequence[str], *, verb: str, what: str, default: T | None = None) -> T:
    """An instance of ``cls`` from command line arguments.

    Args:
        verb: name of the command, for the usage line.
        what: what the command does, for ``--help``.
        default: where options start from; without it the defaults of ``cls``.

    Raises:
        ConfigError: unknown option, bad or missing value, in one line.
        SystemExit: 0 after ``--help``.
    """
    if not {"-h", "--help"} & set(arguments):
        refuse_unknown(cls, arguments)
    extra: dict[str, Any] = {} if default is None else {"default": default}
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            config: T = tyro.cli(cls, args=list(arguments), prog=f"robolearn {verb}", description=what, **extra)
    except SystemExit as exit_:
        if exit_.code in (0, None):
            raise
        raise ConfigError(_one_line(errors.getvalue()) + f" (see robolearn {verb} --help)") from None
    return config


def refuse_unknown(cls: type, arguments: Sequence[str]) -> None:
    """Raise ConfigError for the first option that ``cls`` does not have, naming the nearest one it has."""
    names: set[str] = {"-h", "--help"}
    shown: set[str] = set()
    for key, annotation in typed.keys(cls).items():
        if _is_positional(annotation):
            continue
        shown.add(f"--{dashed(key)}")
        if annotation is bool:
            head, _, last = dashed(key).rpartition(".")
            names.add(f"--{head}.no-{last}" if head else f"--no-{last}")
    for argument in arguments:
        name = argument.partition("=")[0]
        if name.startswith("-") and not _NUMBER.match(name) and dashed(name) not in names | shown:
            near = difflib.get_close_matches(dashed(name), sorted(shown), n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"have: {', '.join(sorted(shown))}"
            raise ConfigError(f"unknown option '{name}'; {hint}")


def dashed(name: str) -> str:
    """Options are written with dashes; underscores are taken too."""
    return name.replace("_", "-")


def _is_positional(annotation: Any) -> bool:
    return get_origin(annotation) is Annotated and _POSITIONAL in get_args(annotation)


def _one_line(box: str) -> str:
    """The message of a box drawn on a terminal, without frame and help text, in our words."""
    words: list[str] = []
    for line in box.splitlines()[1:]:
        text = _BOX.sub(" ", line).strip()
        if not text and words:
            break
        words.append(text)
    text = " ".join(" ".join(words).split())
    for pattern, ours in _REWORD:
        text = pattern.sub(ours, text)
    if choice := _CHOICE.search(text):
        value, option, have = choice.groups()
        return f"{option}: unknown value '{value}'{suggest(value, re.findall(_QUOTED, have))}"
    return text or "the command line cannot be understood"


def take(arguments: list[str], name: str) -> str | None:
    """Remove ``--name VALUE`` or ``--name=VALUE`` and return the last value given; None when absent.

    Raises:
        ConfigError: the value is missing.
    """
    value = None
    while (found := _find(arguments, name)) is not None:
        index, inline = found
        if inline is not None:
            value = inline
            del arguments[index]
        elif index + 1 < len(arguments) and not arguments[index + 1].startswith("--"):
            value = arguments[index + 1]
            del arguments[index : index + 2]
        else:
            raise ConfigError(f"{name}: its value is missing")
    return value


def peek(arguments: Sequence[str], name: str) -> str | None:
    """Like ``take``, but leaves the arguments alone."""
    return take(list(arguments), name)


def take_flag(arguments: list[str], name: str) -> bool:
    """Remove ``--name`` and say whether it was there."""
    given = name in arguments
    arguments[:] = [argument for argument in arguments if argument != name]
    return given


def _find(arguments: Sequence[str], name: str) -> tuple[int, str | None] | None:
    for index, argument in enumerate(arguments):
        head, equals, tail = argument.partition("=")
        if head == name:
            return index, tail if equals else None
    return None
