"""The tree of one point as a validated sweep; pydantic's errors in the words of a sweep file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from kdtune.config import Sweep
from kdtune.evaluation.calibration import Calibration
from kdtune.evaluation.evaluation import named
from kdtune.networks import Student, Teacher
from kdtune.settings import UNKNOWN
from kdtune.sweepfile.reference import needed
from kdtune.sweepfile.source import PAPER, Source
from kdtune.sweepfile.tree import NETWORKS, KeyPath, Problem, YamlMap, child, line_at, names_a_kind, problem, problem_at
from kdtune.sweepfile.values import comparable, word


def validated(
    tree: YamlMap, written: YamlMap, read: Source, profile: str, context: dict[str, Any]
) -> tuple[Sweep | None, list[Problem]]:
    """The sweep that a tree says, or what is wrong with it.

    `tree` has its `$names` in place and each network its whole recipe; `written` is as people wrote it.
    """
    try:
        sweep = Sweep.model_validate(dict(tree), context=context)
    except ValidationError as failure:
        return None, [problem_of(error, tree, written, read) for error in failure.errors() if not _told(error, tree)]
    refused = [*_chosen_by_test_data(sweep, profile), *_none_is_best(sweep)]
    refused += [*_not_calibrated(sweep, profile), *_compared_with_nobody(sweep)]
    return None if refused else sweep, [problem_at(tree, read.name, path, message) for path, message in refused]


def _chosen_by_test_data(sweep: Sweep, profile: str) -> Iterator[tuple[KeyPath, str]]:
    metric = sweep.teacher.select.metric if sweep.teacher and sweep.teacher.select else None
    if metric and metric.startswith("test/") and profile != PAPER:
        message = f"came {metric}: only the paper profile may choose by test data; here val/accuracy would do"
        yield ("teacher", "select", "metric"), message


def _none_is_best(sweep: Sweep) -> Iterator[tuple[KeyPath, str]]:
    """A choice among untrained teachers, each of which is right by labels that are its own."""
    teacher = sweep.teacher
    if teacher and teacher.select and teacher.select.rule == "best" and sweep.dataset_of(teacher).asks:
        title = sweep.dataset_of(teacher).title
        told = f"each teacher gives {title} its own labels, by which it is always right; paired or average would do"
        yield ("teacher", "select", "rule"), f"came best: {told}"


def _not_calibrated(sweep: Sweep, profile: str) -> Iterator[tuple[KeyPath, str]]:
    """What keeps a student, or a source, from reading its teacher's calibration, where it asks for that."""
    for part, learner in sweep.learners.items():
        if (name := learner.objective.calibration) is not None and sweep.teacher is not None:
            yield from _not_calibrated_for(name, part, learner, sweep, sweep.teacher, profile)


def _not_calibrated_for(
    name: str, part: str, learner: Student, sweep: Sweep, teacher: Teacher, profile: str
) -> Iterator[tuple[KeyPath, str]]:
    path = (part, *(("loss", learner.loss.key) if learner.loss else ("distillation",)), "calibrated")
    try:
        entry = named(sweep.evaluation, name)
    except ValueError as error:
        yield path, f"came {name!r}; {error}"
        return
    if not isinstance(entry, Calibration):
        yield path, f"came {name!r}, which measures no temperature and no weight; an entry `calibration` would do"
    elif entry.fitted_on == "test" and profile != PAPER:
        yield path, f"came {name!r}: only the paper profile may fit to test data; remove fitted_on: test there"
    if teacher.select is not None and teacher.select.rule == "average":
        yield path, f"came {name!r}; rule: average has no single teacher that was calibrated; best or paired would do"


def _compared_with_nobody(sweep: Sweep) -> Iterator[tuple[KeyPath, str]]:
    """What compares networks with their teachers, where there are none, or where those are a whole pool."""
    pooled = sweep.teacher is not None and sweep.teacher.select is not None and sweep.teacher.select.rule == "average"
    for place, entry in enumerate(sweep.evaluation):
        if entry.needs_teacher and sweep.teacher is None:
            told = "compares networks with their teacher, and there is none; remove it"
            yield ("evaluation", place), f"{entry.key} {told}"
        elif entry.needs_features and pooled:
            told = "looks at a teacher's features, and rule: average has logits alone; best or paired would do"
            yield ("evaluation", place), f"{entry.key} {told}"


def _told(error: ErrorDetails, tree: YamlMap) -> bool:
    """Whether it is said elsewhere: a `$name` still in place by the grid's check, a recipe that is none where it is."""
    lacking = error["type"] == "missing" and error["loc"][-1] == "recipe" and "recipe" in tree
    return lacking or str(error["input"]).startswith("$")


def problem_of(error: ErrorDetails, tree: YamlMap, written: YamlMap, read: Source, below: KeyPath = ()) -> Problem:
    """One of pydantic's errors: where, what came, what would do. `below`: where in `tree` that was validated."""
    path = (*below, *error["loc"])
    came, message = error["input"], error["msg"].removeprefix("Value error, ")
    again = _named_again(read.tree, path, came) if message.startswith("names no ") else None
    shared = path[:1] in {(part,) for part in NETWORKS} and path[1:2] in (("recipe",), ("dataset",))
    line = line_at(tree, path)
    if shared and not _stands(written, path):
        path = path[1:]  # written once, for all networks
        line = tree.line if len(path) == 1 else line
    if error["type"] == "missing":
        message = f"is missing; {needed('.'.join(part for part in path if isinstance(part, str)))}"
    elif error["type"] in ("tuple_type", "list_type") and isinstance(came, str | int | float):
        message = f"came {came!r}; a list is needed: [{came}]"
    elif error["type"] != UNKNOWN and not isinstance(came, dict | list):
        message = f"came {came!r}; {message[:1].lower()}{message[1:]}"
    elif again is not None:
        message = f"a mapping replaces the whole {path[-1]}; name it again: {again}"
    return problem(read.name, line, path, message)


def _named_again(base: YamlMap, path: KeyPath, came: Any) -> str | None:
    """What came with the name of what the file has at `path`, if that is something else: `{digits: {}, seed: 1}`."""
    node: Any = base
    for part in path:
        try:
            node, _ = child(node, part)
        except KeyError:
            return None
    if isinstance(node, YamlMap):
        named = [key for key, value in node.items() if isinstance(value, YamlMap)]
        same = comparable(node) == comparable(came)
    else:
        named, same = [node] if isinstance(node, str) else [], False
    if not named or same or not names_a_kind(path) or not isinstance(came, dict):
        return None
    return "{" + ", ".join([f"{named[0]}: {{}}", *(f"{key}: {word(value)}" for key, value in came.items())]) + "}"


def _stands(tree: Any, path: tuple[Any, ...]) -> bool:
    for part in path:
        if not isinstance(tree, dict) or part not in tree:
            return False
        tree = tree[part]
    return True
