"""The reader: every quiet trap of YAML, limits, lines, and that nothing but a tree or SweepFileError comes back."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kdtune.sweepfile.reader import BYTES, DEPTH, NODES, parse, read
from kdtune.sweepfile.tree import SweepFileError, YamlList, YamlMap


def problems(text: str | bytes) -> list[str]:
    with pytest.raises(SweepFileError) as caught:
        parse(text, "x.yaml")
    assert str(caught.value) == "\n".join(map(str, caught.value.problems))
    return [str(problem) for problem in caught.value.problems]


SCALARS = [  # written, read: the core schema of YAML 1.2.2, section 10.3.2
    ("5e-4", 5e-4), ("1e-3", 1e-3), ("2E+3", 2000.0), (".5", 0.5), ("-.5", -0.5), ("5.", 5.0), ("1.10", 1.1),
    ("+1.5", 1.5), ("1e3", 1000.0), ("6.8523015e+5", 685230.15), ("0.0", 0.0), ("-0", 0), ("12", 12), ("+12", 12),
    ("-12", -12), ("010", 10), ("0o10", 8), ("0x1F", 31), ("0b11", "0b11"), ("-0o10", "-0o10"), ("0x", "0x"),
    ("12:30", "12:30"), ("190:20:30", "190:20:30"), ("1_000", "1_000"), ("1e", "1e"), ("e5", "e5"), (".", "."),
    ("1.2.3", "1.2.3"), ("1,5", "1,5"), ("٣", "٣"), ("no", "no"), ("yes", "yes"), ("on", "on"), ("off", "off"),
    ("No", "No"), ("y", "y"), ("true", True), ("True", True), ("FALSE", False), ("tRUE", "tRUE"), ("null", None),
    ("~", None), ("", None), ("nil", "nil"), ("2026-11-20", "2026-11-20"), ("2001-12-14t21:59:43Z",) * 2,
    ("2026-11-20 10:00:00", "2026-11-20 10:00:00"), ("=", "="), ("'5e-4'", "5e-4"), ('"true"', "true"), ("$rate",) * 2,
    ("|\n  two\n  lines", "two\nlines"), (".inf", math.inf), ("-.Inf", -math.inf), ("inf", "inf"), ("nan", "nan"),
    ("wrn-16-2", "wrn-16-2"), ("a b # comment", "a b"), ("!!str 5", "5"), ("!!int '5'", 5), ("!!float 1", 1.0),
    ("!!null ''", None), ("! 5", 5), ("9223372036854775807", 2**63 - 1), ("-9223372036854775808", -(2**63)),
]  # fmt: skip


@pytest.mark.parametrize(("written", "value"), SCALARS)
def test_scalars_are_those_of_yaml_1_2(written: str, value: Any) -> None:
    read_back = parse(f"key: {written}", "x.yaml")["key"]
    assert read_back == value and type(read_back) is type(value)


def test_not_a_number() -> None:
    assert math.isnan(parse("a: .nan", "x")["a"]) and math.isnan(parse("a: .NaN", "x")["a"])


def test_words_and_numbers_of_yaml_1_1_are_text_as_keys_too() -> None:
    assert parse("no: 1\n12:30: 2\n2026-11-20: 3\n'1': 4\n", "x") == {"no": 1, "12:30": 2, "2026-11-20": 3, "1": 4}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "x.yaml:1: there is nothing in it"),
        ("# only a comment\n", "x.yaml:1: there is nothing in it"),
        ("null", "x.yaml:1: a sweep file is a mapping of keys to values, not null"),
        ("- a\n- b\n", "not a list of 2"),
        ("epochs:3", "write a space after the colon"),
        ("a:\n\tb: 1", "x.yaml:2: a tab where YAML wants spaces"),
        ("a: 1\n\tb: 1", "x.yaml:2: a tab where YAML wants spaces"),
        ("a:\n  b: 1\n c: 2", "x.yaml:3: not valid YAML: expected <block end>"),
        ("a: b: c", "x.yaml:1: not valid YAML: mapping values are not allowed here; a second colon"),
        ("x: 1\na: [1, 2\n", "while parsing a flow sequence that begins on line 2"),
        ("a: 'x", "x.yaml:1: not valid YAML: found unexpected end of stream"),
        ("a: @x", "x.yaml:1: not valid YAML: found character '@'"),
        ("a: *x", "x.yaml:1: not valid YAML: found undefined alias 'x'"),
        ("a: &x 1\nb: &x 2", "x.yaml:2: not valid YAML: second occurrence"),
        ("a: 1\n---\nb: 2", "x.yaml:2: not valid YAML: but found another document"),
        ("%YAML 2.0\n---\na: 1", "incompatible YAML document"),
        ("%YAML " + "9" * 5000 + ".0\n---\na: 1", "x.yaml: not valid YAML"),
        ('a: "\\UFFFFFFFF"', "x.yaml: not valid YAML"),
        ("a: 1\nb: \x1b[2J", "x.yaml:2: unprintable character U+001B"),
        ('a: 1\nb: "\\e[2J"', "x.yaml:2: b: unprintable character U+001B in text"),
        ('a: "\\uD800"', "x.yaml:1: a: unprintable character U+D800 in text"),
        ('a: "\\0"', "x.yaml:1: a: unprintable character U+0000 in text"),
        (b"a: 1\nb: caf\xe9\n", "x.yaml:2: byte 0xe9 is not UTF-8; save the file as UTF-8"),
        ("a: 1".encode("utf-16"), "is not UTF-8"),
        ("a: 1\nb: 2\na: 3", "x.yaml:3: a: written twice, first on line 1"),
        ("s:\n  a: 1\n  'a': 3", "x.yaml:3: s.a: written twice, first on line 2"),
        ("g:\n  - {a: 1, a: 2}", "x.yaml:2: g.0.a: written twice, first on line 2"),
        ("x: &x {a: 1}\ny:\n  <<: *x\n  <<: *x", "x.yaml:4: y.<<: written twice, first on line 3"),
        ("1: a", "x.yaml:1: a key must be text, not 1"),
        ("a: {true: 1}", "x.yaml:1: a: a key must be text, not True"),
        ("a: {~: 1}", "x.yaml:1: a: a key must be text, not null"),
        ("a: {'': 1}", "x.yaml:1: a: a key must be text, not ''"),
        ("a: {[1]: 1}", "x.yaml:1: a: a key must be text, not a list or a mapping"),
        ("{a: 1}: 1", "a key must be text, not a list or a mapping"),
        ("a\u00a0b: 1", "a key must be text, not 'a\\xa0b'"),
        ("a: !!python/object/apply:os.system [x]", "x.yaml:1: a: the tag '!!python/object/apply:os.system' is refused"),
        ("a: !!python/name:os.system", "x.yaml:1: a: the tag '!!python/name:os.system' is refused"),
        ("a: !grid [1]", "x.yaml:1: a: the tag '!grid' is refused"),
        ("a: !!set {x}", "x.yaml:1: a: the tag '!!set' is refused"),
        ("a: !!binary aGk=", "x.yaml:1: a: the tag '!!binary' is refused"),
        ("a: !!timestamp 2026-11-20", "x.yaml:1: a: the tag '!!timestamp' is refused"),
        ("%TAG !! tag:evil,2000:\n---\na: !!str x", "x.yaml:3: a: the tag 'tag:evil,2000:str' is refused"),
        ("a: !!map x", "x.yaml:1: a: the tag '!!map' is refused"),
        ("a: !!str [x]", "x.yaml:1: a: the tag '!!str' is refused"),
        ("a: {!!python/name:x y: 1}", "the tag '!!python/name:x' is refused"),
        ("a: !!int x", "x.yaml:1: a: 'x' is no '!!int'"),
        ("a: !!bool yes", "x.yaml:1: a: 'yes' is no '!!bool'"),
        ("a: 9223372036854775808", "x.yaml:1: a: '9223372036854775808' is beyond 64 bits"),
        ("a: 0x" + "f" * 5000, "is beyond 64 bits"),
        ("a: " + "9" * 5000, "is beyond 64 bits"),
        ("a: 1e999", "x.yaml:1: a: '1e999' is beyond 64 bits"),
        ("a: {<<: 5}", "x.yaml:1: a.<<: << merges a mapping or a list of mappings, not 5"),
        ("a: &a [*a]", "x.yaml:1: a.0: an alias to what it stands in"),
        ("a: &a {<<: *a}", "x.yaml:1: a.<<: an alias to what it stands in"),
        ("a: &a\n  b: {c: *a}", "x.yaml:1: a.b.c: an alias to what it stands in"),
    ],
)
def test_what_is_refused(text: str | bytes, complaint: str) -> None:
    assert complaint in problems(text)[0]


def test_every_problem_is_reported_and_what_an_alias_repeats_once() -> None:
    found = problems("a: 1\na: 2\n3: x\nb: &b {c: !x y}\nd: *b\ne: [*b, 1e999]\n")
    assert [line.split(": ")[0] for line in found] == ["x.yaml:2", "x.yaml:3", "x.yaml:4", "x.yaml:6"]


BOMB = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{name}: &{name} [{','.join(['*' + chr(ord(name) - 1)] * 9)}]\n" for name in "bcdefghij"
)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (BOMB, f"aliases that stand for more than {NODES} values"),
        (
            "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 40)),
            "aliases",
        ),
        ("a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 60)), f"nest more than {DEPTH} deep"),
        ("[" * 20_000, f"nested more than {DEPTH} deep"),
        ("a: " + "{a: " * 20_000, f"nested more than {DEPTH} deep"),
        ("- " * 20_000, f"nested more than {DEPTH} deep"),
        ("a: " + "x" * BYTES, f"larger than {BYTES} bytes"),
    ],
    ids=["aliases", "merged aliases", "deep aliases", "lists", "mappings", "dashes", "large"],
)
def test_limits(text: str, complaint: str) -> None:
    assert complaint in problems(text)[0]


def test_the_number_of_values_written_is_limited_while_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdtune.sweepfile.reader.NODES", 100)
    assert "more than 100 values" in problems("a: [" + "1," * 98 + "]")[0]
    assert len(parse("a: [" + "1," * 97 + "]", "x")["a"]) == 97


def test_lines_say_where_a_value_stands_or_a_collection_is_opened() -> None:
    tree = parse("a:\n  b: 1\n  c:\n    2\nd:\n  - {e: 1}\n  -\n    f: 1\ng: >\n  text\n", "x")
    assert tree.line == 1 and tree.lines == {"a": 1, "d": 5, "g": 9}
    assert tree["a"].lines == {"b": 2, "c": 4} and tree["a"].line == 2
    assert tree["d"].lines == [6, 8] and tree["d"].line == 6 and tree["d"][1].lines == {"f": 8}


def test_merged_keys_keep_their_written_order() -> None:
    """Knobs of one point compose in that order, and it is part of a run's id."""
    names = [f"key{i}" for i in (3, 1, 4, 5, 9, 2, 6, 8, 7, 0)]
    written = ", ".join(f"{name}: 1" for name in names)
    tree = parse(f"a: &a {{{written}}}\nb: {{<<: *a, key9: 2, last: 3}}\nc: {{first: 0, <<: [*a, {{more: 4}}]}}", "x")
    assert list(tree["b"]) == [*names, "last"]
    assert list(tree["c"]) == ["first", *names, "more"]
    assert tree["b"]["key9"] == 2


