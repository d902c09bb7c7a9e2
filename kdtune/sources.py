"""Which code decides numbers: a digest of modules and of all that they import of kdtune, without loading any of it.

Digested is the syntax tree without docstrings: comments, blank lines and line breaks leave no trace, anything else may
change a number. What settles which run is meant, where it is kept and what is shown of it is left out (APART): that is
the description's business, and its id's. A package that is imported itself stands for all its modules.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from kdtune.settings import Settings

PACKAGE = Path(__file__).parent
# Modules and packages that may change without a number changing: not followed, not digested.
APART = (
    *("__main__", "api", "cli", "config", "kinds", "launch", "paths", "planning", "report", "settings", "sources"),
    *("store", "sweep", "sweepfile", "training.provenance", "evaluation.evaluation", "noise.noise"),
)
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
UNSEEN = ("ctx", "kind", "type_comment")  # fields of a tree that say nothing beyond its others


def of_training(run: Settings) -> str:
    """The digest of the code that trains a run (`config.Run`): that of its own kinds, and of none that it has not."""
    return digest(tuple(sorted({"kdtune.training.run", *modules_of(run)})))


def of_evaluator(evaluator: Settings) -> str:
    """The digest of the code of one evaluator."""
    return digest(tuple(sorted(modules_of(evaluator))))


@cache
def of_package() -> str:
    """The digest of all of kdtune's files, byte by byte: whether two machines run the same code."""
    whole = hashlib.sha256()
    for file in sorted(PACKAGE.rglob("*.py")):
        whole.update(f"{file.relative_to(PACKAGE)} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()


@cache
def digest(modules: tuple[str, ...]) -> str:
    """SHA-256 of these modules and of what they import, in functions too, but for annotations alone."""
    whole = hashlib.sha256()
    for name, file in sorted(reached(modules).items()):
        whole.update(f"{name} {_digest_of(file)}\n".encode())
    return whole.hexdigest()


def reached(modules: Iterable[str]) -> dict[str, Path]:
    """The modules themselves and what of kdtune can be reached from them, by name."""
    found: dict[str, Path] = {}
    ahead = [*modules]
    while ahead:
        name = ahead.pop()
        if name not in found and (file := _file(name)) is not None:
            found[name] = file
            ahead += _imports(file)
    return found


def modules_of(value: Any) -> set[str]:
    """The modules of all that settings are made of: of a run its model, its data set, its knobs that are on.

    What is off does not travel to the process that trains, and decides nothing there.
    """
    if isinstance(value, list | tuple):
        return set().union(*(modules_of(each) for each in value))
    if not isinstance(value, Settings) or getattr(value, "off", False):
        return set()
    return {type(value).__module__}.union(*(modules_of(getattr(value, name)) for name in type(value).model_fields))


def _file(name: str) -> Path | None:
    """A module's file, if it counts; of one from elsewhere (a kind of the user's own) as Python has loaded it."""
    first, _, rest = name.partition(".")
    if first != PACKAGE.name:
        origin = getattr(sys.modules.get(name), "__file__", None)
        return Path(origin) if origin else None
    if not rest or any(rest == apart or rest.startswith(f"{apart}.") for apart in APART):
        return None
    place = PACKAGE.joinpath(*rest.split("."))
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)


@cache
def _imports(file: Path) -> tuple[str, ...]:
    """The modules of kdtune that a file imports. Of a package's own names all its modules, which it may look up."""
    found: dict[str, None] = {}
    for node in _statements(_tree(file)):
        if isinstance(node, ast.Import):
            found.update(dict.fromkeys(alias.name for alias in node.names))
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            for inner in (f"{module}.{alias.name}" for alias in node.names):
                found.update(dict.fromkeys([inner] if _file(inner) else [module, *_inside(module)]))
    return tuple(name for name in found if name.startswith(f"{PACKAGE.name}."))


def _inside(package: str) -> list[str]:
    file = _file(package) if package.startswith(PACKAGE.name) else None
    if file is None or file.stem != "__init__":
        return []
    return [f"{package}.{each.stem}" for each in file.parent.glob("*.py") if each != file]


@cache
def _digest_of(file: Path) -> str:
    words: list[str] = []
    _spell(_tree(file), words)
    return hashlib.sha256("\n".join(words).encode()).hexdigest()


def _spell(part: Any, words: list[str]) -> None:
    """A tree in words, the same for every Python that reads the file: not `ast.dump`, which changed with versions."""
    if isinstance(part, ast.AST):
        words.append(type(part).__name__)
        for field in part._fields:
            value = getattr(part, field, None)
            if value is not None and value != [] and field not in UNSEEN:
                words.append(field)
                _spell(value, words)
        words.append(")")
    elif isinstance(part, list):
        for each in part:
            _spell(each, words)
        words.append("]")
    else:
        words.append(repr(part))


@cache
def _tree(file: Path) -> ast.Module:
    """The file without docstrings, and without what is there for annotations only."""
    tree = ast.parse(file.read_bytes())
    for node in _statements(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    return tree


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """A tree's statements and what they stand in, from outside in. Expressions, nine nodes of ten, hold none."""
    yield node
    for part in ("body", "handlers", "cases", "orelse", "finalbody"):
        for inner in getattr(node, part, ()):
            yield from _statements(inner)
