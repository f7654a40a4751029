"""Typed configuration: nested frozen dataclasses from mappings and YAML, checked value by value.

``merge`` and ``from_dict`` accept exactly what the annotations say and name the full dotted key of anything else.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import types
import typing
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin

from robolearn.core.errors import ConfigError, suggest

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
Types = Mapping[str, type]
"""Dotted key of a field annotated ``Any`` -> the dataclass it really holds."""

_SCALARS: dict[type, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def from_dict(cls: type[T], data: Any, *, types: Types | None = None, path: str = "") -> T:
    """Build ``cls`` from a mapping; absent keys take their defaults.

    Args:
        data: nested mapping, as ``to_dict`` or a YAML file gives it.
        types: dataclasses behind fields annotated ``Any``, by dotted key.
        path: dotted key of this mapping, for messages.

    Raises:
        ConfigError: unknown key, missing key or a value of another type; the message names the dotted key.
    """
    values = _checked(cls, data, {}, types or {}, path)
    for field in dataclasses.fields(cls):
        has_default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if field.init and field.name not in values and not has_default:
            raise ConfigError(f"{_join(path, field.name)}: missing, expected {describe(hints(cls)[field.name])}")
    return _construct(cls, values, path)


def merge(base: T, data: Any, *, types: Types | None = None, path: str = "") -> T:
    """``base`` with the values of a nested mapping in place of its own; raises like ``from_dict``."""
    current = {field.name: getattr(base, field.name) for field in dataclasses.fields(base) if field.init}
    return _construct(type(base), current | _checked(type(base), data, current, types or {}, path), path)


def to_dict(config: DataclassInstance) -> dict[str, Any]:
    """A nested mapping of plain values (str, int, float, bool, None, list, dict), the inverse of ``from_dict``."""
    data = {}
    for field in dataclasses.fields(config):
        if field.init:
            value = getattr(config, field.name)
            data[field.name] = _plain(value)
            if isinstance(data[field.name], dict) and len(_members(hints(type(config))[field.name])) > 1:
                data[field.name] = {"type": type(value).__name__, **data[field.name]}
    return data


def flatten(data: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Nested mapping -> dotted key -> value."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        name = _join(path, key)
        flat.update(flatten(value, name) if isinstance(value, Mapping) and value else {name: value})
    return flat


def diff(old: DataclassInstance, new: DataclassInstance) -> list[str]:
    """What changed, one ``dotted.key: old -> new`` each; empty when the two are the same."""
    before, after = flatten(to_dict(old)), flatten(to_dict(new))
    lines = []
    for key in [*before, *(key for key in after if key not in before)]:
        was, now = before.get(key, "(absent)"), after.get(key, "(absent)")
        if was != now or type(was) is not type(now):
            lines.append(f"{key}: {was} -> {now}")
    return lines


def dump_yaml(data: Mapping[str, Any]) -> str:
    """YAML text of a nested mapping, keys in their order."""
    import yaml

    return yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)


def load_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file. ``1e-3`` is a number here, and a key given twice is an error.

    Raises:
        ConfigError: no such file, not YAML, or not a mapping.
    """
    from robolearn.core.yaml_loader import parse

    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"cannot read {path}: {reason}") from error
    data = parse(text, str(path))
    if data is None:
        return {}
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise ConfigError(f"{path}: expected a mapping of names to values, got {_short(data)}")
    return data


def keys(cls: type, *, types: Types | None = None, path: str = "") -> dict[str, Any]:
    """Dotted key -> annotation of every value that can be set, nested dataclasses opened."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        name = _join(path, field.name)
        annotation = (types or {}).get(name, hints(cls)[field.name])
        if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
            found.update(keys(annotation, types=types, path=name))
        elif field.init:
            found[name] = annotation
    return found


def check(value: Any, annotation: Any, key: str, *, current: Any = None, types: Types | None = None) -> Any:
    """``value`` as the annotation wants it, or ConfigError naming ``key``, what was expected and what came.

    Args:
        current: what the field holds now; a mapping for a nested dataclass changes only what it names.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return value
    if origin is typing.Annotated:
        return check(value, arguments[0], key, current=current, types=types)
    if origin in (Union, types_union):
        return _check_union(value, annotation, key, current, types or {})
    if origin is Literal:
        return _check_literal(value, arguments, key)
    if origin in (tuple, list, Sequence):
        return _check_sequence(value, annotation, key, types or {})
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise _wrong(key, annotation, value)
        return {
            check(k, arguments[0], f"{key} (key)"): check(v, arguments[1], _join(key, str(k)), types=types)
            for k, v in value.items()
        }
    if not isinstance(annotation, type):
        return value
    if dataclasses.is_dataclass(annotation):
        return _check_dataclass(value, annotation, key, current, types or {})
    return _check_plain(value, annotation, key)


types_union = types.UnionType