def test_aliases_are_copies_and_merge_keys_give_way() -> None:
    tree = parse("a: &a {x: 1, y: {z: 2}}\nb: *a\nc:\n  y: 3\n  <<: *a\n  x: 4\nd: {<<: [*a, {x: 5, w: 6}]}\n", "x")
    assert tree["b"] == tree["a"] and tree["b"] is not tree["a"] and tree["b"]["y"] is not tree["a"]["y"]
    assert tree["c"] == {"x": 4, "y": 3} and tree["c"].lines == {"y": 4, "x": 6}
    assert tree["d"] == {"x": 1, "y": {"z": 2}, "w": 6} and tree["d"].lines["x"] == 1
    assert parse("a: {'<<': 1}\nb: <<", "x") == {"a": {"<<": 1}, "b": "<<"}


def test_keys_keep_the_order_in_which_they_are_written() -> None:
    assert list(parse("b: 1\na: 2\nc: 3", "x")) == ["b", "a", "c"]


def test_reading_files(tmp_path: Path) -> None:
    (tmp_path / "fickle.yaml").write_bytes(b"\xef\xbb\xbfname: fickle\r\nseeds: 5\r\n")
    assert read(tmp_path / "fickle.yaml") == {"name": "fickle", "seeds": 5}
    (tmp_path / "bad.yaml").write_text("a: 1\na: 2\n")
    for path, complaint in [
        (tmp_path / "fickel.yaml", f"there is no such file; did you mean {tmp_path / 'fickle.yaml'}?"),
        (tmp_path / "none" / "x.yaml", "there is no such file"),
        (tmp_path, "that is a folder"),
        (tmp_path / "fickle.yaml" / "x", "cannot be read: Not a directory"),
        (tmp_path / ("x" * 5000), "cannot be read: File name too long"),
        (Path("a\0b"), "cannot be read: embedded null byte"),
        (tmp_path / "bad.yaml", f"{tmp_path / 'bad.yaml'}:2: a: written twice"),
    ]:
        with pytest.raises(SweepFileError) as caught:
            read(path)
        assert str(caught.value).startswith(str(path)) and complaint in str(caught.value)


