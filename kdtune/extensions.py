"""Kinds from outside the package: knobs, losses, models, evaluators, data sets in a file of the user's own.

    python -m kdtune.sweep sweeps/mine.yaml --with brightness.py

No YAML file can name code: what is run is what the command names. The text of the file travels with the sweep, so that
other machines need not have it, and is imported there under a name that its content has (`kdtune_with_<12 hex>`). Its
digest is part of every run that uses a class of it (`kdtune.sources`), so it must be whole: a file that imports others
that lie beside it, or where the command is given, is refused.
"""

from __future__ import annotations

import ast
import inspect
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.abc import ExecutionLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

from kdtune import kinds, sources
from kdtune.kinds import Kind
from kdtune.settings import Settings

PREFIX = "kdtune_with_"


class ExtensionError(Exception):
    """A file of the user's own that cannot be used; the message names it and says why."""


@dataclass(frozen=True)
class Extension:
    """One file, as it was read. `path` is what errors and tracebacks call it."""

    path: str
    text: str

    @property
    def module(self) -> str:
        """The name of its module: the same wherever code is the same, whatever its comments say."""
        return f"{PREFIX}{sources.digest_of_text(self.text)[:12]}"


class _Loader(ExecutionLoader):
    """Runs the text that it has; where its file is not there, Python asks here for the lines of a traceback."""

    def __init__(self, extension: Extension) -> None:
        self.extension = extension

    def get_source(self, fullname: str) -> str:
        return self.extension.text

    def get_filename(self, fullname: str) -> str:
        return self.extension.path


def read(paths: Iterable[str | os.PathLike[str]]) -> tuple[Extension, ...]:
    """Raises ExtensionError for a file that cannot be read, is no Python, or imports what lies beside it."""
    found = []
    for path in map(Path, paths):
        try:
            extension = Extension(str(path.absolute()), path.read_text(encoding="utf-8"))
            tree = ast.parse(extension.text)
        except (OSError, ValueError) as error:
            raise ExtensionError(f"--with {path}: {getattr(error, 'strerror', None) or error}") from error
        except SyntaxError as error:
            raise ExtensionError(f"--with {path}: line {error.lineno}: {error.msg}") from error
        if beside := [name for name in _imported(tree) if _lies_beside(path, name)]:
            raise ExtensionError(
                f"--with {path}: it imports {beside[0]}, which lies beside it or where the command was given: a run's "
                "id knows this file alone. Put both into one file, or install the other as a package"
            )
        found.append(extension)
    return tuple(dict.fromkeys(found))


_used: list[Extension] = []


def in_use() -> tuple[Extension, ...]:
    """Those that this process uses."""
    return tuple(_used)


def use(extensions: Sequence[Extension]) -> None:
    """From now on this process knows the kinds of these files beside kdtune's own, and of no other such file.

    Raises ExtensionError for one that fails, defines no kind, or takes the key of another.
    """
    _withdraw()
    _used.clear()
    for extension in extensions:
        try:
            defined = _kinds_of(_load(extension))
            for kind in defined:
                if lacking := ", ".join(sorted(kind.__abstractmethods__)):
                    raise TypeError(f"{kind.__name__} lacks {lacking}")
                _refuse_other_parameters(kind)
                kinds.register(kind)
        except Exception as error:  # whatever code of the user's raises
            _withdraw()
            told = f"{_where(error, extension)}{_in_words(error, extensions)}"
            raise ExtensionError(f"--with {extension.path}: {told}") from error
        if not defined:
            raise ExtensionError(
                f"--with {extension.path}: it defines no knob, loss, model, data set, optimizer, schedule or evaluator"
            )
    _used.extend(extensions)


def codes_of(settings: Settings) -> list[str]:
    """What stands in an id, or an evaluator's hash, for the code of kinds from outside: 12 hex digits a file."""
    return sorted({digest[:12] for digest in sources.outside(settings).values()}) if kinds.outside else []


