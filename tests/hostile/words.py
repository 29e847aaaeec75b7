"""Hostile text: TOML, JSON and CSV, made from what is right by one value, one key or one sign at a time."""

import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from hostile.damage import damaged, something_else

TOML_VALUES = (
    "-1",
    "0",
    "1e300",
    "inf",
    "-inf",
    "nan",
    "true",
    '"3"',
    '""',
    "[]",
    "{}",
    "[[]]",
    "[1, 'a']",
    "{a.b.c = 1}",
    "{name = {}}",
    "9223372036854775807",
    "-9223372036854775808",
    "1" + "0" * 40,
    "1" + "0" * 5000,
    "0x" + "f" * 5000,
    f'"{"x" * 100_000}"',
    '"a\\u0000b"',
    '"../../x"',
    '".."',
    '"/dev/zero"',
    '"\\n\\u001b[2J"',
    '"\\ud800"',
    '"$(touch code_was_run)"',
    "1979-05-27",
    "07:32:00",
    "1979-05-27T07:32:00Z",
    "[" * 100 + "]" * 100,
)
JSON_VALUES = (
    None,
    True,
    -1,
    0,
    2**31,
    10**30,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "../../x",
    "/dev/zero",
    "a\0b",
    "\x1b[2J",
    "\ud800",
    [],
    [None],
    [[1]],
    {},
    {"a": {}},
    "9" * 5000,
)
CSV_VALUES = (
    "",
    "nan",
    "inf",
    "-1e400",
    "x",
    "=cmd|' /C calc'!A0",
    '"',
    '"a\nb"',
    "\0",
    "\x1b[2J",
    "9" * 5000,
    "<script>",
)


def hostile_toml(whole: str, every: int = 1) -> Iterator[tuple[str, bytes]]:
    """(what is wrong, a TOML file), from a whole one. Some are merely odd. every: third value only, say."""
    lines = whole.splitlines()
    for number, line in enumerate(lines):
        key, equals, _ = line.partition(" = ")
        if not equals or key.startswith("#"):
            continue
        for value in TOML_VALUES[number % every :: every]:
            changed = [*lines[:number], f"{key} = {value}", *lines[number + 1 :]]
            yield f"{key} = {value[:40]}", "\n".join(changed).encode()
        yield f"without {key}", "\n".join([*lines[:number], *lines[number + 1 :]]).encode()
        yield f"{key} twice", "\n".join([*lines[:number], line, line, *lines[number + 1 :]]).encode()
        yield f"{key}s", "\n".join([*lines[:number], line.replace(key, f"{key}s", 1), *lines[number + 1 :]]).encode()
    yield from damaged(whole.encode(), flips=20, splices=8)
    yield from something_else()
    for what, content in {
        "one key in 100,000 tables": ".".join("a" * 100_000) + " = 1",
        "100,000 brackets": "a = " + "[" * 100_000,
        "10,000 tables": "".join(f"[a{i}]\n" for i in range(10_000)),
        "2 MB of spaces": " " * (2 << 20),
        "a table as a key": "[name]\n" + whole,
        "a key of no name": '"" = 1\n' + whole,
        "dots": "a..b = 1",
        "a quote without end": 'name = """' + whole,
        "extends a device": 'extends = "/dev/zero"',
        "extends a folder": 'extends = "."',
        "extends nothing": 'extends = ""',
        "extends a zero byte": 'extends = "a\\u0000"',
        "extends the network": 'extends = "https://example.com/x.toml"',
        "extends a number": "extends = 1",
        "extends itself": 'extends = "hostile.toml"',
    }.items():
        yield what, content.encode()
    yield "another encoding", whole.encode("utf-16")
    yield "a mark of order", b"\xef\xbb\xbf" + whole.encode()
    yield "not UTF-8", whole.encode() + b"\xff"