printable = st.text(st.characters(exclude_categories=["C", "Z"]) | st.just(" "), min_size=1, max_size=30).filter(
    str.strip
)
scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | printable
    | st.floats(allow_nan=False, allow_infinity=False).map(lambda number: number + 0.0)  # -0.0 reads as 0.0
    | st.sampled_from(["no", "1e-3", "010", "12:30", "<<", "~", "0o7", "2026-11-20", ".inf", "- a", "a: b", "#"])
)  # fmt: skip
values = st.recursive(
    scalars, lambda v: st.lists(v, max_size=4) | st.dictionaries(printable, v, max_size=4), max_leaves=20
)
trees = st.dictionaries(printable, values, min_size=1, max_size=5)


@given(trees, st.sampled_from([None, 1, 4]))
def test_json_is_yaml_1_2_and_reads_back_as_it_was(tree: dict[str, Any], indent: int | None) -> None:
    text = json.dumps(tree, ensure_ascii=False, indent=indent)
    grown = parse(text, "x")
    assert repr(plain(grown)) == repr(tree)  # repr, so that 1, 1.0 and True differ
    if indent is not None:
        check_lines(grown, text.split("\n"))


@given(trees)
def test_quoted_and_tagged_yaml_reads_back_as_it_was(tree: dict[str, Any]) -> None:
    text = yaml.safe_dump(tree, default_style='"', sort_keys=False, allow_unicode=True, width=10**6)
    assert repr(plain(parse(text.encode(), "x"))) == repr(tree)