def texts_of(settings: Settings) -> dict[str, str]:
    """The code of kinds from outside that these settings are made of, by its 12 hex digits."""
    found = sources.outside(settings) if kinds.outside else {}
    return {digest[:12]: sources.text_of(module) for module, digest in found.items()}


def _kinds_of(module: str) -> list[type[Kind]]:
    """Those that it defines. What it has imported, and what other classes are to be made of, is not meant."""
    return [
        value
        for value in vars(sys.modules[module]).values()
        if isinstance(value, type) and issubclass(value, Kind) and value.__module__ == module
        if hasattr(value, "key") and hasattr(value, "family")
        if not (inspect.isabstract(value) and value.__subclasses__())
    ]


class Uncallable(TypeError):
    """A method of the user's own that cannot be called as its family calls it."""


def _refuse_other_parameters(kind: type[Kind]) -> None:
    """Raises Uncallable for a method that takes other arguments than the abstract one in whose place it stands: it
    would fail in every run, hours later perhaps."""
    for family in kind.__mro__:
        for name in sorted(getattr(family, "__abstractmethods__", ())):
            wanted, mine = vars(family).get(name), inspect.getattr_static(kind, name)
            if not (inspect.isfunction(wanted) and inspect.isfunction(mine)):
                continue
            called = [*inspect.signature(wanted).parameters]
            try:
                inspect.signature(mine).bind(*called)
            except TypeError:
                came, do = (", ".join(list(each)[1:]) for each in (inspect.signature(mine).parameters, called))
                line = f"line {mine.__code__.co_firstlineno}: "
                told = f"{line}{kind.__name__}.{name} takes ({came}), and it is called with ({do}): write these"
                raise Uncallable(told) from None


def _withdraw() -> None:
    """No kind of such a file is known any more. What was made of one stays as it is."""
    ahead: list[type[Kind]] = [Kind]
    while ahead:
        family = ahead.pop()
        ahead += family.__subclasses__()
        if family.__dict__.get("family") is family:
            for key in [key for key, kind in family.registered.items() if kind.__module__.startswith(PREFIX)]:
                del family.registered[key]


def _load(extension: Extension) -> str:
    """The name of its module, which is executed once in a process."""
    name = extension.module
    if name not in sys.modules:
        spec = spec_from_loader(name, loader := _Loader(extension))
        assert spec is not None
        sys.modules[name] = module = module_from_spec(spec)
        try:
            loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return name


def _imported(tree: ast.Module) -> Iterator[str]:
    """The first parts of all names that are imported; a relative import is one of what lies beside."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." if node.level else str(node.module).partition(".")[0]


def _lies_beside(path: Path, name: str) -> bool:
    """Whether Python may take `name` from the folder of `path`, or from the one that a command is given in, which
    `python -m` searches first. kdtune itself is no neighbour, in its own checkout."""
    if name in (".", "kdtune"):
        return name == "."
    searched = [Path.cwd()] if {"", os.getcwd()} & {*sys.path} else []
    folders = (path.absolute().parent, *searched)
    return any((folder / f"{name}.py").is_file() or any((folder / name).glob("*.py")) for folder in folders)


def place_of(error: Exception) -> str:
    """Where in a file of the user's own it was raised last: `brightness.py, line 20: `; empty where in none."""
    return next((f"{Path(each.path).name}, {told}" for each in _used if (told := _where(error, each))), "")


def _where(error: Exception, extension: Extension) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == extension.path]
    return f"line {lines[-1]}: " if lines else ""


def _in_words(error: Exception, extensions: Sequence[Extension]) -> str:
    """A key that is taken is told by files; the names of their modules mean nothing to anybody."""
    told = str(error) if isinstance(error, (kinds.KeyTaken, Uncallable)) else f"{type(error).__name__}: {error}"
    for each in extensions:
        told = told.replace(f"{each.module}.", f"{Path(each.path).name}:")
    return told
