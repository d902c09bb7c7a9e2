"""Which code decides numbers: a digest of modules and of all that they import of kdtune, without loading any of it.

Digested is the syntax tree without docstrings: comments, blank lines and line breaks leave no trace, anything else may
change a number. What settles which run is meant, where it is kept and what is shown of it is left out (APART): that is
the description's business, and its id's. A package that is imported itself stands for all its modules.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from kdtune.settings import Settings

PACKAGE = Path(__file__).parent
# Modules and packages that may change without a number changing: not followed, not digested.
APART = (
    *("__main__", "api", "cli", "config", "extensions", "kinds", "launch", "networks", "paths", "planning", "report"),
    *("run", "search", "settings", "sources", "store", "sweep", "sweepfile"),
    *("training.provenance", "evaluation.evaluation", "noise.noise"),
)
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
UNSEEN = ("ctx", "kind", "type_comment")  # fields of a tree that say nothing beyond its others


def of_training(run: Settings) -> str:
    """The digest of the code that trains a run (`kdtune.run`): that of its own kinds, and of none that it has not."""
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
    for name in sorted(reached(modules)):
        whole.update(f"{name} {_digest_of(name)}\n".encode())
    return whole.hexdigest()


def outside(value: Settings) -> dict[str, str]:
    """Of settings the modules that are not kdtune's, by name, each with the digest of its own code. Most have none.

    Raises ValueError for a class of which nobody has the code, such as one typed into a notebook.
    """
    return {name: _digest_of(name) for name in sorted(modules_of(value)) if _is_outside(name)}


def text_of(module: str) -> str:
    """The source of a module from outside the package, as Python has loaded it. Raises ValueError.

    Its loader is asked first: the file at its path may be another by now.
    """
    loaded = sys.modules.get(module)
    ask = getattr(getattr(loaded, "__loader__", None), "get_source", None)
    try:
        return (ask(module) if ask else None) or inspect.getsource(loaded)  # type: ignore[arg-type]
    except (ImportError, OSError, TypeError) as error:
        told = f"the classes of module {module} are in no file; put them into one, and name it by --with FILE.py"
        raise ValueError(told) from error


def digest_of_text(text: str | bytes) -> str:
    """SHA-256 of code, but for its docstrings, its comments and its line breaks. Raises SyntaxError."""
    return _spelled(_bare(text))


def reached(modules: Iterable[str]) -> set[str]:
    """The modules themselves, kinds of the user's own among them, and what of kdtune can be reached from them."""
    found: set[str] = set()
    ahead = [*modules]
    while ahead:
        name = ahead.pop()
        if name not in found and (_is_outside(name) or _file(name) is not None):
            found.add(name)
            ahead += _imports(name)
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


def _is_outside(name: str) -> bool:
    return name.partition(".")[0] != PACKAGE.name


def _file(name: str) -> Path | None:
    """The file of a module of kdtune, if it counts."""
    first, _, rest = name.partition(".")
    if first != PACKAGE.name or not rest or any(rest == apart or rest.startswith(f"{apart}.") for apart in APART):
        return None
    place = PACKAGE.joinpath(*rest.split("."))
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)


@cache
def _imports(name: str) -> tuple[str, ...]:
    """The modules of kdtune that one imports. Of a package's own names all its modules, which it may look up."""
    found: dict[str, None] = {}
    for node in _statements(_tree(name)):
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
def _digest_of(name: str) -> str:
    return _spelled(_tree(name))


def _spelled(tree: ast.Module) -> str:
    words: list[str] = []
    _spell(tree, words)
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
def _tree(name: str) -> ast.Module:
    return _bare(text_of(name) if _is_outside(name) else _file(name).read_bytes())  # type: ignore[union-attr]


def _bare(code: str | bytes) -> ast.Module:
    """Code without docstrings, and without what is there for annotations only."""
    tree = ast.parse(code)
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
