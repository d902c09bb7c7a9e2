"""The one mechanism for all that a sweep file names: knobs, models, data sets, optimizers, losses, evaluators.

A *kind* is one frozen class in one file. Its key in a sweep file is its class name in snake case, unless it states
`key`; its fields are its keys, its docstring is its documentation. A *family* is what kinds stand in for one another
in: a base class that names its `home`, the module, or the package of modules, in which its kinds are found.

    class Optimizer(Kind, home="kdtune.optimization.optimizers"): ...     the family
    class SGD(Optimizer): lr: Positive                                    a kind: {sgd: {lr: 0.1}}

A field of the family's type takes what a sweep file writes and holds the kind itself: `optimizer: Optimizer` takes
`{sgd: {lr: 0.1}}` and holds `SGD(lr=0.1)`. A bare name `digits` stands for `{digits: {}}`. Fields of the family's own
class stand beside the name: `{digits: {}, train_size: 100}`. A key may hold fields in braces: `wrn-{depth}-{width}`.
Letter case, - and _ in a name do not count. Dumped is what was stated: defaults mean "off" and leave no trace.

Kinds are looked up when something is validated, not when this is imported, and load torch only inside functions.
"""

from __future__ import annotations

import inspect
import pkgutil
import re
from abc import ABC
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any, ClassVar, Self

from pydantic import GetCoreSchemaHandler, SerializationInfo, ValidationError, ValidationInfo
from pydantic_core import CoreSchema, ErrorDetails, InitErrorDetails, PydanticCustomError, core_schema

from kdtune.settings import UNKNOWN, Settings, folded, relocated, unknown

OF_YOUR_OWN = "(One of your own: --with FILE.py)"
PLACEHOLDER = re.compile(r"\{(\w+)\}")  # in a key: the field of that name, a whole number


