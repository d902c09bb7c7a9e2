"""Strict YAML: a sweep file as a tree that remembers its lines.

PyYAML only parses here. What a scalar is, what a tag may be and how much an alias may stand for is decided in this
file, by the core schema of YAML 1.2.2 (section 10.3): `5e-4` is a number, `no` and `12:30` are text, `010` is ten.
Nothing in a file can run code, however it is tagged. `tree` has what is done to a tree before it is validated.
"""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path as FilePath
from typing import Any, NoReturn

import yaml

from kdtune.settings import nearest
from kdtune.sweepfile.tree import COMMAND_LINE, KeyPath, Problem, SweepFileError, YamlList, YamlMap, short

BYTES = 2**20
NODES = 100_000  # an alias counts as all that it stands for: 300 bytes of them can stand for 10^9 values
DEPTH = 50

_CORE = "tag:yaml.org,2002:"
_FORMS = {  # of plain scalars, the first that matches; anything else is text
    "null": re.compile(r"(?:~|null|Null|NULL|)\Z"),
    "bool": re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"),
    "int": re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z"),
    "float": re.compile(
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
    ),
    "merge": re.compile(r"<<\Z"),
}


def read(path: str | FilePath) -> YamlMap:
    """The file as a tree; `-` is standard input. Raises SweepFileError with what is wrong with it as YAML."""
    if str(path) == "-":
        return parse(sys.stdin.buffer.read(BYTES + 1), "standard input")
    try:
        with open(path, "rb") as file:
            content = file.read(BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise SweepFileError([Problem(str(path), None, (), _unreadable(FilePath(path), error))]) from error
    return parse(content, str(path))


def parse(text: str | bytes, source: str) -> YamlMap:
    """The text of a sweep file as a tree; `source` names it in errors. Raises SweepFileError."""
    tree = parse_value(text, source)
    if not isinstance(tree, YamlMap):
        hint = "; write a space after the colon" if isinstance(tree, str) and ":" in tree else ""
        message = f"a sweep file is a mapping of keys to values, not {short(tree)}{hint}"
        raise SweepFileError([Problem(source, 1, (), message)])
    return tree


def parse_value(text: str | bytes, source: str, path: KeyPath = ()) -> Any:
    """Any one value, for `path`, by the same rules. Raises SweepFileError."""
    return _Grower(source, path).grow(text)


def _unreadable(path: FilePath, error: OSError | ValueError) -> str:
    if isinstance(error, FileNotFoundError):
        close = nearest(path.name, [file.name for file in path.parent.glob("*.yaml")])
        return "there is no such file" + (f"; did you mean {path.parent / close}?" if close else "")
    if isinstance(error, IsADirectoryError):
        return "that is a folder; name a sweep file in it"
    return f"cannot be read: {getattr(error, 'strerror', None) or error}"


class _Composer(yaml.SafeLoader):
    """PyYAML's parser with YAML 1.2's plain scalars and limits that hold while it reads. Its constructors never run."""

    yaml_implicit_resolvers = {None: [(_CORE + tag, form) for tag, form in _FORMS.items()]}  # noqa: RUF012
    depth = nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        self.nodes += 1
        if self.depth > DEPTH or self.nodes > NODES:
            limit = f"nested more than {DEPTH} deep" if self.depth > DEPTH else f"more than {NODES} values"
            raise yaml.composer.ComposerError(None, None, limit, parent.start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Grower:
    """Grows a tree from PyYAML's nodes, in which an alias is the node of its anchor, and collects what is wrong."""

    def __init__(self, source: str, root: KeyPath) -> None:
        self.source, self.root = source, root
        self.problems: list[Problem] = []
        self.noted: set[int] = set()  # ids of nodes: what aliases repeat is reported once
        self.open: set[int] = set()  # ids of the nodes that are being grown
        self.values = 0

    def grow(self, text: str | bytes) -> Any:
        if len(text) > BYTES:
            self.stop(None, f"larger than {BYTES} bytes")
        node = self.compose(self.decode(text) if isinstance(text, bytes) else text.removeprefix("\ufeff"))
        if node is None:
            self.stop(1, "there is nothing in it")
        tree = self.value(node, self.root)
        if self.problems:
            raise SweepFileError(self.problems)
        return tree

    def stop(self, line: int | None, message: str) -> NoReturn:
        line = None if self.source == COMMAND_LINE else line
        raise SweepFileError([*self.problems, Problem(self.source, line, self.root, message)])

    def note(self, node: yaml.Node, path: KeyPath, message: str) -> None:
        if id(node) not in self.noted:
            self.noted.add(id(node))
            self.problems.append(Problem(self.source, self.line(node), path, message))

    def line(self, node: yaml.Node) -> int | None:
        return None if self.source == COMMAND_LINE else node.start_mark.line + 1

    def decode(self, content: bytes) -> str:
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            self.stop(line, f"byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8")

    def compose(self, text: str) -> yaml.Node | None:
        try:
            return _Composer(text).get_single_node()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self.stop(mark.line + 1 if mark else None, _syntax(error))
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            self.stop(line, f"unprintable character U+{ord(text[error.position]):04X}")
        except (ValueError, OverflowError) as error:  # PyYAML's own slips, such as "\UFFFFFFFF"
            self.stop(None, f"not valid YAML: {error}")

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        self.values += 1
        if self.values > NODES or len(path) - len(self.root) > DEPTH:
            limit = f"stand for more than {NODES} values" if self.values > NODES else f"nest more than {DEPTH} deep"
            self.stop(node.start_mark.line + 1, f"aliases that {limit}")
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, path)
        kind = "map" if isinstance(node, yaml.MappingNode) else "seq"
        if node.tag != _CORE + kind:
            self.note(node, path, f"the tag {_tag(node)} is refused: a sweep file is plain YAML")
        elif id(node) in self.open:
            self.note(node, path, "an alias to what it stands in")
        else:
            self.open.add(id(node))
            grown = self.mapping(node, path) if isinstance(node, yaml.MappingNode) else self.sequence(node, path)
            self.open.remove(id(node))
            return grown
        return None

    def sequence(self, node: yaml.Node, path: KeyPath) -> YamlList:
        items = [self.value(item, (*path, i)) for i, item in enumerate(node.value)]
        return YamlList(items, [self.line(item) for item in node.value], self.line(node))

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> YamlMap:
        """Merged keys (`<<`) stand where `<<` stands, and give way to the mapping's own, before or after it."""
        grown = YamlMap(line=self.line(node))
        own: dict[str, yaml.Node] = {}
        for key_node, value_node in node.value:
            key = self.key(key_node, path)
            if key is None:
                continue
            if key in own:
                first = own[key].start_mark.line + 1
                self.note(key_node, (*path, key), f"written twice, first on line {first}; delete one of the two")
            elif key_node.tag == _CORE + "merge":
                for one in self.merged(value_node, path):
                    for name in [name for name in one if name not in grown]:  # in written order: knobs compose in it
                        grown[name], grown.lines[name] = one[name], one.lines[name]
            else:
                grown[key] = self.value(value_node, (*path, key))
                scalar = isinstance(value_node, yaml.ScalarNode)
                grown.lines[key] = self.line(value_node if scalar else key_node)
            own.setdefault(key, key_node)
        return grown

    def merged(self, node: yaml.Node, path: KeyPath) -> list[YamlMap]:
        value = self.value(node, (*path, "<<"))
        several = value if isinstance(value, YamlList) else [value]
        if not all(isinstance(one, YamlMap) for one in several):
            self.note(node, (*path, "<<"), f"<< merges a mapping or a list of mappings, not {short(value)}")
        return [one for one in several if isinstance(one, YamlMap)]

    def key(self, node: yaml.Node, path: KeyPath) -> str | None:
        key = self.scalar(node, path) if isinstance(node, yaml.ScalarNode) else node
        if isinstance(key, str) and key.isprintable() and key.strip():
            return key
        if id(node) not in self.noted:
            what = "a list or a mapping" if isinstance(key, yaml.Node) else short(key)
            self.note(node, path, f"a key must be text, not {what}")
        return None

    def scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        name, text = node.tag.removeprefix(_CORE), node.value
        if name in ("str", "merge"):
            unprintable = yaml.reader.Reader.NON_PRINTABLE.search(text)
            if not unprintable:
                return text
            self.note(node, path, f"unprintable character U+{ord(unprintable[0]):04X} in text")
        elif name not in _FORMS or not node.tag.startswith(_CORE):
            self.note(node, path, f"the tag {_tag(node)} is refused: a sweep file is plain YAML")
        elif not _FORMS[name].match(text):
            self.note(node, path, f"{short(text)} is no {_tag(node)}")
        elif name == "bool":
            return text.lower() == "true"
        elif name != "null":
            number = _number(text, int if name == "int" else float)
            if number is None:
                self.note(node, path, f"{short(text)} is beyond 64 bits")
            return number
        return None


def _number(text: str, kind: type[int] | type[float]) -> int | float | None:
    """The number that `text` writes in YAML 1.2; None for what 64 bits do not hold."""
    if len(text) > 400:  # int() refuses thousands of digits with a ValueError
        return None
    if kind is int:
        number = int(text[2:], {"0o": 8, "0x": 16}[text[:2]]) if text[:2] in ("0o", "0x") else int(text)
        return number if -(2**63) <= number < 2**63 else None
    spelled = text.lower().replace(".inf", "inf").replace(".nan", "nan")
    value = float(spelled) + 0.0  # -0.0 is 0.0: an id must not tell them apart
    return value if math.isfinite(value) or spelled[-1] in "fn" else None


def _tag(node: yaml.Node) -> str:
    return short(node.tag.replace(_CORE, "!!"))


def _syntax(error: yaml.MarkedYAMLError) -> str:
    problem = str(error.problem)
    if r"'\t'" in problem:
        return "a tab where YAML wants spaces"
    if "not allowed here" in problem:
        problem += "; a second colon in a line, or wrong indentation?"
    elif "<block end>" in problem:
        problem += "; wrong indentation?"
    context = str(error.context) if error.context else ""
    if error.context_mark and context.startswith("while"):
        context += f" that begins on line {error.context_mark.line + 1}"
    return f"not valid YAML: {problem}" + (f" ({context})" if context else "")
