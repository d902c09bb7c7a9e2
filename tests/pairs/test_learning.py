"""Where two of the later features meet in training: weights beside a run's own, sources, oracles, robust losses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import stored
import torch
from click.testing import CliRunner
from torch import nn
from world import SOURCED, WORLD, at, of_role, performed, planned

from kdtune import extensions
from kdtune.__main__ import main
from kdtune.api import run_sweep, table
from kdtune.data.loading import Split
from kdtune.planning.plan import Plan
from kdtune.store.standing import Standing
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep
from kdtune.sweepfile.tree import SweepFileError
from kdtune.training import run as running
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
    assert torch.allclose(found[2].running_mean, rows.mean(0)), "each image counts alike"


def test_no_teacher_is_chosen_by_weights_that_do_not_teach(plain: str, refused: Callable[[str], str]) -> None:
    kept = ("  epochs: 3", "  epochs: 3\n  average: {from: 0.0}\n  keep: {best: val/accuracy}")
    for which in ("average", "last"):
        name = f"val/{which}/robust/pgd2/worst_unconditional"
        entry = f"evaluation: [accuracy, {{pgd: {{steps: 2, restarts: 1}}, on: val, of: {which}}}]\n"
        told = refused(swapped(plain, kept, ("metric: val/accuracy", f"metric: {name}"), (MEASURED, entry)))
        assert "teacher.select.metric: came" in told and f"it is of the {which} weights" in told


@pytest.mark.parametrize("entry", ["oracle: {steps: 1}", "agreement: {}"])
def test_nothing_is_best_by_a_comparison_with_a_teacher_that_is_not_there(
    entry: str, plain: str, refused: Callable[[str], str], tmp_path: Path
) -> None:
    """The students would have failed when all teachers were done; a teacher would have kept its last epoch instead."""
    name = "val/oracle/pgd1" if "oracle" in entry else "val/teacher/agreement"
    text = swapped(plain, (MEASURED, f"evaluation: [accuracy, {{{entry}, on: val, every: 1}}]\n"))
    told = refused(swapped(text, ("metric: val/accuracy", f"metric: {name}")))
    assert f"came '{name}'; it compares a network with its teacher, and a teacher has none" in told
    kept = f"  recipe: {{keep: {{best: {name}}}}}\n"
    assert f"teacher.recipe.keep.best is {name}, which compares" in refused(swapped(text, (POOL, kept + POOL)))
    assert f"student.recipe.keep.best is {name}, which compares" in refused(swapped(text, (LOSS, kept)))
    planned(swapped(text, (LOSS, kept + LOSS)), tmp_path)


def test_a_student_reads_the_calibration_of_the_weights_that_teach(plain: str, tmp_path: Path) -> None:
    kept = ("  epochs: 3", "  epochs: 3\n  keep: {best: val/accuracy}\n  average: {from: 0.0}")
    both = "evaluation: [accuracy, {calibration: {steps: 1}}, {calibration: {steps: 1}, of: average}]\n"
    text = swapped(plain, kept, (MEASURED, both), ("{alpha: 0.9, temperature: 4}", "{calibrated: calibration}"))
    plan = planned(text, tmp_path)
    performed(plan, context := at(tmp_path))
    (student,) = of_role(plan, "student")
    taught = stored.provenance(context.store, student.id)["teacher"]
    found = Standing(context.store, plan.evaluators).measured(taught["id"])
    names = {"alpha": "weight", "temperature": "temperature"}
    assert taught["calibrated"] == {key: found[f"val/calibration/{name}"] for key, name in names.items()}
    assert taught["calibrated"] != {key: found[f"average/val/calibration/{name}"] for key, name in names.items()}


def test_all_weights_that_an_evaluator_looks_at_are_heard(
    plain: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attack on the last epoch's network is no silence, which would end the process."""
    kept = ("  epochs: 3", "  epochs: 3\n  keep: {best: val/accuracy}")
    plan = planned(swapped(plain, kept, (MEASURED, "evaluation: [accuracy, {calibration: {steps: 1}}]\n")), tmp_path)
    asked: list[nn.Module] = []

    def heard(network: nn.Module, pulse: Callable[[], None]) -> Any:
        asked.append(network)
        return pulsing(network, pulse)

    pulsing = running.heard
    monkeypatch.setattr(running, "heard", heard)
    teacher = of_role(plan, "teacher")[0]
    assert performed(plan.of([teacher.id]), at(tmp_path))[teacher.id].state == "done"
    assert len({id(network) for network in asked}) == 2


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


# What nobody looks at, and what only looks so


@pytest.mark.parametrize("alpha", ["1.0", "[1.0]"])
def test_wrong_targets_at_alpha_one_are_refused_but_not_beside_another_alpha(
    alpha: str, plain: str, tmp_path: Path
) -> None:
    """Ids stay: in a grid, and in a search, whose ranges have such ends, they are runs like others."""
    noisy = swapped(plain, (LOSS, f"{LOSS}  noise: {{target: {{variability: {{rate: 0.5}}}}}}\n"))
    with pytest.raises(SweepFileError, match=r"student.noise.target: variability changes labels, and no student looks"):
        planned(swapped(noisy, ("alpha: 0.9", "alpha: 1.0")), tmp_path)
    axes = swapped(noisy, ("rate: 0.5", "rate: $r"), ("alpha: 0.9", "alpha: $alpha"))
    with pytest.raises(SweepFileError, match=r"grid.r: came 0 and 0.5, which make the same runs"):
        planned(swapped(axes, ("seeds: [1]", f"seeds: [1]\ngrid: {{r: [0.0, 0.5], alpha: {alpha}}}")), tmp_path)
    both = planned(swapped(axes, ("seeds: [1]", "seeds: [1]\ngrid: {r: [0.0, 0.5], alpha: [0.9, 1.0]}")), tmp_path)
    assert len(of_role(both, "student")) == len({place.id for place in of_role(both, "student")}) == 4