def _check_plain(value: Any, annotation: type, key: str) -> Any:
    if issubclass(annotation, enum.Enum):
        if isinstance(value, annotation):
            return value
        if value in annotation.__members__:
            return annotation[value]
        raise ConfigError(f"{key}: unknown value {_short(value)}{suggest(str(value), annotation.__members__)}")
    if annotation is Path:
        if isinstance(value, str | Path):
            return Path(value)
    elif annotation is float:
        if isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value):
            return float(value)
    elif annotation is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    elif isinstance(value, annotation):
        return value
    raise _wrong(key, annotation, value)


def _check_literal(value: Any, choices: tuple[Any, ...], key: str) -> Any:
    for choice in choices:
        if value == choice and type(value) is type(choice):
            return choice
    raise ConfigError(f"{key}: unknown value {_short(value)}{suggest(str(value), map(str, choices))}")


def _check_sequence(value: Any, annotation: Any, key: str, types: Types) -> Any:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if not isinstance(value, list | tuple):
        raise _wrong(key, annotation, value)
    if origin is not tuple or arguments[-1:] == (Ellipsis,):
        items = [arguments[0]] * len(value)
    else:
        items = list(arguments)
    if len(items) != len(value):
        raise ConfigError(f"{key}: expected {describe(annotation)}, got {len(value)} values {_short(value)}")
    checked = [check(v, a, f"{key}[{i}]", types=types) for i, (v, a) in enumerate(zip(value, items, strict=True))]
    return checked if origin is list else tuple(checked)


def _check_union(value: Any, annotation: Any, key: str, current: Any, types: Types) -> Any:
    classes = _members(annotation)
    if isinstance(value, Mapping) and len(classes) > 1:
        by_name = {cls.__name__: cls for cls in classes}
        data = dict(value)
        name = data.pop("type", type(current).__name__ if type(current) in classes else None)
        if name not in by_name:
            raise ConfigError(f"{key}.type: which one is it?{suggest(str(name), by_name)}")
        return check(data, by_name[name], key, current=current, types=types)
    errors = []
    for member in get_args(annotation):
        if member is type(None):
            if value is None:
                return None
            continue
        try:
            return check(value, member, key, current=current, types=types)
        except ConfigError as error:
            errors.append(error)
    raise errors[0] if len(errors) == 1 else _wrong(key, annotation, value)


def _check_dataclass(value: Any, cls: type, key: str, current: Any, types: Types) -> Any:
    if isinstance(value, cls):
        return value
    if not isinstance(value, Mapping):
        raise _wrong(key, cls, value)
    if type(current) is cls:
        return merge(typing.cast("DataclassInstance", current), value, types=types, path=key)
    return from_dict(typing.cast("type[DataclassInstance]", cls), value, types=types, path=key)


def _checked(cls: type, data: Any, current: Mapping[str, Any], types: Types, path: str) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        where = f"{path}: " if path else ""
        raise ConfigError(f"{where}expected a mapping of names to values, got {_short(data)}")
    fields = {field.name for field in dataclasses.fields(cls) if field.init}
    values = {}
    for name, value in data.items():
        key = _join(path, str(name))
        if name not in fields:
            raise ConfigError(f"unknown key '{key}'{suggest(key, (_join(path, field) for field in fields))}")
        annotation = hints(cls)[name]
        if key in types and annotation is Any and value is not None:
            annotation = types[key]
        values[name] = check(value, annotation, key, current=current.get(name), types=types)
    return values


def _construct(cls: type[T], values: Mapping[str, Any], path: str) -> T:
    try:
        return cls(**values)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{path}: {error}" if path else str(error)) from error


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, Path):
        return str(value)
    return value


@lru_cache(maxsize=256)
def hints(cls: type) -> dict[str, Any]:
    """Annotations of a class, strings resolved."""
    return typing.get_type_hints(cls, include_extras=True)


def _members(annotation: Any) -> list[type]:
    """Dataclasses among the members of a union."""
    if get_origin(annotation) not in (Union, types_union):
        return []
    return [member for member in get_args(annotation) if dataclasses.is_dataclass(member) and isinstance(member, type)]


def describe(annotation: Any) -> str:
    """An annotation in words a user understands."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types_union):
        return " or ".join("nothing (null)" if a is type(None) else describe(a) for a in arguments)
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin is tuple and arguments[-1:] != (Ellipsis,):
        return f"{len(arguments)} values ({', '.join(describe(a) for a in arguments)})"
    if origin in (tuple, list, Sequence):
        return f"a list, each {describe(arguments[0])}"
    if origin in (dict, Mapping) or dataclasses.is_dataclass(annotation):
        return "a mapping of names to values"
    return _SCALARS.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _wrong(key: str, annotation: Any, value: Any) -> ConfigError:
    return ConfigError(f"{key}: expected {describe(annotation)}, got {_short(value)}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
