"""Where two of the later features meet in training: weights beside a run's own, sources, oracles, robust losses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from world import SOURCED, planned

from kdtune import extensions
from kdtune.api import run_sweep, table
from kdtune.data.loading import Split
from kdtune.planning.plan import Plan
from kdtune.sweepfile.load import load_sweep
from kdtune.sweepfile.tree import SweepFileError
from kdtune.training.average import added, averaged
from kdtune.training.preflight import preflight

POOL = "  seeds: 3\n  select: {rule: best, metric: val/accuracy}\n"
LOSS = "  distillation: {alpha: 0.9, temperature: 4}\n"
KNOBS = "  noise: {teacher: {dropout: {rate: $rate}}}\n"
MEASURED = "evaluation: [accuracy]\n"

NORMAL = f"{{mean: {12 * [0.1]}, std: {12 * [1.0]}}}"  # of twelve channels
MODELS = """\
from math import prod

from torch import nn

from kdtune.models.layers import linear
from kdtune.models.model import Model


class Bare(Model):
    def build(self, shape, classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), classes))

    def layers(self, shape, classes):
        yield linear(prod(shape), classes)
"""


def swapped(text: str, *pairs: tuple[str, str]) -> str:
    for before, after in pairs:
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    return text


@pytest.fixture
def plain(small_sweep: str) -> str:
    """The small sweep at one point, with one student and without knobs."""
    return swapped(small_sweep, ("grid: {rate: [0.0, 0.2]}\n", ""), (", dropout: $rate", ""), (KNOBS, ""),
                   ("seeds: 2", "seeds: [1]"))  # fmt: skip


@pytest.fixture
def refused(tmp_path: Path) -> Callable[[str], str]:
    """What is said of a sweep file."""

    def refused(text: str) -> str:
        (tmp_path / "refused.yaml").write_text(text)
        with pytest.raises(SweepFileError) as caught:
            load_sweep(tmp_path / "refused.yaml")
        return str(caught.value)

    return refused


def problems(plan: Plan, root: Path) -> list[str]:
    """What is told before the start."""
    return preflight(plan.runs, [*plan.runs], [*plan.runs], plan.evaluation, root)


# Weights beside those that a run ends with


def test_a_mean_whose_last_batch_of_one_image_nobody_could_foresee() -> None:
    """Which images a teacher gets wrong decides how many there are: BatchNorm takes its statistics as in training."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3))
    split = Split(torch.rand(9, 1, 2, 2), torch.arange(9) % 3, uncounted=True)
    found = averaged(network, added(None, network), split, 4)
    rows = network[1](split.images.flatten(1)).detach()
    assert torch.allclose(found[2].running_mean, (rows[:4].mean(0) + rows[4:].mean(0)) / 2)


def test_no_teacher_is_chosen_by_weights_that_do_not_teach(plain: str, refused: Callable[[str], str]) -> None:
    kept = ("  epochs: 3", "  epochs: 3\n  average: {from: 0.0}\n  keep: {best: val/accuracy}")
    for which in ("average", "last"):
        name = f"val/{which}/robust/pgd2/worst_unconditional"
        entry = f"evaluation: [accuracy, {{pgd: {{steps: 2, restarts: 1}}, on: val, of: {which}}}]\n"
        told = refused(swapped(plain, kept, ("metric: val/accuracy", f"metric: {name}"), (MEASURED, entry)))
        assert "teacher.select.metric: came" in told and f"it is of the {which} weights" in told


# Sources


def test_a_source_that_tells_no_features_is_told_before_the_start(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text(MODELS)
    extensions.use(extensions.read([tmp_path / "models.py"]))
    try:
        wide = "source:\n  model: {two-layer: {width: 8, init: {normal: 0.1}}}\n"
        plan = planned(swapped(SOURCED, (wide, "source:\n  model: bare\n")), tmp_path)
        (told,) = problems(plan, tmp_path)
        assert told.startswith("student seed=0 and 1 more: dataset.robust asks its source for features, which takes")
        normal = planned(swapped(SOURCED, (wide, f"{wide}  normalization: {NORMAL}\n")), tmp_path)
        assert problems(normal, tmp_path) == []
    finally:
        extensions.use([])


def test_students_of_a_source_that_diverged_are_skipped_and_say_so(
    write_sweep: Callable[..., Path], plain: str, tmp_path: Path
) -> None:
    broken = "source:\n  model: {mlp: {hidden: [8]}}\n  recipe: {optimizer: {sgd: {lr: 1.0e+20}}}\nstudent:"
    text = swapped(plain, ("student:", broken), (LOSS, f"  dataset: {{robust: {{steps: 2, step: 0.2}}}}\n{LOSS}"))
    words = {"here": True, "results": str(tmp_path / "r"), "data": str(tmp_path)}
    for _ in range(2):  # a result: not tried again
        assert run_sweep(write_sweep(text), **words) == 3
    found = table(tmp_path / "r" / "small")
    assert dict(zip(found.role, found.state, strict=True)) == {
        "teacher": "done", "source": "diverged", "student": "skipped"}  # fmt: skip