def test_an_axis_that_stands_in_another_ones_alternative_alone_is_not_idle(plain: str, tmp_path: Path) -> None:
    grid = "seeds: [1]\ngrid: {kd: [null, {alpha: $alpha, temperature: 4}], alpha: [0.5, 0.9]}"
    text = swapped(plain, ("seeds: [1]", grid), (LOSS, "  distillation: $kd\n"))
    assert len({place.id for place in of_role(planned(text, tmp_path), "student")}) == 3
    idle = swapped(text, ("{alpha: $alpha, temperature: 4}", "{alpha: 0.9, temperature: 4}"), (
        "  distillation: $kd\n", "  distillation: $kd\n  noise: {input: {gaussian: {sigma: 0, clamp: $clamp}}}\n"),
        ("alpha: [0.5, 0.9]", "clamp: [false, true]"))  # fmt: skip
    with pytest.raises(SweepFileError, match=r"grid.clamp: came false and true"):
        planned(idle, tmp_path)


def test_a_subspace_of_training_inputs_is_none_of_test_inputs_from_another(
    refused: Callable[[str], str], tmp_path: Path
) -> None:
    elsewhere = ", test: {gaussian: {dimension: 12, rank: 4, std: 1.5, classes: 3, count: 90}, seed: SEED}, validation"
    for entry in ("oracle: {steps: 1, subspace: data}", "specialization: {subspace: data}"):
        text = swapped(WORLD, (", validation", elsewhere), ("[accuracy]", f"[accuracy, {{{entry}}}]"))
        told = refused(text.replace("SEED", "1"))
        assert "subspace: data is that of teachers' training inputs, and test inputs lie off it" in told
        planned(text.replace("SEED", "0"), tmp_path)
        planned(text.replace("SEED", "1").replace(f"{{{entry}}}", f"{{{entry}, on: val}}"), tmp_path)


def test_held_out_images_are_measured_beside_robust_ones(plain: str, tmp_path: Path) -> None:
    """They stay bytes. As many of them are right when clean as the accuracy says."""
    text = swapped(plain, (MEASURED, "evaluation: [accuracy, {distance: {steps: 10, restarts: 1}, on: val}]\n"),
                   ("student:", "source:\n  model: {mlp: {hidden: [8]}}\nstudent:"),
                   (LOSS, "  dataset: {robust: {steps: 2, step: 0.2}}\n"))  # fmt: skip
    plan = planned(text, tmp_path)
    performed(plan, context := at(tmp_path))
    found = Standing(context.store, plan.evaluators).measured(of_role(plan, "student")[0].id)
    assert found["val/distance/clean"] == found["val/accuracy"]


def test_targets_that_hang_on_the_move_are_none_of_a_loss_of_images_as_they_are(
    plain: str, refused: Callable[[str], str]
) -> None:
    """TRADES would have been taught that images as they are may be anything."""
    noise = "  noise: {input: {pgd: {eps: 0.1, step: 0.1, steps: 1}}, target: {calibrated: {eps: 0.1, rho: 10}}}\n"
    told = refused(swapped(plain, (LOSS, f"  loss: {{trades: {{beta: 6}}}}\n{noise}")))
    assert "noise.target.calibrated is of the image as it was moved, and the loss trades has targets of images" in told


# Weights that are damaged


def test_damaged_weights_beside_a_runs_own_are_a_run_to_be_done_again(
    write_sweep: Callable[..., Path], plain: str, tmp_path: Path
) -> None:
    """Of the sweep's own command; a late evaluation trains nothing and is refused."""
    kept = ("  epochs: 3", "  epochs: 3\n  average: {from: 0.4}")
    text = swapped(plain, kept, ("seeds: 3", "seeds: 1"))
    words = {"here": True, "results": str(tmp_path / "r"), "data": str(tmp_path)}
    assert run_sweep(write_sweep(text), **words) == 0
    before = {file.parent.parent.name: file.read_bytes() for file in (tmp_path / "r/runs").glob("*/*/average.*")}
    for file in (tmp_path / "r/runs").glob("*/*/average.safetensors"):
        file.write_bytes(file.read_bytes()[:-1] + b"!")
    late = ["evaluate", tmp_path / "r/small", "--evaluation", "{accuracy: {}, of: average}", "--here"]
    done = CliRunner().invoke(main, [*map(str, late), "--data", str(tmp_path)])
    assert done.exit_code == 4 and done.output.count("average.safetensors is damaged") == 2 == len(before)
    more = swapped(text, (MEASURED, "evaluation: [accuracy, {accuracy: {}, of: average}]\n"))
    assert run_sweep(write_sweep(more), **words) == 0
    plan = planned(more, tmp_path)
    for id, weights in before.items():
        store = Store(tmp_path / "r")
        assert store.file(id, store.done(id), "average.safetensors") == weights
        assert "average/test/accuracy" in Standing(store, plan.evaluators).measured(id)