def toml_tables(keys: list[str]) -> st.SearchStrategy[str]:
    """TOML after its grammar, with keys that are known and values that are anything."""
    value = st.recursive(
        st.sampled_from(TOML_VALUES[:17])
        | st.integers(-(2**70), 2**70).map(str)
        | st.floats().map(repr)
        | st.text(max_size=20).map(lambda text: json.dumps(text, ensure_ascii=False)),
        lambda inner: (
            st.lists(inner, max_size=3).map(lambda parts: f"[{', '.join(parts)}]")
            | st.dictionaries(st.sampled_from(keys), inner, max_size=3).map(
                lambda table: "{" + ", ".join(f"{k.rpartition('.')[2]} = {v}" for k, v in table.items()) + "}"
            )
        ),
        max_leaves=6,
    )
    return st.dictionaries(st.sampled_from(keys), value, max_size=8).map(
        lambda table: "".join(f"{key} = {value}\n" for key, value in table.items())
    )


def hostile_json(whole: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """(what is wrong, a JSON file), from what a whole one holds. Some are merely odd."""
    for path in _paths(whole):
        yield f"without {path}", _json(_changed(whole, path))
        for value in JSON_VALUES:
            yield f"{path} = {str(value)[:20]!r}", _json(_changed(whole, path, value))
    yield from damaged(_json(whole), flips=15, splices=6)
    yield from something_else()
    yield from {
        "null": b"null",
        "a list": b"[]",
        "a list of itself": b"[" + _json(whole) + b"]",
        "a number": b"5",
        "text": b'"x"',
        "deep": b'{"a":' * 100_000,
        "deep lists": b"[" * 100_000,
        "a long number": b"9" * 100_000,
        "two": b"{}{}",
        "UTF-16": _json(whole).decode().encode("utf-16"),
        "not UTF-8": b'{"\xff": 1}',
        "a mark": b"\xef\xbb\xbf" + _json(whole),
    }.items()


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _paths(table: Any, begin: tuple = (), depth: int = 3) -> Iterator[tuple]:
    inside = table.items() if isinstance(table, dict) else enumerate(table) if isinstance(table, list) else ()
    for key, value in inside:
        yield (*begin, key)
        if depth > 1:
            yield from _paths(value, (*begin, key), depth - 1)


def _changed(table: Any, path: tuple, *value: Any) -> Any:
    """A copy with another value at `path`, or without that."""
    copy, (key, *rest) = table.copy(), path
    if rest:
        copy[key] = _changed(copy[key], tuple(rest), *value)
    elif value:
        copy[key] = value[0]
    else:
        del copy[key]
    return copy


def hostile_csv(whole: str) -> Iterator[tuple[str, bytes]]:
    """(what is wrong, a CSV), from a whole one. Some are merely odd."""
    header, *rows = whole.splitlines()
    names = header.split(",")
    cells = [row.split(",") for row in rows[:40]]
    for place, name in enumerate(names):
        without = [[cell for k, cell in enumerate(row) if k != place] for row in [names, *cells]]
        yield f"without {name}", _csv(without)
        for value in CSV_VALUES:
            changed = [[*row[:place], value, *row[place + 1 :]] for row in cells]
            yield f"{name} is {value[:10]!r}", _csv([names, *changed])
            yield f"{name} is {value[:10]!r} once", _csv([names, *changed[:1], *cells[1:]])
    yield "no rows", header.encode() + b"\n"
    yield "one row more", whole.encode() + b"," * 3
    yield "a longer row", (whole + "," * 50 + "\n").encode()
    yield "another header", "\n".join(["a,b", *rows]).encode()
    yield "a name twice", "\n".join([f"{header},{names[0]}", *(f"{row},1" for row in rows)]).encode()
    yield "a quote without end", (whole + '"').encode()
    yield "100,000 columns", b"," * 100_000 + b"\n" + b"1," * 100_000
    yield "semicolons", whole.replace(",", ";").encode()
    yield "another encoding", whole.encode("utf-16")
    yield "zero bytes", whole.replace("\n", "\0\n").encode()
    yield from damaged(whole.encode(), flips=15, splices=6)
    yield from something_else()


def _csv(rows: list[list[str]]) -> bytes:
    return "\n".join(",".join(row) for row in rows).encode("utf-8", "surrogatepass")
