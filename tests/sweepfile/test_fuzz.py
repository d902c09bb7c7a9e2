"""Sweep files as nobody would write them: thousands made of the real ones by small accidents, several at a time.

Each is either planned, estimated and described, or refused in words; and soon. What this found
stands, made small, in test_refused.py. `make soak` runs it whole; `make test` a fiftieth.
"""

from __future__ import annotations

import copy
import itertools
import math
import signal
import time
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from kdtune.cli.sweep import Options, Refused, read
from kdtune.config import Sweep
from kdtune.data.error import DataError
from kdtune.kinds import Kind
from kdtune.networks import Teacher
from kdtune.planning import cost
from kdtune.planning.plan import build_plan
from kdtune.recipe import Recipe
from kdtune.store.standing import Standing
from kdtune.store.store import Store
from kdtune.sweepfile import reader
from kdtune.sweepfile.tree import SweepFileError, YamlMap, merge

ROOT = Path(__file__).parents[2]
SOURCES = {path.stem: path.read_text() for path in sorted((ROOT / "sweeps").glob("*.yaml"))}
SECONDS = 2.0  # of this process: what any file may take at most
RUNS = 2000  # at most; each that is laid out takes a fifth of a millisecond

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 10, 0.5, -0.5, 1.5, 1e-300, 1e300, -1e300, math.inf, -math.inf, math.nan,
    2**31, 10**12, 2**53, 2**63 - 1, -(2**63), [10**12], {"x": 10**12}, "9" * 400, "wrn-100000-1", "wrn-999999994-1",
    "", " ", "x", "no", "null", "0.5", "1e5", "0x10", "12:30", "$", "$x", "$dropout", "$$", "../x", "é", "a" * 300,
    "val/acc", "test/accuracy", "val/accuracy", "digits", "cifar10", "wrn-16-2", "wrn-16-0", "wrn-17-2", "resnet-18",
    "cosine", "accuracy", "own.pt", [], {}, [[]], [{}], [None], [1, 2], ["x"], [0.1, "x", None], list(range(30)),
    ["$x", "$dropout"], [{"x": 1}, {"y": 2}], {"x": 1}, {"x": None}, {"a*": "*"}, {"<<": 1}, {"grid_search": [1, 2]},
    {"grid_search": 3}, {"x": {"grid_search": [1]}}, {"values": [1]}, {"digits": {}}, {"cnn": {"width": 4}},
    {"mlp": {"hidden": []}}, {"sgd": {}}, {"rule": "paired"}, {"folder": {"path": ".", "name": "x"}},
    {"cifar10": {}, "train_size": 10, "validation": 0.5}, {"labels": {"corruption": {"rate": 1}}},
    [{"pgd": {"eps": [], "step": [], "steps": [], "restarts": 1}}],
]  # fmt: skip
CHARACTERS = ":-{}[],#&*!|>'\"%@`?=<~$ \t\\0.\x00\x7f\x85\ufeff\u2028é9"


def plain(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: plain(value) for key, value in tree.items()}
    return [plain(value) for value in tree] if isinstance(tree, list) else tree


def families(of: type[Kind] = Kind) -> Iterator[type[Kind]]:
    for one in of.__subclasses__():
        if one.__dict__.get("family") is one:
            yield one
        yield from families(one)


KINDS = sorted({(key, tuple(kind.model_fields)) for family in families() for key, kind in family.kinds().items()})
FIELDS = (field for _, fields in KINDS for field in fields)
WORDS = sorted({*Sweep.known_keys(), *Teacher.model_fields, *Recipe.model_fields, *(key for key, _ in KINDS), *FIELDS})
WORDS += ["interval", "teachers", "search", "id", "role", "$x", "<<"]
PROFILES = ("paper", "quick", "laptop")
TREES = {name: plain(reader.parse(text, name)) for name, text in SOURCES.items()}


@cache
def flat(name: str, profile: str) -> Any:
    """A file as it is under a profile, without profiles: here every accident counts."""
    tree = reader.parse(SOURCES[name], name)
    overlays = tree.pop("profiles")
    return plain(merge(tree, overlays.get(profile, YamlMap())))


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place below the root."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield (*path, key)
        yield from places(value, (*path, key))


