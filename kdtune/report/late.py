"""What `kdtune evaluate` measured beyond what the sweep's file asks for: kept in plan.json, shown by every command.

The file does not know these evaluators, so they are asked of no run; but nothing that was measured leaves the table.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from kdtune.evaluation.evaluation import SHARED, told_apart
from kdtune.evaluation.evaluator import Evaluator
from kdtune.extensions import codes_of
from kdtune.planning.plan import Plan
from kdtune.store.layout import HASH


@dataclass(frozen=True)
class Late:
    """An evaluator and the hash under which its results lie. The hash is not made anew: that may take a whole folder
    of images, which need not be there any more. `version` and `codes` are those that measured."""

    hash: str
    evaluator: Evaluator
    version: int
    codes: tuple[str, ...] = ()

    @classmethod
    def of(cls, evaluator: Evaluator) -> Late:
        """As it is now."""
        return cls(evaluator.hash, evaluator, evaluator.version, tuple(codes_of(evaluator)))

    @property
    def current(self) -> bool:
        """Whether the evaluator is still the one that measured: of this version, and of this code if it is a user's."""
        return (self.version, self.codes) == (type(self.evaluator).version, tuple(codes_of(self.evaluator)))

    def record(self) -> dict[str, Any]:
        own = {"extensions": [*self.codes]} if self.codes else {}
        return {"hash": self.hash, "version": self.version, "entry": self.evaluator.dumped(), **own}


def kept(about: Mapping[str, Any]) -> list[Late]:
    """What a folder's plan.json knows of. No such record, or an evaluator that is gone, is passed over."""
    found = []
    records = about.get("late")
    for record in records if isinstance(records, list) else ():
        try:
            hash, version, evaluator = record["hash"], record["version"], Evaluator.model_validate(record["entry"])
            measured_by = tuple(record.get("extensions", ()))
        except (ValidationError, KeyError, TypeError):
            continue
        if isinstance(hash, str) and HASH.fullmatch(hash):
            found.append(Late(hash, evaluator, version, measured_by))
    return found


def unknown(about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The records of evaluators that are not known here, as those of the user's own are not without `--with`."""
    records = about.get("late")
    known = {each.hash for each in kept(about)}
    return [
        record
        for record in (records if isinstance(records, list) else ())
        if isinstance(record, dict) and record.keys() - {"extensions"} == {"hash", "version", "entry"}
        if isinstance(record["hash"], str) and HASH.fullmatch(record["hash"]) and record["hash"] not in known
    ]


def together(earlier: list[Late], now: list[Late]) -> list[Late]:
    """In the order in which they were asked for. What is asked for again keeps its place, and so do the columns of the
    table, unless another of the same names came since: the last of these is shown."""
    late = {each.hash: each for each in earlier}
    for each in now:
        same = [other.hash for other in late.values() if other.evaluator.writes_under == each.evaluator.writes_under]
        if each.hash in same[:-1]:
            del late[each.hash]
        late[each.hash] = each
    return [*late.values()]


def shown(late: list[Late], plan: Plan) -> dict[str, Evaluator]:
    """Those whose results stand in the table beside the plan's own, by hash. Of two that would have the same names (a
    folder of images that has others by now) the one that was asked for last."""
    written = {each.writes_under for each in plan.evaluation}
    own = {name for name in plan.metrics if name.rpartition("/")[2] not in SHARED}
    last = {
        each.evaluator.writes_under: each
        for each in late
        if each.current
        and each.evaluator.writes_under not in written
        and _still_true(each.evaluator, plan)
        and own.isdisjoint(replace(plan, evaluation=(each.evaluator,)).metrics)
    }
    return {each.hash: each.evaluator for each in last.values()}


def _still_true(evaluator: Evaluator, plan: Plan) -> bool:
    """Whether a label that was made of what differed from the sweep's own entry says that still."""
    label, fields = evaluator.label, type(evaluator).model_fields
    if label is None or any(part.partition("=")[0] not in fields for part in label.split(",")):
        return True
    bare = evaluator.model_copy(update={"label": None})
    return told_apart(bare, plan.evaluation).label in (None, label)


def hidden(late: list[Late], lost: list[dict[str, Any]], plan: Plan, folder: str) -> Iterator[str]:
    """Why others do not, and what brings them back; `lost` are `unknown` here, `folder` as a shell takes it."""
    for entry in dict.fromkeys(shlex.quote(json.dumps(record["entry"])) for record in lost):
        yield f"not shown: {entry}, measured late, which is no evaluator here; one of your own: --with FILE.py"
    beside = shown(late, plan)
    said = {*plan.evaluation, *beside.values()}  # what is asked for once more is not asked for again
    for each in late:
        if each.hash in beside or each.hash in plan.evaluators or each.evaluator in said:
            continue
        said.add(each.evaluator)
        if each.version != type(each.evaluator).version:
            why = "by another version of it"
        elif not each.current:
            why = "by other code of it"
        elif _still_true(each.evaluator, plan):
            why = "under the names of others by now"
        else:
            why = "and its label says by now what does not differ"
        entry = shlex.quote(json.dumps(each.evaluator.dumped()))
        yield f"not shown: {each.evaluator.key}, measured late {why}; kdtune evaluate {folder} --evaluation {entry}"