def plain(node: Any) -> Any:
    if isinstance(node, YamlMap):
        return {key: plain(value) for key, value in node.items()}
    return [plain(item) for item in node] if isinstance(node, YamlList) else node


def check_lines(node: Any, lines: list[str]) -> None:
    if isinstance(node, YamlMap):
        assert node.keys() == node.lines.keys()
        for key, value in node.items():
            number = node.lines[key]
            assert number and lines[number - 1].strip().startswith(json.dumps(key, ensure_ascii=False) + ": ")
            check_lines(value, lines)
    elif isinstance(node, YamlList):
        assert len(node) == len(node.lines)
        for item in node:
            check_lines(item, lines)


CHARACTERS = "ab:-?[]{},!|>'\"%@`#=+_.~1\\ \n\t\r\0\x85\u2028\ufeffé😀"
WORDS = [
    ": ",
    "- ",
    "? ",
    "&a ",
    "*a",
    "!!",
    "!!str ",
    "!!int ",
    "\n  ",
    "\\x",
    "\\U",
    "FFFFFFFF",
    "0x",
    "0o",
    "e9",
    "<<",
]
pieces = st.sampled_from([*CHARACTERS, *WORDS, "---", "...", "%YAML ", "%TAG "])


@given(st.text() | st.binary() | st.lists(pieces, max_size=40).map("".join))
def test_anything_is_a_tree_or_an_error_of_the_file(text: str | bytes) -> None:
    try:
        tree = parse(text, "x.yaml")
    except SweepFileError as error:
        assert error.problems and all(problem.source == "x.yaml" and problem.message for problem in error.problems)
        str(error).encode()
    else:
        assert isinstance(tree, YamlMap)
        json.dumps(tree).encode()
