"""TOML <-> dataclasses: what is read, what is refused and in which words, and that writing and reading agree."""

import tomllib
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from defar_analysis.config import check_fields, dump_toml, from_table, override, read_layers, read_toml


@dataclass(frozen=True)
class Inner:
    depth: int = 2
    ratio: float = 4.0


@dataclass(frozen=True)
class Outer:
    name: str
    steps: int = 10
    flag: bool = False
    limit: int | None = None
    mode: Literal["fast", "slow"] = "fast"
    betas: tuple[float, float] = (0.9, 0.999)
    inner: Inner = field(default_factory=Inner)
    options: dict[str, Any] = field(default_factory=dict)


def outer(**table):
    return from_table(Outer, {"name": "n", **table}, "file.toml")


def test_a_table_becomes_the_dataclass():
    made = outer(
        steps=3, flag=True, limit=5, mode="slow", betas=[0.5, 0.6], inner={"depth": 7, "ratio": 2}, options={"a": [1]}
    )
    assert made == Outer("n", 3, True, 5, "slow", (0.5, 0.6), Inner(7, 2.0), {"a": [1]})
    assert isinstance(made.inner.ratio, float)
    assert outer() == Outer("n")


@pytest.mark.parametrize(
    ("table", "parts"),
    [
        ({"step": 3}, ("'step'", "did you mean 'steps'")),
        ({"zzz": 3}, ("'zzz'", "known keys", "steps")),
        ({"inner": {"dpeth": 3}}, ("inner", "'dpeth'", "did you mean 'depth'")),
    ],
)
def test_an_unknown_key_suggests_the_near_one(table, parts, refuses):
    refuses(lambda: outer(**table), "file.toml", *parts)


def test_a_missing_key_is_named(refuses):
    refuses(lambda: from_table(Outer, {}, "file.toml"), "file.toml", "'name'", "missing")


@pytest.mark.parametrize(
    ("key", "value", "part"),
    [
        ("name", 3, "str"),
        ("steps", "3", "int"),
        ("steps", 3.0, "int"),
        ("steps", True, "int"),
        ("flag", 1, "bool"),
        ("limit", "many", "int"),
        ("mode", "medium", "'fast', 'slow'"),
        ("mode", ["fast"], "'fast', 'slow'"),
        ("betas", 0.9, "list"),
        ("betas", ["a", "b"], "float"),
        ("betas", [0.9], "2"),
        ("inner", 3, "table"),
        ("options", 3, "dict"),
        ("options", [], "dict"),
    ],
)
def test_a_wrong_value_names_file_key_value_and_what_is_needed(key, value, part, refuses):
    refuses(lambda: outer(**{key: value}), "file.toml", key, part)


def test_a_wrong_value_inside_a_table_is_named(refuses):
    refuses(lambda: outer(inner={"ratio": "wide"}), "file.toml", "inner", "ratio", "'wide'", "float")
    refuses(lambda: outer(inner={"ratio": True}), "ratio", "True")


def test_overrides_reach_into_tables_and_leave_the_original_alone():
    table = {"steps": 1, "inner": {"depth": 2}}
    changed = override(table, ["steps=5", "inner.ratio=0.5", "mode=slow", 'name="a b"', "new.deep.flag=true"])
    assert changed == {
        "steps": 5, "inner": {"depth": 2, "ratio": 0.5}, "mode": "slow", "name": "a b", "new": {"deep": {"flag": True}}
    }  # fmt: skip
    assert table == {"steps": 1, "inner": {"depth": 2}}
    assert override(table, ["betas=[0.5, 0.6]", "steps=2", "steps=3"])["betas"] == [0.5, 0.6]
    assert override(table, ["steps=2", "steps=3"])["steps"] == 3


def test_bad_overrides_are_refused(refuses):
    for assignment in ("steps", "=3", ""):
        refuses(lambda a=assignment: override({}, [a]), "KEY=VALUE")
    refuses(lambda: override({"steps": 1}, ["steps.more=3"]), "'steps'", "not a table")


def test_a_date_in_a_recipe_is_a_value_like_any_other(refuses):
    """An unquoted date is easily written where a name is meant; overriding another key must not trip over it."""
    table = tomllib.loads("name = 2026-01-05\n")
    refuses(lambda: from_table(Outer, override(table, []), "file.toml"), "file.toml", "name", "str")


def test_unreadable_files_are_refused(tmp_path, refuses):
    refuses(lambda: read_toml(tmp_path / "none.toml"), "none.toml", "no such file")
    refuses(lambda: read_toml(tmp_path), tmp_path.name, "is a folder")
    for content in (b"a = ", b"a = 1\na = 2\n", b"a = '\xff'"):
        (tmp_path / "bad.toml").write_bytes(content)
        refuses(lambda: read_toml(tmp_path / "bad.toml"), "bad.toml", "TOML")