def at(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def put(tree: Any, path: tuple[Any, ...], value: Any) -> None:
    at(tree, path[:-1])[path[-1]] = value


def deepened(value: Any, times: int) -> Any:
    for number in range(times):
        value = [value] if number % 2 else {"x": value}
    return value


EVERYTHING = plain(reader.parse("""
name: everything
dataset: {digits: {}, train_size: 40, validation: 0.2, seed: 1, labels: {corruption: {rate: $r}}}
seeds: 2
grid: [{r: [0.1, 0.2], m: {cnn: {width: 4}}}, {r: 0, m: {wrn-10-1: {dropout: $r}}}]
recipe:
  optimizer: {sgd: {lr: 0.05, momentum: 0.9, weight_decay: 5e-4}}
  schedule: {step: {milestones: [0.5], factor: 0.2}}
  augmentation: {crop: {padding: 1, mode: zero}, flip: {}}
  precision: float32
  batch_size: 16
  epochs: 2
  keep: {best: val/accuracy}
teacher:
  model: $m
  normalization: {mean: [0.5], std: [0.5]}
  seeds: [0, 1]
  select: {rule: best, metric: val/accuracy}
student:
  model: {mlp: {hidden: [4, 4], dropout: 0.1}}
  distillation: {alpha: 0.9, temperature: 4}
  recipe: {epochs: 3, schedule: cosine}
  noise:
    teacher: {dropout: {rate: 0.1}, signal_noise: {sigma: 0.1}}
    input: {gaussian: {sigma: 0.1}}
    target: {variability: {rate: 0.1}}
evaluation:
  - accuracy
  - pgd: {eps: [0.1], step: [0.01], steps: [2, 3], restarts: 1, images: 20}
  - corruptions: {images: 20}
  - masking: {eps: 0.1, step: 0.01, images: 10, queries: 10}
""", "everything"))  # fmt: skip


# Accidents of a tree: (tree, the place, another place, a number)


def delete(tree: Any, path: tuple[Any, ...], other: tuple[Any, ...], number: int) -> None:
    del at(tree, path[:-1])[path[-1]]


def replace(tree: Any, path: tuple[Any, ...], other: tuple[Any, ...], number: int) -> None:
    put(tree, path, copy.deepcopy(VALUES[number % len(VALUES)]))


def retype(tree: Any, path: tuple[Any, ...], other: tuple[Any, ...], number: int) -> None:
    match number % 8, at(tree, path):
        case 0, value:
            new: Any = str(value)
        case 1, value:
            new = [value]
        case 2, value:
            new = {"x": value}
        case 3, list(value):
            new = dict.fromkeys(map(str, value), 1)
        case 3, dict(value):
            new = list(value)
        case 4, int(value) | float(value):
            new = -value
        case 5, float(value):
            new = value * 1e9
        case 6, list(value) if value:
            new = value[0]
        case 7, value:
            new = {str(value)[:50]: {}}
        case _, value:
            new = deepened(value, number % 70)
    put(tree, path, new)


def swap(tree: Any, path: tuple[Any, ...], other: tuple[Any, ...], number: int) -> None:
    one, two = copy.deepcopy(at(tree, path)), copy.deepcopy(at(tree, other))
    put(tree, path, two)
    if path[: len(other)] != other and other[: len(path)] != path:
        put(tree, other, one)


def graft(tree: Any, path: tuple[Any, ...], other: tuple[Any, ...], number: int) -> None:
    """A key and what is below it, also somewhere else."""
    target = at(tree, other)
    if isinstance(target, dict):
        target[str(path[-1])] = copy.deepcopy(at(tree, path))
    elif isinstance(target, list):
        target.append(copy.deepcopy(at(tree, path)))


def misspell(tree: Any, path: tuple[Any, ...], other: tuple[Any, ...], number: int) -> None:
    parent = at(tree, path[:-1])
    if isinstance(parent, dict):
        old = path[-1]
        spelled = [old[1:], old[:-1], old.upper(), old + "s", f"{old} ", f"${old}", "", other[-1], f"{old}.{old}"]
        items = [(str(spelled[number % len(spelled)]) if key == old else key, value) for key, value in parent.items()]
        parent.clear()
        parent.update(items)


def borrow(tree: Any, path: tuple[Any, ...], other: tuple[Any, ...], number: int) -> None:
    """What stands somewhere in another file."""
    source = TREES[sorted(TREES)[number % len(TREES)]]
    theirs = list(places(source))
    put(tree, path, copy.deepcopy(at(source, theirs[number * 7919 % len(theirs)])))


def invent(tree: Any, path: tuple[Any, ...], other: tuple[Any, ...], number: int) -> None:
    """A kind of any family, all its keys written, at most one of them well."""
    key, fields = KINDS[number % len(KINDS)]
    values = {name: copy.deepcopy(VALUES[(number + 31 * place) % len(VALUES)]) for place, name in enumerate(fields)}
    put(tree, path, {key: values} if number % 3 else values)


def add(tree: Any, path: tuple[Any, ...], other: tuple[Any, ...], number: int) -> None:
    """A known key where it may not belong; every other time at the top."""
    target = at(tree, path) if number % 2 else tree
    if isinstance(target, dict):
        target[WORDS[number % len(WORDS)]] = copy.deepcopy(VALUES[number * 31 % len(VALUES)])


TREE_ACCIDENTS = (delete, replace, retype, swap, graft, misspell, borrow, invent, add)


def harm_tree(tree: Any, accident: int, first: int, second: int, number: int) -> None:
    paths = list(places(tree))
    if paths:
        where, other = paths[first % len(paths)], paths[second % len(paths)]
        TREE_ACCIDENTS[accident % len(TREE_ACCIDENTS)](tree, where, other, number)


def harm_text(text: str, accident: int, first: int, second: int, number: int) -> str:
    lines = text.split("\n")
    one, two = first % len(lines), second % len(lines)
    column = number % (len(lines[one]) + 1)
    match accident % 9:
        case 0:
            del lines[one]
        case 1:
            lines.insert(two, lines[one])
        case 2:
            lines[one], lines[two] = lines[two], lines[one]
        case 3:
            lines[one] = " " * (number % 5) + lines[one]
        case 4:
            lines[one] = lines[one][1 + number % 4 :]
        case 5:
            lines[one] = lines[one][:column] + lines[one][column + 1 :]
        case 6:
            lines[one] = lines[one][:column] + CHARACTERS[second % len(CHARACTERS)] + lines[one][column:]
        case 7:
            lines[one] += lines[two]
        case 8:
            del lines[one:]
    return "\n".join(lines)


NUMBER = st.integers(0, 9999)
ACCIDENT = st.tuples(NUMBER, NUMBER, NUMBER, NUMBER)
FILES = st.tuples(
    st.sampled_from(sorted(SOURCES)),
    st.sampled_from(PROFILES),
    st.booleans(),  # whether the profile is laid over before the accidents
    st.lists(ACCIDENT, max_size=4),  # of the tree
    st.lists(ACCIDENT, max_size=2),  # of the text
    st.lists(ACCIDENT, max_size=1),  # of the command line
)


def made(name: str, profile: str, laid: bool, tree_accidents: list[Any], text_accidents: list[Any]) -> str:
    text = SOURCES[name]
    if tree_accidents:
        tree = copy.deepcopy(flat(name, profile) if laid else TREES[name])
        for accident in tree_accidents:
            harm_tree(tree, *accident)
        text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    for accident in text_accidents:
        text = harm_text(text, *accident)
    return text


def overrides(name: str, accidents: list[Any]) -> tuple[str, ...]:
    paths = list(places(TREES[name]))
    return tuple(
        f"{'.'.join(map(str, paths[first % len(paths)]))}="
        + yaml.safe_dump(VALUES[number % len(VALUES)], default_flow_style=True).removesuffix("\n...\n").strip()
        for _, first, _, number in accidents
    )


def planned(path: Path, profile: str, over: tuple[str, ...] = ()) -> str:
    """The way of a dry run, and what is said of every run; "planned", or the refusal."""
    try:
        file, _ = read(Options(path, over, profile, data=str(path.parent / "data"), max_runs=RUNS))
        plan = build_plan(file, path.parent / "data")
        standing = Standing(Store(path.parent / "results"), plan.evaluators)
        str(cost.estimate(plan, standing.states(plan.runs), standing))
        for each in plan.runs.values():
            assert each.name and each.run.description and len(each.id) == 12
        return "planned"
    except (SweepFileError, DataError, Refused) as error:
        assert str(error).strip()
        return str(error)


class TooLong(BaseException):
    """Nothing of the code under test can catch it."""


def give_up(*_: Any) -> None:
    raise TooLong


def check(path: Path, text: str, profile: str, over: tuple[str, ...] = ()) -> tuple[str, float]:
    """What is said of a file, and how many seconds of this process that took. A hang ends here."""
    path.write_text(text, encoding="utf-8")
    signal.signal(signal.SIGVTALRM, give_up)
    signal.setitimer(signal.ITIMER_VIRTUAL, 20)
    began = time.process_time()
    try:
        said = planned(path, profile, over)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return said, time.process_time() - began


@pytest.mark.parametrize("files", [60, pytest.param(5000, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])])
def test_a_file_is_planned_or_refused_and_soon(files, tmp_path, capsys):
    took: list[float] = []
    outcomes: Counter[str] = Counter()

    @settings(
        max_examples=files,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(FILES)
    def one(case: tuple[Any, ...]) -> None:
        name, profile, laid, of_tree, of_text, of_command = case
        text = made(name, profile, laid, of_tree, of_text)
        said, seconds = check(
            tmp_path / "x.yaml", text, "paper" if laid and of_tree else profile, overrides(name, of_command)
        )
        took.append(seconds)
        outcomes["planned" if said == "planned" else "refused"] += 1
        assert seconds < SECONDS, said

    one()
    with capsys.disabled():
        print(f"\n{len(took)} files, {dict(outcomes)}: {sum(took):.0f} s, at most {max(took):.2f} s")
    assert outcomes["planned"] and outcomes["refused"]


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_every_place_of_one_file_takes_every_odd_value(tmp_path):
    wrong = []
    for place, value in itertools.product(places(EVERYTHING), VALUES):
        tree = copy.deepcopy(EVERYTHING)
        put(tree, place, copy.deepcopy(value))
        said, seconds = check(tmp_path / "x.yaml", yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), "paper")
        if seconds > SECONDS:
            wrong.append((place, value, seconds, said))
    assert not wrong
