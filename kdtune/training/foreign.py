"""Tensors of somebody else's network laid on one of ours: which name is which, and what does not fit.

A file's names are tried as they are and without what wrappers put before all of them; after the user's renaming, if
there is one; as kdtune's own and by every table of `models.naming`. Names decide and shapes must agree: order alone
would pass for a fit where two convolutions of one shape stand in another order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kdtune.models.naming import TABLES, Entries, NameTable, idle, renamed
from kdtune.training.weightfile import shown

# Put before every name by DataParallel, torch.compile, Lightning and classes around a network; kdtune's is `network.`.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.", "network.")
BESIDE = "n_averaged"  # how many networks torch's AveragedModel is the mean of, beside `module.*`
COUNTER = ".num_batches_tracked"  # of BatchNorm; torch before 0.4.1 wrote none, and no number here depends on it
READ = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
OWN = NameTable("kdtune's own names", ())
PROBLEMS, LINES = 8, 12  # shown of a file that does not fit
STANDARDISING = ("mean", "std", "mu", "sigma")


@dataclass(frozen=True)
class Reading:
    """One way to understand a file: its tensors under our names, and what each is called in the file."""

    naming: NameTable
    tensors: dict[str, Tensor]
    names: dict[str, str]
    clashes: tuple[str, ...]

    def problems(self, expected: dict[str, Tensor]) -> list[str]:
        return [
            *(f"missing: {name}" for name in self.missing(expected)),
            *(f"unknown: {self.names[name]}" for name in self.tensors if name not in expected),
            *self.clashes,
            *(told for name, mine in expected.items() if name in self.tensors
              if (told := _unfit(self.names[name], self.tensors[name], mine))),
        ]  # fmt: skip

    def missing(self, expected: dict[str, Tensor]) -> list[str]:
        return [name for name in expected if name not in self.tensors and not self._counted(name)]

    def _counted(self, name: str) -> bool:
        return name.endswith(COUNTER) and name.removesuffix(COUNTER) + ".running_mean" in self.tensors

    def fitting(self, expected: dict[str, Tensor]) -> int:
        """How many tensors are where one of that shape is expected."""
        return sum(name in expected and tensor.shape == expected[name].shape for name, tensor in self.tensors.items())

    def nearness(self, expected: dict[str, Tensor]) -> tuple[int, int]:
        return self.fitting(expected), len(self.tensors)

    def weights(self, expected: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: self.tensors.get(name, mine).to(mine.dtype) for name, mine in expected.items()}


def _unfit(name: str, theirs: Tensor, mine: Tensor) -> str | None:
    if theirs.shape != mine.shape:
        return f"{name}: {tuple(theirs.shape)} in the file, {tuple(mine.shape)} in the network"
    if not mine.is_floating_point():
        return None
    if theirs.dtype not in READ or theirs.layout != torch.strided or theirs.is_meta:
        read = ", ".join(str(dtype).removeprefix("torch.") for dtype in READ)
        return f"{name}: {str(theirs.dtype).removeprefix('torch.')} in the file; what is read is dense {read}"
    broken = int((~theirs.to(mine.dtype).isfinite()).sum())
    return f"{name}: {broken} of {theirs.numel()} values are no finite float32" if broken else None


def fit(
    expected: dict[str, Tensor], found: dict[str, dict[str, Tensor]], rename: Entries, network: str
) -> dict[str, Tensor]:
    """The weights for a network with the state_dict `expected`, out of one of the state_dicts `found`.

    Raises ValueError, without the file's name, where none fits or several do; `network` is what the message calls it.
    """
    fits: dict[str, dict[str, Tensor]] = {}
    nearest: Reading | None = None
    for place, tensors in found.items():
        for reading in readings(tensors, rename):
            if not reading.problems(expected):
                fits[place] = reading.weights(expected)
                break
            if nearest is None or reading.nearness(expected) > nearest.nearness(expected):
                nearest = reading
    if not fits and nearest is None:
        raise ValueError(_idle(found, rename))
    if not fits and nearest is not None:
        raise ValueError(_refusal(nearest, expected, network))
    first, *others = fits.values()
    if any(not torch.equal(first[name], other[name]) for other in others for name in first):
        places = " and ".join(repr(place) for place in fits)
        one = next(reversed(fits))
        raise ValueError(
            f"holds several networks that fit, under {places}, which differ; save the one you mean alone: "
            f"torch.save(checkpoint[{one!r}], 'clean.pt')"
        )
    return first


def readings(tensors: dict[str, Tensor], rename: Entries) -> Iterator[Reading]:
    """Every way to understand one state_dict. None where an entry of `rename` is about nothing in it."""
    for bare in unwrapped(tensors):
        if idle(list(bare), rename):
            continue
        for naming in (OWN, *TABLES):
            yield _read(bare, rename, naming)


def unwrapped(tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """The tensors under their names without what stands before all of them: all of it, less and less, none of it."""
    levels = [tensors]
    while True:
        rest = {name: tensor for name, tensor in levels[-1].items() if name != BESIDE}
        prefix = next((one for one in PREFIXES if rest and all(name.startswith(one) for name in rest)), None)
        if prefix is None:
            return levels[::-1]
        levels.append({name.removeprefix(prefix): tensor for name, tensor in rest.items()})


def _read(bare: dict[str, Tensor], rename: Entries, naming: NameTable) -> Reading:
    tensors: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    clashes = []
    for name, tensor in bare.items():
        ours = renamed(name, rename + naming.entries)
        if ours is None:
            continue
        if ours in tensors:
            clashes.append(f"{names[ours]} and {shown(name)} both become {shown(ours)}")
        tensors[ours], names[ours] = tensor, shown(name)
    return Reading(naming, tensors, names, tuple(clashes))


def _idle(found: dict[str, dict[str, Tensor]], rename: Entries) -> str:
    largest = unwrapped(max(found.values(), key=len))[0]
    left = ", ".join(map(repr, idle(list(largest), rename)))
    some = ", ".join([*map(shown, list(largest)[:LINES]), *["..."] * (len(largest) > LINES)])
    return f"teacher.rename: no name in the file is {left} or goes on after it with a dot; its names are {some}"


def _refusal(reading: Reading, expected: dict[str, Tensor], network: str) -> str:
    problems = reading.problems(expected)
    more = f"; and {len(problems) - PROBLEMS} more" if len(problems) > PROBLEMS else ""
    naming = reading.naming
    unfit = [problem.removeprefix("missing: ").removeprefix("unknown: ") for problem in problems]
    notes = [told for begun, told in naming.notes if any(one.startswith(f"{begun}.") for one in unfit)]
    near = f"nearest: {naming.title}, by which {reading.fitting(expected)} of {len(reading.tensors)} tensors fit"
    lines = [
        f"these weights do not fit {network}: {'; '.join(problems[:PROBLEMS])}{more}",
        *notes,
        near,
        *side_by_side(reading, expected),
    ]
    standardising = [name for ours, name in reading.names.items()
                     if ours not in expected and name.rpartition(".")[2] in STANDARDISING]  # fmt: skip
    if standardising:
        lines.append(
            f"{standardising[0]} looks like what images are standardised with: state it as teacher.normalization "
            f'and leave it out: rename: {{{standardising[0]}: ""}}'
        )
    elif reading.missing(expected) and any(name not in expected for name in reading.tensors):
        if any(line.startswith("  - ") or line.endswith(" -") for line in lines):
            lines.append("where layers differ: a model of your own, --with FILE.py (docs/own.md: A model)")
        lines.append(
            "where only names differ: teacher: {rename: {theirs: ours}}; a name, or its beginning up to a dot, * in it"
        )
    return "\n".join(lines)


def side_by_side(reading: Reading, expected: dict[str, Tensor]) -> list[str]:
    """What is left over in the file beside what is left over here, paired by shape in order: a table of few lines."""
    theirs = {reading.names[name]: tensor for name, tensor in reading.tensors.items()
              if name not in expected and not name.endswith(COUNTER)}  # fmt: skip
    ours = {name: expected[name] for name in reading.missing(expected) if not name.endswith(COUNTER)}
    pairs: list[tuple[str, str]] = []
    for name, tensor in ours.items():
        twin = next((other for other, candidate in theirs.items() if candidate.shape == tensor.shape), None)
        pairs.append((_told(twin, theirs.pop(twin)) if twin else "-", _told(name, tensor)))
    pairs += [(_told(name, tensor), "-") for name, tensor in theirs.items()]
    if not pairs:
        return []
    shown = [("in the file", "here"), *pairs[:LINES]]
    width = max(len(left) for left, _ in shown)
    rest = [f"  and {len(pairs) - LINES} more"] if len(pairs) > LINES else []
    return [*(f"  {left:<{width}}   {right}" for left, right in shown), *rest]


def _told(name: str, tensor: Tensor) -> str:
    return f"{name} {tuple(tensor.shape)}"