keys = st.text("abcXYZ019_-", min_size=1, max_size=6)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
leaves = st.booleans() | numbers | texts
values = leaves | st.lists(leaves | st.lists(leaves, max_size=3), max_size=3)
tables = st.recursive(st.dictionaries(keys, values, max_size=4), lambda inner: st.dictionaries(keys, values | inner))


@settings(deadline=None, derandomize=True)
@given(tables)
@example({"a": 'quote " backslash \\ tab \t line \n return \r nul \0 bell \a umlaut ü emoji 🙂'})
@example({"a": "delete \x7f"})
@example({"a": {"b": {"c": 1}, "d": 2}, "e": {}, "f": [1e16, 1e-7, float("inf"), -0.0]})
def test_what_is_written_is_read_back(table):
    read = tomllib.loads(dump_toml(table))
    assert read == table
    assert repr(_sorted(read)) == repr(_sorted(table))  # types as well: 1 is not 1.0 and not true


def _sorted(value):
    return {key: _sorted(value[key]) for key in sorted(value)} if isinstance(value, dict) else value


def test_none_is_left_out_and_tuples_become_lists():
    assert tomllib.loads(dump_toml({"a": None, "b": (1, 2), "c": {"d": None}})) == {"b": [1, 2], "c": {}}


# --- files that extend others ---


@pytest.fixture
def write(tmp_path):
    """write(name, text): a file below tmp_path; returns its path."""

    def file(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return file


def test_a_file_without_extends_is_itself(write):
    assert read_layers(write("a.toml", "a = 1\n[b]\nc = 2\n")) == {"a": 1, "b": {"c": 2}}


def test_tables_are_laid_over_tables_and_values_replaced(write):
    write("base.toml", "a = 1\nlist = [1, 2]\n[b]\nc = 2\nd = 3\n[b.deep]\ne = 4\nf = 5\n[kept]\ng = 6\n")
    top = write("top.toml", 'extends = "base.toml"\nlist = [3]\nnew = 9\n[b]\nd = 30\n[b.deep]\nf = 50\n')
    assert read_layers(top) == {
        "a": 1, "list": [3], "new": 9, "b": {"c": 2, "d": 30, "deep": {"e": 4, "f": 50}}, "kept": {"g": 6},
    }  # fmt: skip


def test_a_value_replaces_a_table_and_a_table_a_value(write):
    write("base.toml", "b = 1\n[a]\nc = 2\n")
    assert read_layers(write("top.toml", 'extends = "base.toml"\na = 3\n[b]\nd = 4\n')) == {"a": 3, "b": {"d": 4}}


def test_each_file_names_the_next_relative_to_itself(write, monkeypatch, tmp_path):
    write("base.toml", "a = 1\nb = 1\nc = 1\n")
    write("sub/middle.toml", 'extends = "../base.toml"\nb = 2\nc = 2\n')
    write("sub/base.toml", "a = 99\n")  # a decoy: not the one that middle names
    top = write("top.toml", 'extends = "sub/middle.toml"\nc = 3\n')
    monkeypatch.chdir(tmp_path / "sub")  # where one stands does not matter
    assert read_layers(top) == {"a": 1, "b": 2, "c": 3}


def test_one_file_may_be_extended_twice_but_not_by_itself(write, refuses):
    write("base.toml", "a = 1\n")
    for name in ("one.toml", "two.toml"):
        assert read_layers(write(name, 'extends = "base.toml"\n')) == {"a": 1}
    own = write("own.toml", 'extends = "own.toml"\n')
    refuses(lambda: read_layers(own), "own.toml", "extends itself")
    a = write("a.toml", 'extends = "sub/b.toml"\n')
    write("sub/b.toml", 'extends = "../c.toml"\n')
    write("c.toml", 'extends = "sub/../a.toml"\n')  # another spelling of the same file
    refuses(lambda: read_layers(a), "a.toml", "extends itself", "a.toml, b.toml, c.toml")


def test_a_missing_or_broken_layer_is_named(write, refuses):
    refuses(lambda: read_layers(write("a.toml", 'extends = "none.toml"\n')), "none.toml", "no such file")
    write("broken.toml", "a = ")
    refuses(lambda: read_layers(write("b.toml", 'extends = "broken.toml"\n')), "broken.toml", "TOML")
    for value in ("3", '["base.toml"]', "true"):
        refuses(
            lambda v=value: read_layers(write("c.toml", f"extends = {v}\n")), "c.toml", "extends = ", "one TOML file"
        )


# --- choices ---


def test_a_choice_outside_a_literal_is_refused_with_all_of_them(refuses):
    check_fields(Outer("n", mode="slow"))
    refuses(lambda: check_fields(Outer("n", mode="medium")), "mode = 'medium'; choose from 'fast', 'slow'")
    refuses(lambda: check_fields(Outer("n", mode=["fast"])), "mode = ['fast']")
    refuses(lambda: check_fields(Outer(name=3)), "name = 3; str is needed")
