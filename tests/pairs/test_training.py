"""Where two features meet in training: inputs that nobody planned, right by hand or by an equivalent run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from kdtune.api import plan, run_sweep, table
from kdtune.data import loading
from kdtune.data.dataset import Dataset
from kdtune.data.error import DataError
from kdtune.planning.plan import build_plan
from kdtune.sweepfile.load import load_sweep
from kdtune.sweepfile.tree import SweepFileError

POOL = "  seeds: 3\n  select: {rule: best, metric: val/accuracy}\n"
KNOBS = "  noise: {teacher: {dropout: {rate: $rate}}}\n"
NOISY = (
    "teacher: {dropout: {rate: 0.5, passes: 2}, signal_noise: {sigma: 0.3}, "
    "swap: {rate: 1.0, pairs: all, threshold: 0.5}}"
)


def swapped(text: str, *pairs: tuple[str, str]) -> str:
    for before, after in pairs:
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    return text


def test_logits_that_overflow_on_held_out_images_are_a_divergence_and_the_pool_goes_on(
    write_sweep, small_sweep, tmp_path
):
    text = swapped(
        small_sweep,
        ("grid: {rate: [0.0, 0.2]}\n", ""),
        ("  noise: {teacher: {dropout: {rate: $rate}}}\n", ""),
        ("mlp: {hidden: [8], dropout: $rate}", "mlp: {hidden: [16, 16, 16, 16]}"),
        ("seeds: 3", "seeds: 4\n  recipe: {optimizer: {sgd: {lr: 50.0, momentum: 0.9}}, batch_size: 40, epochs: 6}"),
        ("milestones: [0.5]", "milestones: []"),
    )
    status = run_sweep(write_sweep(text), here=True, results=str(tmp_path / "r"), data=str(tmp_path))
    found = table(tmp_path / "r" / "small")
    assert set(found[found.role == "teacher"].state) == {"diverged", "done"}, "none has failed"
    assert set(found[found.role == "student"].state) == {"done"} and status == 3


@pytest.mark.parametrize("keep", ["", ", keep: {best: val/accuracy}"])
def test_weights_that_break_in_the_last_epoch_diverge_whatever_is_kept(keep, write_sweep, small_sweep, tmp_path):
    own = f"  recipe: {{optimizer: {{sgd: {{lr: 1.0e20}}}}, batch_size: 80, epochs: 2{keep}}}\n  distillation"
    text = swapped(small_sweep, ("[0.0, 0.2]", "0.2"), ("  noise: {teacher: {dropout: {rate: $rate}}}\n", ""),
                   ("[0.5]", "[]"), ("seeds: 2", "seeds: 1"), ("  distillation", own))  # fmt: skip
    run_sweep(write_sweep(text), here=True, results=str(tmp_path / "r"), data=str(tmp_path))
    found = table(tmp_path / "r" / "small")
    assert list(found[found.role == "student"].state) == ["diverged"]


def test_an_axis_of_the_sweeps_recipe_below_one_of_a_networks_own_tells_its_runs_apart(write_sweep, small_sweep):
    text = swapped(
        small_sweep,
        ("grid: {rate: [0.0, 0.2]}", "grid: {epochs: [2, 3], r: [{batch_size: 10}, {batch_size: 20}]}"),
        ("epochs: 3", "epochs: $epochs"),
        (", dropout: $rate", ""),
        ("  distillation: {alpha: 0.9, temperature: 4}\n", "  recipe: $r\n"),
        ("  noise: {teacher: {dropout: {rate: $rate}}}\n", ""),
    )
    for teacher in (True, False):
        text = text if teacher else text[: text.index("teacher:")] + text[text.index("student:") :]
        students = build_plan(load_sweep(write_sweep(text)), Path("nowhere")).matching({"role": "student"})
        assert len({place.condition for place in students}) == 4 and len(students) == 4 * 2
        assert {place.parameters["epochs"] for place in students if place.run.recipe.epochs == 2} == {2}


def test_one_value_of_the_recipe_for_one_network_alone_leaves_the_rest_of_its_kind(write_sweep):
    plain = plan(path := write_sweep())
    assert plan(path, overrides=["student.recipe.optimizer.sgd.lr=0.1"]).runs.keys() == plain.runs.keys()
    other = plan(path, overrides=["student.recipe.optimizer.SGD.lr=0.05", "student.recipe.schedule.step.factor=0.5"])
    for place in other.places:
        stated = place.run.recipe.model_dump()
        assert stated["optimizer"] == {"sgd": {"lr": 0.05 if place.role == "student" else 0.1, "momentum": 0.9}}
        assert stated["schedule"]["step"] == {"milestones": (0.5,), "factor": 0.5 if place.role == "student" else 0.1}


def test_nothing_laid_on_something_takes_it_away(write_sweep, small_sweep):
    shown = ("  precision", "  augmentation: {crop: {padding: 1, mode: zero}, flip: {}}\n  precision")
    text = swapped(small_sweep, shown) + "profiles:\n  off: {recipe: {augmentation: {}}}\n"
    without = plan(write_sweep(small_sweep), "paper").runs.keys()
    path = write_sweep(text)
    assert plan(path, "off").runs.keys() == without
    assert plan(path, "paper", ["recipe.augmentation={}"]).runs.keys() == without != plan(path, "paper").runs.keys()
    quiet = plan(path, "paper", ["student.noise={}"])
    assert not any(place.run.noise.teacher for place in quiet.places)
    axis = swapped(text, ("{rate: [0.0, 0.2]}", "{rate: 0.2, a: [{}, {flip: {}}]}"),
                   ("  distillation", "  recipe: {augmentation: $a}\n  distillation"))  # fmt: skip
    students = plan(write_sweep(axis), "paper").matching({"role": "student", "seed": 0})
    assert [place.run.recipe.augmentation.crop is None for place in students] == [True, False]


def test_a_teacher_that_is_never_trained_has_no_noise_of_training(write_sweep, small_sweep):
    own = "  checkpoint: own.pt\n  noise: {target: {variability: {rate: $rate}}}\n"
    text = swapped(small_sweep, (POOL, own))
    with pytest.raises(SweepFileError, match=r"noise.target is how a teacher is trained"):
        load_sweep(write_sweep(text))
    load_sweep(write_sweep(text.replace("{rate: [0.0, 0.2]}", "{rate: 0.0}")))


def test_a_class_whose_only_image_is_held_out_is_named(tmp_path):
    for part, counts in {"train": {"a": 4, "b": 4, "c": 1}, "test": {"a": 1, "b": 1, "c": 1}}.items():
        for name, count in counts.items():
            (tmp_path / "f" / part / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (8, 8)).save(tmp_path / "f" / part / name / f"{number}.png")
    held = {"folder": {"path": str(tmp_path / "f"), "name": "f"}, "validation": 0.6}
    with pytest.raises(DataError, match=r"validation: 0.6 leaves no image to train on of c"):
        loading.load(Dataset.model_validate(held), tmp_path)
    assert len(loading.load(Dataset.model_validate(held | {"validation": 0.4}), tmp_path).train.labels.unique()) == 3


@pytest.fixture
def students(write_sweep, small_sweep, tmp_path):
    """Runs the small sweep at one point, text replaced; gives the files of weights of its teachers and its students."""

    def students(*changes, name="r"):
        text = small_sweep
        for before, after in (("[0.0, 0.2]", "0.2"), ("seeds: 2", "seeds: [1]"), *changes):
            assert text.count(before) == 1, before
            text = text.replace(before, after)
        assert run_sweep(write_sweep(text), here=True, results=str(tmp_path / name), data=str(tmp_path)) == 0
        runs, found = tmp_path / name / "runs", table(tmp_path / name / "small")
        done = {id: json.loads((runs / "done" / id).read_bytes()) for id in found.id}
        at = {id: runs / id / record["attempt"] / "model.safetensors" for id, record in done.items()}
        return tuple([at[id] for id in found[found.role == role].id] for role in ("teacher", "student"))

    return students


def test_a_checkpoint_a_pool_of_one_and_a_pair_teach_the_same_bytes(students, tmp_path):
    knobs = (KNOBS, f"  noise: {{{NOISY}}}\n"), ("precision: float32", "precision: bfloat16")
    one, (student,) = students((POOL, POOL.replace("3", "[1]")), *knobs, name="one")
    shutil.copy(one[0], tmp_path / "own.safetensors")
    _, (given,) = students((POOL, "  checkpoint: own.safetensors\n"), *knobs, name="given")
    _, (paired,) = students((POOL, "  select: {rule: paired}\n"), *knobs, name="paired")
    assert student.read_bytes() == given.read_bytes() == paired.read_bytes()


def test_what_weighs_nothing_changes_no_byte(students):
    alone = ("  distillation: {alpha: 0.9, temperature: 4}\n", ""), (KNOBS, "")
    silent = ("alpha: 0.9", "alpha: 0.0"), (KNOBS, f"  noise: {{{NOISY}}}\n")
    none = (alone[0][0], "  loss: {dkd: {alpha: 0.0, beta: 0.0, temperature: 4}}\n"), (KNOBS, "")
    asked = enumerate((alone, silent, none))
    of = [students(*each, name=str(number))[1][0].read_bytes() for number, each in asked]
    assert of[0] == of[1] == of[2]
    deaf = ("alpha: 0.9", "alpha: $alpha"), (KNOBS, "  noise: {target: {variability: {rate: $r}}}\n")
    grid = ("grid: {rate: 0.2}", "grid: {rate: 0.2, alpha: [0.9, 1.0], r: [0.0, 0.9]}")
    half, noisy, plain, unheard = (one.read_bytes() for one in students(*deaf, grid, name="deaf")[1])
    assert plain == unheard and len({half, noisy, plain}) == 3


def test_the_best_epoch_in_bfloat16_is_the_network_that_stopped_there(students):
    same = (
        ("[0.5]", "[]"),
        ("precision: float32", "precision: bfloat16"),
        ("sgd: {lr: 0.1, momentum: 0.9}", "adam: {lr: 0.05, betas: [0.9, 0.999]}"),
        ("  model: {mlp: {hidden: [8]}}\n", "  model: {cnn: {width: 4}}\n  recipe: OWN\n"),
    )
    _, (kept,) = students(*same, ("OWN", "{epochs: 6, keep: {best: val/accuracy}}"), name="kept")
    history = [json.loads(line) for line in (kept.parent / "history.jsonl").read_text().splitlines()]
    best = max(history, key=lambda row: row["val/accuracy"])
    _, (stopped,) = students(*same, ("OWN", f"{{epochs: {best['epoch']}}}"), name="stopped")
    assert kept.read_bytes() == stopped.read_bytes() and best["epoch"] < 6
