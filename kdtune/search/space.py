"""Distributions of a search's space, by Tune's names and with Tune's bounds: `sigma: {loguniform: [0.01, 0.5]}`.

Their fields may be written as a list, in order. A value that is drawn is rounded, so that a person can read and type
it: it then names the same run.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, ValidationInfo, model_validator

from kdtune.kinds import Kind, refused
from kdtune.settings import Positive, Real

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

STEPS = 10_000  # a continuous range is searched in so many steps, or finer ones
SIGNIFICANT = 4  # digits, where the scale is logarithmic


class Distribution(Kind, home="kdtune.search.space"):
    """The values of one axis, and how likely they are before anything is known."""

    listed: ClassVar[bool] = True  # its fields may be written as a list
    continuous: ClassVar[bool] = False  # no two proposals share a value, but by chance

    @classmethod
    def _named(cls, value: Any, info: ValidationInfo) -> Self:
        if isinstance(value, Mapping):
            value = {name: cls._mapped(str(name), settings) for name, settings in value.items()}
        return super()._named(value, info)

    @classmethod
    def _mapped(cls, name: str, settings: Any) -> Any:
        """A list of settings as a mapping, by the fields' order."""
        if not isinstance(settings, list):
            return settings
        try:
            kind, _ = cls.find(name)
        except ValueError:
            return {}  # which is said of the name
        return kind.of_list(settings)

    @classmethod
    def of_list(cls, settings: list[Any]) -> dict[str, Any]:
        """Its fields from a list. Raises ValidationError where there are more or fewer."""
        names = [*cls.model_fields]
        if len(settings) != len(names):
            told = f"came {len(settings)} values; {cls.key}: [{', '.join(names)}] would do"
            raise refused(cls.family, [(cls.key, told, settings)])
        return dict(zip(names, settings, strict=True))

    @property
    @abstractmethod
    def ends(self) -> tuple[Any, ...]:
        """The least and the greatest value; of alternatives all."""

    @property
    @abstractmethod
    def count(self) -> int | None:
        """How many values there are; None for a continuum."""

    @abstractmethod
    def build(self) -> BaseDistribution:
        """The same for Optuna."""

    @abstractmethod
    def value(self, drawn: Any) -> Any:
        """What stands in a sweep file for what Optuna drew."""

    @abstractmethod
    def told(self, value: Any) -> Any:
        """What Optuna is told for a value of a sweep file; None for one that lies outside."""

    @abstractmethod
    def at(self, share: float) -> Any:
        """The value below which this share, in [0, 1), of what is drawn lies."""


class Range(Distribution):
    """What all ranges have: a least and a greatest value."""

    lower: Real
    upper: Real

    @property
    def ends(self) -> tuple[Any, ...]:
        return self.lower, self.upper

    @property
    def count(self) -> int | None:
        return None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.lower >= self.upper:
            raise ValueError(f"lower {self.lower:g} is not below upper {self.upper:g}")
        return self

    def told(self, value: Any) -> float | None:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return float(value) if number and self.lower <= value <= self.upper else None


class Uniform(Range):
    """`uniform: [lower, upper]`: every value in between alike."""

    continuous: ClassVar[bool] = True

    def build(self) -> BaseDistribution:
        from optuna.distributions import FloatDistribution

        return FloatDistribution(self.lower, self.upper)

    def value(self, drawn: float) -> float:
        """Rounded to a ten-thousandth of the range, or finer."""
        digits = max(0, math.ceil(-math.log10((self.upper - self.lower) / STEPS)))
        return min(max(round(drawn, digits) + 0.0, self.lower), self.upper)  # -0.0 is 0.0

    def at(self, share: float) -> float:
        return self.value(self.lower + share * (self.upper - self.lower))


class LogUniform(Range):
    """`loguniform: [lower, upper]`, both above 0: every order of magnitude alike."""

    key: ClassVar[str] = "loguniform"
    continuous: ClassVar[bool] = True

    lower: Positive
    upper: Positive

    def build(self) -> BaseDistribution:
        from optuna.distributions import FloatDistribution

        return FloatDistribution(self.lower, self.upper, log=True)

    def value(self, drawn: float) -> float:
        """Of four digits."""
        return min(max(float(f"{drawn:.{SIGNIFICANT}g}"), self.lower), self.upper)

    def at(self, share: float) -> float:
        return self.value(self.lower * (self.upper / self.lower) ** share)


