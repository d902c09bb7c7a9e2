"""What an evaluator is given: a network, and where to look for what it is measured on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from torch import nn

    from kdtune.data.loading import Data, Split
    from kdtune.store.store import Store


@dataclass(frozen=True)
class Context:
    """Where a measurement happens. Nothing here may change a number."""

    data_dir: Path  # the machine's data folder: what is decoded is kept there
    device: str = "cpu"  # where the network and the images lie
    store: Store | None = None  # the other runs; None where there are none to look at


def _one_set(which: str) -> nn.Module:
    raise ValueError(f"of this network one set of weights is here, not the {which}")


@dataclass(frozen=True)
class Subject:
    """What is measured. `seed` is the evaluation's own and never the run's. `ask_teacher` is called by `teacher`: who
    does not look at the teacher does not need its weights."""

    network: nn.Module
    data: Data
    context: Context
    ask_teacher: Callable[[], nn.Module | None] = lambda: None
    seed: int = 0
    part: str = "test"  # "val": the images held out
    # Other weights of the same run: "last", "average", or "initial", as its seed initialised it.
    ask_weights: Callable[[str], nn.Module] = _one_set

    def on(self, part: str | None) -> Self:
        """The same network on other images; None: as it is."""
        return replace(self, part=part) if part else self

    def of(self, which: str | None) -> Self:
        """Other weights of the same run, "last", "average" or "initial", on the same images; None: as it is. ValueError
        where it has none such."""
        return replace(self, network=self.ask_weights(which)) if which else self

    @property
    def teacher(self) -> nn.Module | None:
        """The network that this one learned from, on the same device; None where it learned alone."""
        return self.ask_teacher()

    @property
    def split(self) -> Split:
        """The images that it is measured on. ValueError where none are held out and those are asked for."""
        if self.part == "test":
            return self.data.test
        if self.data.validation is None:
            raise ValueError("nothing is held out to measure on; set dataset.validation")
        return self.data.validation