class Kind(Settings, ABC):
    """Base of every family. See the module."""

    key: ClassVar[str]  # in a sweep file
    familiar: ClassVar[tuple[str, ...]] = ()  # names that a misspelt one is compared with, where the key has braces
    family: ClassVar[type[Kind]]
    home: ClassVar[str]
    registered: ClassVar[dict[str, type[Kind]]]  # of a family, by key

    def __init_subclass__(cls, home: str | None = None, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        if home is not None:
            cls.family, cls.home, cls.registered = cls, home, {}
        elif "key" not in cls.__dict__:
            cls.key = snake_case(cls.__name__)

    @classmethod
    def __pydantic_init_subclass__(cls, home: str | None = None, **rest: Any) -> None:
        super().__pydantic_init_subclass__(**rest)
        if home is None and hasattr(cls, "family") and not inspect.isabstract(cls):
            register(cls)

    @classmethod
    def kinds(cls) -> dict[str, type[Self]]:
        """All kinds of the family by key, in the order of their files and of the code."""
        _load(cls.home)
        return dict(sorted(cls.registered.items(), key=lambda item: item[1].__module__))  # type: ignore[arg-type]

    @classmethod
    def find(cls, name: str) -> tuple[type[Self], dict[str, int]]:
        """The kind that a sweep file calls `name`, and the fields that the name holds.

        Raises ValueError, with the nearest name that would do, where there is none.
        """
        for kind in cls.kinds().values():
            if match := re.fullmatch(_pattern(kind.key), folded(name)):
                return kind, {field: int(number) for field, number in match.groupdict().items()}
        known = [one for kind in cls.kinds().values() for one in (kind.familiar or (kind.key,))]
        raise ValueError(f"{unknown(words(cls), name, known)} {OF_YOUR_OWN}")

    @classmethod
    def known_keys(cls) -> list[str]:
        beside = cls.family.model_fields if cls is not cls.family else {}
        fields = {name: field.alias or name for name, field in cls.model_fields.items()}
        return [written for name, written in fields.items() if name not in beside and name not in cls.in_the_key()]

    @classmethod
    def in_the_key(cls) -> list[str]:
        """The fields that the name itself holds."""
        return PLACEHOLDER.findall(cls.key) if hasattr(cls, "key") else []

    @property
    def written(self) -> str:
        """The name as a sweep file writes it: wrn-16-2."""
        return PLACEHOLDER.sub(lambda field: str(getattr(self, field[1])), self.key)

    def dumped(self, mode: str = "json") -> dict[str, Any]:
        """What a sweep file would say: the name, what is stated and not off, and what stands beside."""
        stated = self.model_dump(mode=mode, exclude_defaults=True)
        beside = {name: stated.pop(name) for name in self.family.model_fields if name in stated}
        return {self.written: {name: stated[name] for name in stated if name not in self.in_the_key()}} | beside

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if cls.__dict__.get("family") is not cls:
            return handler(source)  # a kind by itself: its fields
        written = core_schema.plain_serializer_function_ser_schema(
            lambda kind, info: kind.dumped(info.mode), info_arg=True
        )
        return core_schema.with_info_plain_validator_function(cls._named, serialization=written)

    @classmethod
    def _named(cls, value: Any, info: ValidationInfo) -> Self:
        """The kind that a value of a sweep file names. Errors lie at the place that is to blame."""
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            if not isinstance(value, str):
                raise ValueError(f"names no {words(cls)}; known here: {', '.join(cls.kinds())}")
            try:
                kind, in_key = cls.find(value)
            except ValueError as error:
                raise PydanticCustomError(UNKNOWN, "{told}", {"told": str(error)}) from None
            return cls._validated(kind, value, {}, in_key, {}, info)
        beside = {name: part for name, part in value.items() if name in cls.model_fields}
        name = cls._only([name for name in value if name not in beside], value)
        try:
            kind, in_key = cls.find(str(name))
        except ValueError as error:
            raise refused(cls, [(name, str(error), value[name])]) from None
        return cls._validated(kind, name, value[name], in_key, beside, info)

    @classmethod
    def _only(cls, names: list[Any], value: Any) -> Any:
        """The one name of a mapping. Beside one that is known, others are misspelt keys."""
        if len(names) == 1:
            return names[0]
        known = [name for name in names if _is_known(cls, name)]
        if len(known) == 1 and cls.model_fields:
            wrong = [name for name in names if name not in known]
            raise refused(cls, [(name, unknown("key", str(name), cls.model_fields), value[name]) for name in wrong])
        named = " and ".join(map(str, names)) or f"no {words(cls)}"
        raise ValueError(f"names {named}; exactly one of {', '.join(cls.kinds())}")

    @classmethod
    def _validated(
        cls, kind: type[Self], name: str, options: Any, in_key: dict[str, int], beside: dict[str, Any], info: Any
    ) -> Self:
        if isinstance(options, kind):
            return options
        if not isinstance(options, Mapping):
            raise refused(cls, [(name, f"came {options!r}; its settings are a mapping, such as {{}}", options)])
        wrong = [_told((name, part), cls._misplaced(kind, name, part), options[part])
                 for part in options if part in in_key or part in cls.model_fields]  # fmt: skip
        rest = {part: value for part, value in options.items() if part not in in_key and part not in cls.model_fields}
        try:
            made = kind.model_validate({**rest, **in_key, **beside}, context=info.context)
        except ValidationError as failure:
            wrong += [_moved(error, name, in_key, beside) for error in failure.errors()]
        if wrong:
            raise ValidationError.from_exception_data(kind.__name__, wrong)
        return made

    @classmethod
    def _misplaced(cls, kind: type[Kind], name: str, part: Any) -> str:
        """What is wrong with a key below the name that belongs into it or beside it."""
        if part in cls.model_fields:
            return f"{part} stands beside {name}, not below it"
        return unknown("key", str(part), kind.known_keys())


class Several:
    """Annotation of a tuple of kinds that a sweep file writes as one mapping; they stand in written order.

    A kind that is `off` leaves no trace when it is dumped.
    """

    def __init__(self, family: type[Kind]) -> None:
        self.family = family

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        written = core_schema.plain_serializer_function_ser_schema(_joined, info_arg=True)
        return core_schema.with_info_plain_validator_function(self._named, serialization=written)

    def _named(self, value: Any, info: ValidationInfo) -> tuple[Kind, ...]:
        if isinstance(value, tuple) and all(isinstance(one, self.family) for one in value):
            return value
        if value is None:  # an axis may be null: `labels: $labels`
            return ()
        if not isinstance(value, Mapping):
            raise ValueError(f"takes a mapping from names to settings; known here: {', '.join(self.family.kinds())}")
        found: list[Kind] = []
        problems: list[InitErrorDetails] = []
        for name, options in value.items():
            try:
                if options is None and self.family.find(str(name)):
                    continue  # an axis may take away what stands here: `swap: $swap` where $swap is null
                kind = self.family._named({name: options}, info)
            except ValidationError as failure:
                problems += [relocated(error, error["loc"]) for error in failure.errors()]
                continue
            except ValueError as error:
                problems.append(_told((name,), str(error), options))
                continue
            if kind.key in [one.key for one in found]:
                problems.append(_told((name,), f"{kind.key} is written twice; delete one of the two", options))
            found.append(kind)
        if problems:
            raise ValidationError.from_exception_data(self.family.__name__, problems)
        return tuple(found)


def _joined(kinds: tuple[Kind, ...], info: SerializationInfo) -> dict[str, Any]:
    return {name: stated for kind in kinds if not getattr(kind, "off", False)
            for name, stated in kind.dumped(info.mode).items()}  # fmt: skip


class KeyTaken(TypeError):
    """Two kinds of a family have one key."""


outside: set[str] = set()  # modules that are not kdtune's and have defined kinds in this process


def register(kind: type[Kind]) -> None:
    """Known from now on in its family. A class of the same module and name takes its place; raises KeyTaken."""
    if outsider := not kind.__module__.startswith("kdtune."):
        _load(kind.home)  # kdtune's own come first: where a key is taken, the other is to blame
    there = kind.registered.setdefault(kind.key, kind)
    if (there.__module__, there.__qualname__) != (kind.__module__, kind.__qualname__):
        mine, theirs = (f"{one.__module__}.{one.__qualname__}" for one in (kind, there))
        raise KeyTaken(f"{mine}: the key {kind.key!r} is {theirs}'s; state another as `key`")
    kind.registered[kind.key] = kind
    if outsider:
        outside.add(kind.__module__)


@cache
def _pattern(key: str) -> str:
    """What a folded name must match. Nine digits at most: int() answers thousands of them with a ValueError."""
    literals, fields = PLACEHOLDER.split(key)[::2], PLACEHOLDER.findall(key)
    holes = [f"(?P<{field}>[0-9]{{1,9}})" for field in fields]
    return "".join(re.escape(folded(part)) + hole for part, hole in zip(literals, [*holes, ""], strict=True))


@cache
def _load(home: str) -> None:
    """Import the module, and the modules of a package. Once: a plan of a thousand runs looks up ten thousand kinds."""
    package = import_module(home)
    for module in pkgutil.iter_modules(getattr(package, "__path__", ()), f"{home}."):
        if not module.ispkg:
            import_module(module.name)


def snake_case(name: str) -> str:
    """SignalNoise is signal_noise, FashionMNIST fashion_mnist, PGD pgd."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def words(family: type[Kind]) -> str:
    """What messages call one of a family: `input knob`."""
    return snake_case(family.__name__).replace("_", " ")


def refused(family: type[Kind], told: list[tuple[str, str, Any]]) -> ValidationError:
    """An error at each of these names: (name, message, what came)."""
    errors = [_told((name,), message, came) for name, message, came in told]
    return ValidationError.from_exception_data(family.__name__, errors)


def _told(loc: tuple[Any, ...], message: str, came: Any) -> InitErrorDetails:
    return {"type": PydanticCustomError(UNKNOWN, "{told}", {"told": message}), "loc": loc, "input": came}


def _is_known(family: type[Kind], name: Any) -> bool:
    try:
        family.find(str(name))
    except ValueError:
        return False
    return True


def _moved(error: ErrorDetails, name: str, in_key: Mapping[str, Any], beside: Mapping[str, Any]) -> InitErrorDetails:
    """An error of a kind's field, where a sweep file writes what it is about."""
    loc = error["loc"]
    if loc and loc[0] in beside:
        return relocated(error, loc)
    if loc and loc[0] in in_key:
        told = error["msg"].removeprefix("Value error, ")
        return relocated(error, (name,), f"{loc[0]} {error['input']}: {told[:1].lower()}{told[1:]}")
    return relocated(error, (name, *loc))