class QUniform(Range):
    """`quniform: [lower, upper, q]`: the multiples of q, both ends among them."""

    key: ClassVar[str] = "quniform"

    q: Positive

    @model_validator(mode="after")
    def _of_multiples(self) -> Self:
        for name in ("lower", "upper"):
            times = getattr(self, name) / self.q
            if not math.isclose(times, round(times), rel_tol=1e-9, abs_tol=1e-9):
                raise ValueError(f"{name} {getattr(self, name):g} is no multiple of q {self.q:g}")
        return self

    @property
    def count(self) -> int:
        return round((self.upper - self.lower) / self.q) + 1

    def build(self) -> BaseDistribution:
        from optuna.distributions import FloatDistribution

        return FloatDistribution(self.lower, self._step(self.count - 1), step=self.q)

    def _step(self, number: int) -> float:
        """The value so many steps above the lower end, in decimals, as Optuna reckons: of an upper end that is none to
        the last digit, as with q = 1/3, it would leave out the last step."""
        return float(Decimal(str(self.lower)) + number * Decimal(str(self.q)))

    def value(self, drawn: float) -> float:
        for end in self.ends:
            if math.isclose(drawn, end, rel_tol=1e-8):
                return float(end)
        return float(f"{round(drawn / self.q) * self.q:.12g}")  # 0.3, not 0.30000000000000004

    def told(self, value: Any) -> float | None:
        number = super().told(value)
        if number is None or not math.isclose(self.value(number), number, abs_tol=1e-9):
            return None
        return self._step(round((number - self.lower) / self.q))

    def at(self, share: float) -> float:
        return self.value(self.lower + int(share * self.count) * self.q)


class RandInt(Distribution):
    """`randint: [lower, upper]`: the whole numbers from lower to upper - 1, as in Tune."""

    key: ClassVar[str] = "randint"

    lower: int = Field(strict=True, ge=-(2**53), le=2**53)
    upper: int = Field(strict=True, ge=-(2**53), le=2**53)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.lower >= self.upper - 1:
            told = f"lower {self.lower} and upper {self.upper}, which is not drawn itself, leave no choice"
            raise ValueError(f"{told}; [{self.lower}, {self.lower + 2}] would have two values")
        return self

    @property
    def ends(self) -> tuple[Any, ...]:
        return self.lower, self.upper - 1

    @property
    def count(self) -> int:
        return self.upper - self.lower

    def build(self) -> BaseDistribution:
        from optuna.distributions import IntDistribution

        return IntDistribution(self.lower, self.upper - 1)

    def value(self, drawn: int) -> int:
        return int(drawn)

    def told(self, value: Any) -> int | None:
        number = isinstance(value, int | float) and not isinstance(value, bool) and value == int(value)
        return int(value) if number and self.lower <= value < self.upper else None

    def at(self, share: float) -> int:
        return self.lower + int(share * self.count)


class Choice(Distribution):
    """`choice: [0.0, 0.2, 0.4]`: one of these, in no order. An alternative may be whatever a grid's may be."""

    values: tuple[Any, ...]

    @classmethod
    def of_list(cls, settings: list[Any]) -> dict[str, Any]:
        return {"values": settings}

    @model_validator(mode="after")
    def _several(self) -> Self:
        if len(self.values) < 2:
            raise ValueError("a choice has two alternatives or more; a single value is no axis")
        if twice := [one for number, one in enumerate(self.values) if _place(one, self.values) != number]:
            raise ValueError(f"{twice[0]!r} is written twice; delete one of the two")
        return self

    @property
    def ends(self) -> tuple[Any, ...]:
        return self.values

    @property
    def count(self) -> int:
        return len(self.values)

    def build(self) -> BaseDistribution:
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(range(len(self.values)))  # type: ignore[arg-type]

    def value(self, drawn: int) -> Any:
        return self.values[drawn]

    def told(self, value: Any) -> int | None:
        return _place(value, self.values)

    def at(self, share: float) -> Any:
        return self.values[int(share * self.count)]


def _place(value: Any, among: tuple[Any, ...]) -> int | None:
    """Which of these it is: 1 is 1.0, and true is neither."""
    truth = isinstance(value, bool)
    return next((place for place, one in enumerate(among) if one == value and isinstance(one, bool) is truth), None)
