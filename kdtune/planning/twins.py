"""Students that begin as their teacher began: of its model and its seed."""

from __future__ import annotations

from kdtune.planning.plan import Plan


def on_twins(plan: Plan) -> str | None:
    """What to say of them; None where there are none.

    The seed draws a network's initial weights and the order of its images, for whatever network it is. A student that
    shares both with its teacher, and learns nearly the same labels, ends as its copy: agreement of the two then says
    nothing of distillation.
    """
    found = 0
    for place in plan.runs.values():
        run = place.run
        teachers = [plan.runs[id].run for id in (run.teacher.runs if run.teacher else ()) if id in plan.runs]
        found += any((each.model, each.seed) == (run.model, run.seed) for each in teachers if each.recipe is not None)
    if not found:
        return None
    who = f"{found} student{'s' if found != 1 else ''} begin{'s' if found == 1 else ''}"
    return (
        f"{who} with the initial weights of a teacher of theirs: one model, one seed; teacher.seeds that no student"
        " has part them, with rule: paired teacher.select.offset"
    )
