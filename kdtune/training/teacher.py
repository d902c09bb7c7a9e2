"""Whom a run learns from: the teacher that its rule chooses, and that teacher again once the run is finished."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from torch import nn

from kdtune.losses.ce import CE
from kdtune.losses.loss import Loss
from kdtune.run import Choice, Run
from kdtune.store.layout import WEIGHTS
from kdtune.store.standing import Standing, members_of
from kdtune.store.state import State
from kdtune.store.store import DamagedError, Store
from kdtune.training.ensemble import Ensemble
from kdtune.training.network import load_finished, placed

Chosen = tuple[nn.Module | None, dict[str, Any]]  # a teacher, and what the provenance keeps of it


def choose_teacher(run: Run, store: Store, device: str) -> Chosen:
    """The teacher that the run's rule chooses, and what the provenance keeps of it.

    A diverged teacher is never chosen, nor one whose metric is no number; ties go to the first of the pool, which is
    the first seed. Raises RuntimeError where one of the pool is not finished, whatever it was when the run was handed
    out: the rest is another pool.
    """
    choice = run.teacher
    if choice is None:
        return None, {}
    standing = Standing(store)
    standing.refresh(*choice.runs)
    outcomes = {id: standing.look(id).done for id in choice.runs}
    if lacking := [id for id, done in outcomes.items() if done is None]:
        raise RuntimeError(
            f"{len(lacking)} of the {len(outcomes)} teachers that it chooses from are not done any more"
            f" ({', '.join(lacking)}); the sweep's command trains them first, then this run"
        )
    pool = [id for id, done in outcomes.items() if done is not None and done.outcome == State.DONE]
    if not pool:
        raise RuntimeError(f"no teacher to learn from: all of {', '.join(choice.runs)} diverged")
    if choice.rule == "average":
        return averaged(pool, store, device)
    chosen, score = pool[0], None
    if choice.metric is not None and choice.evaluator is not None:
        measured = {id: standing.look(id).evaluation(choice.evaluator) for id in pool}
        if missing := [id for id, metrics in measured.items() if metrics is None]:
            raise RuntimeError(f"{choice.metric} was not measured for the teachers {', '.join(missing)}")
        chosen, score = best(choice, {id: (metrics or {}).get(choice.metric) for id, metrics in measured.items()})
    calibrated = calibration_of(run, chosen, standing)
    teacher, weights_digest = load_teacher(chosen, store, device)
    about = {"id": chosen, "weights_sha256": weights_digest, "metric": choice.metric, "score": score}
    return teacher, about | ({"calibrated": calibrated} if calibrated else {})


def choose_source(run: Run, store: Store, device: str) -> Chosen:
    """The run that this one has its images from, and what the provenance keeps of it; nothing where it has none.

    Raises RuntimeError where that run has no network, or is finished and had its images from other weights.
    """
    if run.source is None:
        return None, {}
    if (had := chosen_by(run.id, store, "source")) is not None:
        return teacher_of(had, store, device, "source")(), had
    (id,) = run.source.runs
    done = store.done(id)
    if done is None or done.outcome != State.DONE:
        raise RuntimeError(f"its source {id} is {done.outcome if done else 'not done any more'}: it has no network")
    network, weights_digest = load_teacher(id, store, device, "source")
    return network, {"id": id, "weights_sha256": weights_digest}


def calibration_of(run: Run, teacher: str, standing: Standing) -> dict[str, float]:
    """The alpha and the temperature that were measured of the teacher, where the run's loss reads them; else empty.

    Raises RuntimeError where they were not.
    """
    if run.loss is None or run.loss.calibration is None:
        return {}
    measured = standing.look(teacher).evaluation(run.loss.calibration)
    if measured is None:
        raise RuntimeError(f"its teacher {teacher} was not calibrated; the sweep's command does that first")
    told = {name.rpartition("/")[2]: value for name, value in measured.items()}  # whatever label is in the names
    if (temperature := told.get("temperature")) is None or (alpha := told.get("weight")) is None:
        flags = [name for name, value in measured.items() if "flags/" in name and value]
        why = f"it has {', '.join(flags)}" if flags else "it has kept no weights of its last epoch"
        raise RuntimeError(f"its teacher {teacher} has no calibration to learn with: {why}")
    return {"temperature": temperature, "alpha": alpha}


def loss_of(run: Run, chosen: Mapping[str, Any]) -> Loss:
    """What the run minimises, with what was read of its teacher (`choose_teacher`)."""
    loss = run.loss or CE()
    return loss.calibrated_to(**chosen["calibrated"]) if "calibrated" in chosen else loss


def taught_by(chosen: Mapping[str, Any]) -> str:
    """What tells a teacher, and what was read of it, from any other; empty for none."""
    calibrated = chosen.get("calibrated")
    return f"{chosen.get('weights_sha256', '')}{f' {calibrated}' if calibrated else ''}"


def averaged(pool: Sequence[str], store: Store, device: str) -> Chosen:
    """The whole pool as one teacher. Its id is theirs, joined by +; its digest is of theirs, in this order."""
    loaded = {id: load_teacher(id, store, device) for id in pool}
    members = {id: weights_digest for id, (_, weights_digest) in loaded.items()}
    digest = hashlib.sha256(" ".join(members.values()).encode()).hexdigest()
    about = {"id": "+".join(members), "weights_sha256": digest, "members": members}
    return Ensemble([network for network, _ in loaded.values()]), about


def best(choice: Choice, scores: Mapping[str, float | None]) -> tuple[str, float]:
    """The run with the best score, and the score; the first of equals. None and NaN are never the best.

    Raises RuntimeError where no run has a number.
    """
    numbers = {id: score for id, score in scores.items() if score is not None and not math.isnan(score)}
    if not numbers:
        raise RuntimeError(f"{choice.metric} is a number for none of the teachers {', '.join(scores)}")
    chosen = (min if choice.better == "lower" else max)(numbers, key=lambda id: numbers[id])  # the first of equals
    return chosen, numbers[chosen]


def load_teacher(id: str, store: Store, device: str, part: str = "teacher") -> tuple[nn.Module, str]:
    """The network of a finished run on the run's device, and the digest of its weights; `part` is what it is called.

    Raises RuntimeError where it is damaged; it is then not finished any more, and is trained again.
    """
    done = store.done(id)
    try:
        network = placed(load_finished(id, store, done), device)
    except DamagedError as error:
        if done is not None:
            store.withdraw(id, done, str(error))
        raise RuntimeError(f"its {part} {id} is damaged; the sweep's command trains it first: {error}") from error
    return network, done.files[WEIGHTS] if done else ""


def teacher_had(id: str, store: Store, device: str) -> Chosen | None:
    """The teacher of a finished run, as its provenance names it, whatever the rule would choose by now; None where the
    run is not finished. Raises RuntimeError where that teacher has other weights since."""
    chosen = chosen_by(id, store, "teacher")
    return None if chosen is None else (teacher_of(chosen, store, device)(), chosen)


def chosen_by(id: str, store: Store, part: str) -> dict[str, Any] | None:
    """What the provenance of a finished run says of its teacher or its source; None where it is not finished, or had
    none."""
    standing = Standing(store)
    standing.refresh(id)
    known = standing.look(id)
    return (known.provenance.get(part) or None) if known.done is not None else None


def teacher_of(
    chosen: Mapping[str, Any] | None, store: Store, device: str, part: str = "teacher"
) -> Callable[[], nn.Module | None]:
    """How to get the teacher that a finished run's provenance names, or its source: loaded once, and only if it is
    asked for."""

    @cache
    def ask() -> nn.Module | None:
        if not chosen:
            return None
        found = {id: load_teacher(id, store, device, part) for id in members_of(chosen)}
        for id, weights_digest in members_of(chosen).items():
            if found[id][1] != weights_digest:
                raise RuntimeError(
                    f"its {part} {id} has other weights by now than those that it learned from; `kdtune forget` it to "
                    "train it again"
                )
        networks = [network for network, _ in found.values()]
        return Ensemble(networks) if "members" in chosen else networks[0]

    return ask
