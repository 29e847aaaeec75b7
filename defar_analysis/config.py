"""TOML tables <-> frozen dataclasses, with errors that name the key, the value and the mend. Standard library only."""

from __future__ import annotations

import copy
import dataclasses
import datetime
import difflib
import json
import re
import tomllib
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from .errors import DefarError, reason
from .inputs import read_text

T = TypeVar("T")
LARGEST_TOML = 1 << 20  # bytes of a recipe or a card; the largest of ours has a few thousand
DEEPEST = 32  # tables in tables; tomllib reads hundreds of thousands, over which everything after it would fall
LAYERS = 16  # files that extend one another
_STRING = re.compile(r""""(?:[^"\\\n]|\\.)*+"?|'[^'\n]*+'?""")  # one without an end goes to that of its line
_CHAIN = re.compile(rf"(?<![\w-])[\w-]++(?:[ \t]*+\.[ \t]*+[\w-]++){{{DEEPEST}}}")  # a.a.a.a...


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as nested dicts. Raises DefarError where it is missing or not TOML."""
    try:
        return _checked(_parsed(read_text(path, LARGEST_TOML)))
    except FileNotFoundError:
        raise DefarError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise DefarError(f"{path}: is a folder; name a TOML file in it") from None
    except DefarError as error:
        raise DefarError(f"{path}: cannot be read as TOML: {str(error).removeprefix(f'{path}: ')}") from None
    except (ValueError, OSError, RecursionError) as error:  # ValueError: no TOML, or a number of 5,000 digits
        raise DefarError(f"{path}: cannot be read as TOML: {reason(error)}; mend it there") from None


def _parsed(text: str) -> dict[str, Any]:
    """TOML's table; a key of many parts is refused before, since tomllib takes memory by the square of their number."""
    if _CHAIN.search(_STRING.sub("q", text)):
        raise DefarError(f"a key of more than {DEEPEST} parts; write it shorter")
    return tomllib.loads(text)


def _checked(table: dict[str, Any]) -> dict[str, Any]:
    """`table`, if its whole numbers have TOML's 64 bits and its tables are nested as a person nests them."""
    level: list[Any] = [table]
    for _ in range(DEEPEST):
        inside = [part for value in level for part in (value.values() if isinstance(value, dict) else value)]
        for value in inside:
            if isinstance(value, int) and not -(2**63) <= value < 2**63:
                raise DefarError(f"a whole number of {value.bit_length()} bits; TOML's have 64: give a smaller one")
        level = [value for value in inside if isinstance(value, dict | list)]
        if not level:
            return table
    raise DefarError(f"tables or lists nested more than {DEEPEST} deep; write it flatter")


def read_layers(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A TOML file laid over the one that its key `extends` names, relative to itself, table by table.

    Raises DefarError for files that extend each other in a circle.
    """
    path = Path(path)
    table = read_toml(path)
    if path.resolve() in seen:
        raise DefarError(f"{path}: extends itself, by way of {', '.join(p.name for p in seen)}")
    if len(seen) >= LAYERS:
        raise DefarError(f"{path}: more than {LAYERS} files extend one another; write some of them together")
    below = table.pop("extends", None)
    if below is None:
        return table
    if not isinstance(below, str):
        raise DefarError(f"{path}: extends = {below!r}; name one TOML file, relative to this one")
    return _merged(read_layers(path.parent / below, (*seen, path.resolve())), table)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    both = {key: _merged(below[key], above[key]) for key in below.keys() & above.keys()
            if isinstance(below[key], dict) and isinstance(above[key], dict)}  # fmt: skip
    return {**below, **above, **both}


def from_table(cls: type[T], table: dict[str, Any], where: str) -> T:
    """An instance of the dataclass `cls` from a TOML table; tables nest where a field is itself a dataclass."""
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for key in table:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(fields)}"
            raise DefarError(f"{where}: unknown key {key!r}; {hint}")
    for name, field in fields.items():
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if not optional and name not in table:
            raise DefarError(f"{where}: the key {name!r} is missing")
    return cls(**{key: _convert(hints[key], value, f"{where}: {key}") for key, value in table.items()})


def check_fields(instance: Any) -> None:
    """Raise DefarError where a dataclass's field is not the number, word, truth value or choice that its type says."""
    for name, hint in typing.get_type_hints(type(instance)).items():
        options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
        value = getattr(instance, name)
        if value is None and type(None) in options:
            continue
        if options[0] in (int, float, bool, str) or typing.get_origin(options[0]) is typing.Literal:
            _convert(options[0], value, name)


def override(table: dict[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """A copy of `table` with dotted assignments such as "optimizer.lr=0.001" applied; values are TOML or bare words."""
    result = copy.deepcopy(table)
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise DefarError(f"--set {assignment!r}: write KEY=VALUE, for example --set steps=100")
        *parents, leaf = key.strip().split(".")
        node = result
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise DefarError(f"--set {assignment!r}: {parent!r} is a value, not a table")
        try:
            node[leaf] = _parsed(f"v = {text}")["v"]
        except (ValueError, RecursionError):  # no TOML, so a word
            node[leaf] = text.strip()
    try:
        return _checked(result)
    except DefarError as error:
        raise DefarError(f"--set {' '.join(assignments)}: {error}") from None


def dump_toml(table: dict[str, Any], prefix: str = "") -> str:
    """TOML text of nested dicts of strings, numbers, booleans and lists; None values are left out."""
    lines, children = [], []
    for key, value in table.items():
        if isinstance(value, dict):
            name = f"{prefix}.{_toml_key(key)}" if prefix else _toml_key(key)
            children.append(f"\n[{name}]\n{dump_toml(value, name)}")
        elif value is not None:
            lines.append(f"{_toml_key(key)} = {_toml_value(value)}\n")
    return "".join(lines) + "".join(children)


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml_value(key)


def _toml_value(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # JSON allows it bare, TOML does not
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    if isinstance(value, dict):  # a table in a list
        return "{" + ", ".join(f"{_toml_key(key)} = {_toml_value(part)}" for key, part in value.items()) + "}"
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return repr(value)


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise DefarError(f"{where} must be a table; got {value!r}")
        return from_table(hint, value, where)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        if not isinstance(value, str | int) or value not in args:
            raise DefarError(f"{where} = {value!r}; choose from {', '.join(map(repr, args))}")
        return value
    if origin in (typing.Union, types.UnionType):
        arms = [a for a in args if a is not type(None)]
        tables = [a for a in arms if typing.get_origin(a) is dict and isinstance(value, dict)]
        return _convert((tables or arms)[0], value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple) or len(value) != len(args):
            raise DefarError(f"{where} = {value!r}; a list of {len(args)} is needed")
        return tuple(_convert(arg, part, where) for arg, part in zip(args, value, strict=True))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = origin or hint
    if isinstance(plain, type) and (not isinstance(value, plain) or (isinstance(value, bool) and plain is not bool)):
        raise DefarError(f"{where} = {value!r}; {plain.__name__} is needed")
    return value
