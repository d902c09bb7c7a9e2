"""The place that a command on single runs is given, FOLDER_OR_FILE, and the runs that somebody names there."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from kdtune import extensions, paths
from kdtune.cli.options import Options
from kdtune.cli.run import of_proposals, wanted
from kdtune.cli.sweep import again, read
from kdtune.evaluation.evaluator import Evaluator
from kdtune.planning.plan import Plan
from kdtune.planning.searching import known_plan
from kdtune.report import late
from kdtune.report.folder import View, confirming
from kdtune.report.lookup import meant, names_in
from kdtune.report.mirror import results_of
from kdtune.report.table import TableError, plan_of, profile_folder
from kdtune.store.forgetting import Lineage
from kdtune.store.layout import CLAIMS, DONE, RUN_ID, STOPPED
from kdtune.store.standing import Standing
from kdtune.store.store import Store
from kdtune.sweepfile.load import SweepFile, load_sweep
from kdtune.sweepfile.tree import command_line_error


@dataclass(frozen=True)
class Where:
    """As it is typed."""

    place: str  # a sweep's folder, its file, or the folder (or URI) of all results, which has no axes to choose by
    profile: str | None = None
    results: str | None = None
    data: str | None = None
    extensions: tuple[str, ...] = ()  # files of the user's own, as `--with` names them


@dataclass(frozen=True)
class Target:
    """What lies there: a store, and the sweep, None where the place is all results and so has no axes."""

    store: Store
    plan: Plan | None
    command: str  # that does the runs again
    late: Mapping[str, Evaluator] = field(default_factory=dict)  # by hash: what `kdtune evaluate` has measured
    earlier: tuple[str, ...] = ()  # the runs of the folder's last command
    folder: tuple[View, SweepFile] | None = None  # whose table shows them
    proposals: Sequence[Collection[str]] | None = None  # of a search its runs, by number

    @cached_property
    def lineage(self) -> Lineage:
        """All runs of the store. The plan knows as much of its own, should a run.yaml be damaged."""
        lineage = Lineage(self.store.objects)
        runs = self.plan.runs if self.plan is not None else {}
        lineage.parents |= {id: set(planned.waits_for) for id, planned in runs.items() if id in lineage.runs}
        return lineage

    def name(self, id: str) -> str:
        if self.plan is not None and id in self.plan.runs:
            return f"{self.plan.runs[id].name}  {id}"
        return f"{self.lineage.name(id)}  {id}" if id in self.lineage.runs else id

    def meant(self, words: Iterable[str]) -> list[str]:
        """The ids of runs that are named by id, by the beginning of one, or by name, each once; runs that have not
        begun are known by the sweep, or by all sweeps of the results. An id is taken as it is. TableError for others.
        """
        objects = self.store.objects
        try:
            return [*dict.fromkeys(meant(word, self._ids, self._names, objects.path("")) for word in words)]
        except LookupError as error:
            raise TableError(str(error)) from error

    @cached_property
    def _ids(self) -> set[str]:
        found = {*self.earlier, *(self.plan.runs if self.plan is not None else dict(self._names))}
        for key in self.store.objects.list("runs"):
            folder, _, name = key.rpartition("/")
            id = name if folder in (DONE, CLAIMS, STOPPED) else key.split("/")[1]
            found |= {id} if RUN_ID.fullmatch(id) else set()
        return found

    @cached_property
    def _names(self) -> list[tuple[str, str]]:
        if self.plan is not None:
            return [(place.id, place.name) for place in self.plan.places]
        return [*names_in(self.store.objects)]

    def matching(self, plan: Plan, only: str) -> list[str]:
        """The ids of runs of its sweep that `--only` means, each once. SweepFileError where there are none."""
        ids = [*dict.fromkeys(found.id for found in plan.matching(wanted(only, plan, self.proposals)))]
        if not ids:
            raise command_line_error(("only",), f"no run has {only}; kdtune table lists what they have")
        return ids

    def knows(self, id: str) -> bool:
        """Whether the store or a sweep has it."""
        return id in self._ids


def located(asked: Where) -> Target:
    """Raises TableError, SweepFileError, DataError, ExtensionError, StorageError."""
    extensions.use(extensions.read(asked.extensions))
    path, measured, earlier, shown = Path(asked.place), {}, (), None
    if (path / "runs").is_dir() or ("://" in asked.place and not is_of_a_sweep(asked)):
        store = Store(asked.place)
        return Target(store, None, "the command of each sweep that has them")
    if path.is_file():
        address = os.environ.get("RAY_ADDRESS")  # as the sweep's own command has it: it decides on the profile
        same = {name: getattr(asked, name) for name in ("profile", "results", "data", "extensions")}
        options = Options(path, address=address, **same)
        file, _ = read(options)
        store, command = Store(paths.results_folder(asked.results)), again(options)
        plan, search = known_plan(file, options.data_dir, store)
    else:
        folder = profile_folder(asked.place, asked.profile)
        about = plan_of(folder)
        file = load_sweep(folder / "sweep.yaml", folder=about["folder"], max_runs=None)
        store, command = Store(results_of(folder)), "the sweep's own command"
        plan, search = known_plan(file, paths.data_folder(asked.data), store)
        measured = late.shown(late.kept(about), plan)
        earlier = tuple(run["id"] for run in about["runs"])
        standing, known = Standing(store, plan.evaluators), late.kept(about)
        view = View(standing, plan, label=folder.name, measured_late=known, search=search)
        chosen = confirming(about)  # by a search that may not have chosen any more
        chosen |= {id for runs in (search.confirming.values() if search else ()) for id in runs}
        alike = set(earlier) - chosen == set(plan.runs) - chosen
        shown = (view, replace(file, origin=about.get("file"))) if alike else None
    return Target(store, plan, command, measured, earlier, shown, of_proposals(search) if search else None)


def is_of_a_sweep(asked: Where) -> bool:
    """Whether a URI is that of a sweep's folder; else it is that of all results."""
    try:
        profile_folder(asked.place, asked.profile)
    except TableError:
        return False
    return True
