"""A sweep's folder on disk: what its last command saw, derived anew from the runs. Deleting it loses nothing."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from kdtune.evaluation.evaluator import Evaluator
from kdtune.evaluation.metric import Metric
from kdtune.planning.plan import Plan
from kdtune.planning.searching import Searching
from kdtune.report import late, searched, table
from kdtune.report.late import Late
from kdtune.report.mirror import mirror
from kdtune.store.encoding import from_json, to_json, to_yaml
from kdtune.store.standing import READERS, Standing
from kdtune.store.state import State
from kdtune.sweepfile.load import SweepFile
from kdtune.sweepfile.source import read_source
from kdtune.sweepfile.tree import SweepFileError


class OtherSweep(Exception):
    """The folder is that of another sweep file, which has the same name."""


UPLOADED = ".uploaded"  # beside TensorBoard's files: size and time of each as it was last copied to the bucket
OURS = re.compile(r"\.kdtune$|(^|/)holds\.json$")  # of those files; what others put there is left alone
OWN = ("tensorboard", "figures")  # folders in it that are written by others than the store


class View:
    """`results/<sweep>/<profile>/`; where more was asked for than the file says, `<profile>+<4 hex>`, so that two
    variants do not share a folder.

    `asked`: overrides, `--seeds` and all else that changes the plan. StorageError where a link would lead what is
    written there to somewhere else.

    `measured_late`: evaluators beyond the sweep's own; None: those that the folder knows of.
    """

    def __init__(
        self,
        standing: Standing,
        plan: Plan,
        asked: Sequence[str] = (),
        label: str | None = None,
        measured_late: Sequence[Late] | None = None,
        search: Searching | None = None,
    ) -> None:
        self.standing = standing
        self.plan = plan
        self.search = search
        variant = f"+{hashlib.sha256(chr(0).join(asked).encode()).hexdigest()[:4]}" if asked else ""
        self.key = f"{plan.name}/{label or plan.profile + variant}"
        for own in OWN:
            standing.store.objects.refuse_link(f"{self.key}/{own}")
        self.measured_late = late.kept(self._before) if measured_late is None else [*measured_late]
        self.late = late.shown(self.measured_late, plan)  # by hash

    def grow(self, plan: Plan) -> None:
        """A plan with more runs than before."""
        self.plan = plan

    @property
    def place(self) -> str:
        """Folder or URI, as a person would open it."""
        return self.standing.store.objects.path(self.key)

    @property
    def uri(self) -> str:
        """The same for a command."""
        return self.standing.store.objects.uri(self.key)

    @property
    def local(self) -> Path:
        """Where files that need a real folder lie, such as TensorBoard's: the folder itself, or a mirror of it."""
        objects = self.standing.store.objects
        return (mirror(objects.root) if objects.local is None else objects.local) / self.key

    def upload(self) -> None:
        """TensorBoard's files to where the results are, those that have changed since they were last taken there."""
        objects, here = self.standing.store.objects, self.local / "tensorboard"
        if objects.local is not None or not here.is_dir():  # nothing has begun
            return
        record, before = here / UPLOADED, {}
        if self._before:  # else the folder is new there, or was deleted, whatever was once copied
            with suppress(OSError, ValueError):
                before = dict(json.loads(record.read_bytes()))
        files = (path for path in here.rglob("*") if path.is_file() and path != record)
        now = {path.relative_to(here).as_posix(): [path.stat().st_size, path.stat().st_mtime_ns] for path in files}

        def publish(name: str) -> None:
            objects.publish(f"{self.key}/tensorboard", name, (here / name).read_bytes())

        there = before or objects.published(f"{self.key}/tensorboard")
        for name in (name for name in there if name not in now and OURS.search(name)):
            objects.unpublish(f"{self.key}/tensorboard", name)
        with ThreadPoolExecutor(READERS) as pool:
            list(pool.map(publish, [name for name in now if now[name] != before.get(name)]))  # raises what one raised
        record.write_text(json.dumps(now))

    @cached_property
    def evaluation(self) -> tuple[Evaluator, ...]:
        """The evaluators whose results are shown."""
        return tuple(dict.fromkeys((*self.plan.evaluation, *self.late.values())))

    @property
    def evaluators(self) -> dict[str, Evaluator]:
        """The same by the hash under which their results lie."""
        return {each.hash: each for each in self.plan.evaluation} | self.late

    @cached_property
    def headlines(self) -> list[Metric]:
        """The metrics that stand for the sweep, those that were measured late too."""
        return replace(self.plan, evaluation=self.evaluation).headlines

    def _recorded(self) -> list[dict[str, Any]]:
        """What the folder keeps of late measurements; a new one as soon as there is a result, for it may be wrong."""
        known = {each.hash for each in late.kept(self._before)}
        looks = [self.standing.look(id) for id in self.plan.runs]
        stay = [
            each
            for each in self.measured_late
            if each.hash in known or any(look.evaluation(each.hash) for look in looks)
        ]
        return [*(each.record() for each in stay), *late.unknown(self._before)]

    def beside(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
        """The columns of what was measured late and has none among the headlines, a line for each evaluator."""
        shown = {metric.name for metric in self.headlines}
        for each in dict.fromkeys(each.evaluator for each in self.measured_late):
            names = [
                name for name in replace(self.plan, evaluation=(each,)).metrics if any(name in row for row in rows)
            ]
            if names and shown.isdisjoint(names):
                some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
                yield f"beside these, of {each.key}: {some}"

    def hidden(self) -> Iterator[str]:
        """What was measured late and is not shown, in words."""
        lost = late.unknown(self._before)
        return late.hidden(self.measured_late, lost, self.plan, shlex.quote(self.uri))

    def change(self, file: SweepFile) -> str | None:
        """What becomes of the folder that the last command left, in words; None where nothing does.

        Raises OtherSweep where it is another file's: this one would replace its table.
        """
        other, known = str(self._before.get("file") or ""), _ids(self._before)
        if other and file.origin and _is_another(Path(other), Path(file.origin), self.plan.name):
            raise OtherSweep(
                f"{self.place} is the folder of {other}, another sweep of the name {self.plan.name}; give this one "
                f"another name (`name:` in {file.path}) or another folder (--results)"
            )
        now = self.plan.runs.keys()
        if not known or known == now or (self.search is not None and not self.search.complete):
            return None  # of a search that goes on nobody knows yet what it will ask for
        whose = f" of {Path(other).name}" if other else ""
        return (
            f"{self.place}: was {len(known)} runs{whose}, now {len(now)}: {len(now - known)} new, "
            f"{len(known - now)} not asked for any more"
        )

    @cached_property
    def _before(self) -> dict[str, Any]:
        """The plan.json that the last command left; empty where there is none that can be read."""
        with suppress(ValueError):
            data = self.standing.store.objects.get(f"{self.key}/plan.json")
            found = from_json(data) if data is not None else {}
            return found if isinstance(found, dict) else {}
        return {}

    def _asked(self, states: Mapping[str, State]) -> dict[str, Any]:
        return {"evaluators": self.plan.evaluators, **described(self.plan, states)}

    def rows(self, states: Mapping[str, State]) -> list[dict[str, Any]]:
        """The table of its runs."""
        self.standing.preload(self.plan.runs, self.late)
        rows = table.rows(self.plan, self.standing, self.whole(states), self.late)
        return rows if self.search is None else searched.with_columns(self.search, self.plan.places, rows)

    def whole(self, states: Mapping[str, State]) -> dict[str, State]:
        """How all of its runs stand, those too that a late evaluation leaves alone."""
        return {id: states[id] if id in states else self.standing.state(id) for id in self.plan.runs}

    def write(self, file: SweepFile, states: Mapping[str, State]) -> list[dict[str, Any]]:
        """The sweep as it was resolved, its plan, and the table of its runs; returns the table."""
        rows = self.rows(states)
        about = {"sweep": self.plan.name, "profile": self.plan.profile, "dataset": self.plan.dataset}
        for each in self.evaluation:
            if each.writes_under == "pgd":  # a number of robustness means nothing without what it was attacked with
                about["attack"] = each.attack  # type: ignore[attr-defined]
        about["radii"] = json.dumps(radii(self.evaluation))
        about["axes"] = json.dumps(self.plan.axes)
        about["headlines"] = json.dumps([metric.name for metric in self.headlines])
        measured = replace(self.plan, evaluation=self.evaluation).metrics  # late ones too
        about["lower"] = json.dumps([name for name, each in measured.items() if each.better == "lower"])
        if self.search is not None:
            about["search"] = searched.to_json(self.search)
        source = {"file": file.origin, "folder": file.folder, "late": self._recorded()}
        files = {
            "sweep.yaml": to_yaml(file.tree),
            "plan.json": to_json({**about, **source, **self._asked(self.whole(states))}, indent=1),
            "results.csv": table.to_csv(rows),
        }
        if self.search is not None:
            files["search.csv"] = table.to_csv(searched.proposals(self.search, rows), first=())
        objects, parquet = self.standing.store.objects, f"{self.key}/results.parquet"
        changed = {name: data for name, data in files.items() if objects.get(f"{self.key}/{name}") != data}
        # Arrow loads pandas, which is slow: not for what is there already. Parquet first: if that is cut
        # short, the others still differ, and the next command writes all again.
        if changed or not objects.exists(parquet):
            objects.put(parquet, table.to_parquet(rows, about))
        for name, data in changed.items():
            objects.put(f"{self.key}/{name}", data)
        return rows


def _ids(about: Mapping[str, Any]) -> set[str]:
    """Of the runs that a plan.json names; none where it names none."""
    with suppress(KeyError, TypeError):
        return {str(run["id"]) for run in about["runs"]}
    return set()


def confirming(about: Mapping[str, Any]) -> set[str]:
    """Of the runs that a plan.json names those that confirm what its search chose; none where it is no search's."""
    with suppress(KeyError, TypeError, ValueError, AttributeError):
        return {str(id) for runs in json.loads(about["search"])["confirming"].values() for id in runs}
    return set()


def radii(evaluation: Iterable[Evaluator]) -> dict[str, float]:
    """The radius of each evaluator that attacks, in pixel units, its headline's where it has several."""
    asked = {each.writes_under: getattr(each, "eps", None) for each in evaluation}
    first = {name: eps[0] if isinstance(eps, tuple) and eps else eps for name, eps in asked.items()}
    return {name: eps for name, eps in first.items() if isinstance(eps, float)}


def described(plan: Plan, states: Mapping[str, State]) -> dict[str, Any]:
    """A plan as plain values: what `--dry-run --json` prints and plan.json keeps.

    `runs`: each distinct run once, at the first place that asks for it. `places`: the rows of the table, by run id.
    """
    runs = [
        {
            "id": id,
            "role": place.role,
            "seed": place.run.seed,
            "parameters": place.parameters,
            "waits_for": list(place.waits_for),
            "chooses_from": {part: [*ids] for part, ids in place.chooses_from.items()},
            "state": str(states[id]),
        }
        for id, place in plan.runs.items()
    ]
    places = [
        {
            "id": place.id,
            "name": place.name,
            "role": place.role,
            "seed": place.run.seed,
            "parameters": place.parameters,
            "teacher_parameters": place.teacher_parameters,
        }
        for place in plan.places
    ]
    return {"runs": runs, "places": places}


def _is_another(other: Path, this: Path, name: str) -> bool:
    """Whether a sweep of this name lies at `other` too, which is neither this file nor the same to the byte."""
    try:
        if not other.is_file() or other.samefile(this):
            return False
        alike = other.stat().st_size == this.stat().st_size and other.read_bytes() == this.read_bytes()
        return not alike and read_source(other).tree.get("name") == name
    except (OSError, ValueError, SweepFileError):  # moved, deleted, or no sweep file any more
        return False
