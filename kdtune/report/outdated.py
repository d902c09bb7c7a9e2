"""Which results another code made than the one that is here now, and which students another teacher than is there now.

A changed loss, a changed evaluator: what is finished stays as it is, and is said to be of other code. The digests are
those of `kdtune.sources`, in the provenance of each run and beside each evaluator's result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kdtune import sources
from kdtune.evaluation.evaluator import Evaluator
from kdtune.planning.plan import Plan
from kdtune.store.layout import WEIGHTS
from kdtune.store.standing import Standing, members_of


@dataclass(frozen=True)
class Outdated:
    """Of the finished runs of a plan: ids of those trained by other code, with where it came from; ids by evaluator
    whose results were measured by other code; ids of those whose teacher, or source, has other weights by now; ids of
    those whose teacher has another calibration by now than they learned by."""

    trained: dict[str, str] = field(default_factory=dict)
    measured: dict[str, dict[str, str]] = field(default_factory=dict)
    taught: tuple[str, ...] = ()
    calibrated: tuple[str, ...] = ()

    @property
    def runs(self) -> list[str]:
        """Those that would have to be trained again."""
        return [*dict.fromkeys((*self.trained, *self.taught, *self.calibrated))]


def outdated(plan: Plan, standing: Standing, evaluators: Mapping[str, Evaluator]) -> Outdated:
    """`evaluators`, by hash, are those whose results stand in the table, which has read all that is read here."""
    finished = {id: planned.run for id, planned in plan.runs.items() if standing.look(id).done is not None}
    trained = {id: _origin(standing.look(id).provenance) for id, run in finished.items() if _differs(id, run, standing)}
    measured: dict[str, dict[str, str]] = {}
    for hash, evaluator in evaluators.items():
        here = sources.of_evaluator(evaluator)
        for id in finished:
            record = standing.look(id).record(hash)
            if record is not None and record["code"].get("sources") != here:
                measured.setdefault(hash, {})[id] = _origin(record["code"])
    taught = tuple(id for id in finished if _has_another_teacher(id, standing))
    calibrated = tuple(id for id, run in finished.items() if _is_calibrated_otherwise(id, run, standing))
    return Outdated(trained, measured, taught, calibrated)


def lines(plan: Plan, standing: Standing, evaluators: Mapping[str, Evaluator], folder: str) -> Iterator[str]:
    """What a person should know before quoting a number, and how to do those runs again; nothing where all is well.

    `folder` is the sweep's, as a shell takes it.
    """
    found = outdated(plan, standing, evaluators)
    said = []
    if found.trained:
        said.append(f"{len(found.trained)} of {len(plan.runs)} runs were trained by other code{_from(found.trained)}")
    for hash, runs in found.measured.items():
        said.append(f"{evaluators[hash].key} measured {len(runs)} runs by other code{_from(runs)}")
    if found.taught:
        said.append(f"{len(found.taught)} students learned from weights that their teacher or source has no longer")
    if found.calibrated:
        said.append(f"{len(found.calibrated)} students learned by a calibration that their teacher has no longer")
    if said:
        yield f"outdated     {'; '.join(said)}. To do them again: kdtune forget {folder} --outdated"


def _differs(id: str, run: Any, standing: Standing) -> bool:
    return bool(standing.look(id).provenance.get("sources") != sources.of_training(run))


def _has_another_teacher(id: str, standing: Standing) -> bool:
    origin = standing.look(id).provenance
    chosen = [origin[part] for part in ("teacher", "source") if origin.get(part)]
    had = {id: digest for each in chosen for id, digest in members_of(each).items()}
    now = {each: standing.look(each).done for each in had}
    return any(done and had[each] != done.files.get(WEIGHTS) for each, done in now.items())


def _is_calibrated_otherwise(id: str, run: Any, standing: Standing) -> bool:
    """Whether its teacher's calibration, by which it learned, was measured anew and says something else."""
    chosen = standing.look(id).provenance.get("teacher", {})
    if run.loss is None or run.loss.calibration is None or "calibrated" not in chosen:
        return False
    measured = standing.look(chosen["id"]).evaluation(run.loss.calibration) or {}
    now = {name.rpartition("/")[2]: value for name, value in measured.items()}
    had = {"weight": chosen["calibrated"]["alpha"], "temperature": chosen["calibrated"]["temperature"]}
    return any(name in now and now[name] != value for name, value in had.items())


def _origin(code: Mapping[str, Any]) -> str:
    commit = code.get("commit")
    return f"commit {commit[:9]}{' with changes' if code.get('dirty') else ''}" if commit else ""


def _from(origins: Mapping[str, str]) -> str:
    known = [origin for origin, _ in Counter(origins.values()).most_common(3) if origin]
    return f" ({', '.join(known)})" if known else ""
