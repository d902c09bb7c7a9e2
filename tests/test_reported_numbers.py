"""Kinds of silently wrong numbers that peers' users reported, each as an input."""

from __future__ import annotations

import io
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from conftest import ROOT, SEARCH, SMALL
from PIL import Image
from torch import nn

import kdtune
from kdtune.attacks.pgd import pgd
from kdtune.data.error import DataError
from kdtune.data.loading import Split, inputs, load
from kdtune.data.sets.folder import Folder
from kdtune.data.sets.published import Digits
from kdtune.models.networks.normalized import Normalized
from kdtune.optimization.optimizers import SGD
from kdtune.optimization.schedules import Step
from kdtune.planning.plan import build_plan
from kdtune.planning.search import proposed
from kdtune.recipe import Recipe
from kdtune.report.best import ranked
from kdtune.report.comparison import Cell, Comparison, written
from kdtune.report.lookup import meant
from kdtune.report.table import read, to_csv, to_parquet
from kdtune.search.search import Search
from kdtune.search.space import QUniform, Uniform
from kdtune.statistics import Interval
from kdtune.sweepfile.load import load_sweep
from kdtune.sweepfile.tree import SweepFileError
from kdtune.training import weights
from kdtune.training.average import added, averaged
from kdtune.training.given import given_answers


def table_of(rows: list[dict], folder: Path) -> pd.DataFrame:
    (folder / "paper").mkdir(exist_ok=True)
    (folder / "paper" / "results.parquet").write_bytes(to_parquet(rows, {"sweep": "s", "axes": '["rate"]'}))
    return read(folder)


def students(seeds: list[int], values: list[float], rate: float = 0.0) -> list[dict]:
    return [
        {"id": f"{seed:012x}", "role": "student", "seed": seed, "state": "done", "rate": rate, "test/accuracy": value}
        for seed, value in zip(seeds, values, strict=True)
    ]


def test_seeds_beyond_floats_beside_a_teacher_without_a_seed(tmp_path):
    seeds = [2**53, 2**53 + 1, 2**63 - 1]
    teacher = {"id": "f" * 12, "role": "teacher", "seed": None, "state": "done", "test/accuracy": 99.0}
    table = table_of([teacher, *students(seeds, [10.0, 20.0, 30.0])], tmp_path)
    assert table["seed"].tolist() == [None, *seeds]
    assert "student rate=0  20.00 +- 24.84  n = 3" in "\n".join(ranked(table, "test/accuracy", {}))


def test_columns_with_gaps_are_numbers_as_before(tmp_path):
    table = table_of([{"id": "0" * 12, "role": "teacher", "seed": None}, {"id": "1" * 12, "seed": 3}], tmp_path)
    assert table["seed"].dtype == float


@pytest.mark.parametrize("axis", ["rate: [0.0, 0.2]", "rate: [-0.0, 0.2]", "rate: [0, 2e-1]", "rate: [-.0e5, 0.20]"])
def test_one_number_is_one_run_however_it_is_written(axis, write_sweep, tmp_path):
    """Nor does a whole number differ from a float: the temperature is 4, 4.0 and 4e0."""
    first = build_plan(load_sweep(write_sweep(SMALL)), tmp_path)
    for temperature in ("4", "4.0", "4e0"):
        text = SMALL.replace("rate: [0.0, 0.2]", axis).replace("temperature: 4", f"temperature: {temperature}")
        again = build_plan(load_sweep(write_sweep(text)), tmp_path)
        assert [(place.id, place.name) for place in again.places] == [(p.id, p.name) for p in first.places]


def test_a_zero_of_pythons_with_a_sign(write_sweep):
    file = write_sweep(SMALL)
    ids = [[*kdtune.plan(file, overrides={"student.distillation.alpha": zero}).runs] for zero in (0.0, -0.0)]
    ids.append([*kdtune.plan(file, overrides={"student.distillation.alpha": np.float32(-0.0)}).runs])
    assert ids[0] == ids[1] == ids[2]


def test_what_is_drawn_below_zero_and_rounded_is_zero():
    assert math.copysign(1, Uniform(lower=-1.0, upper=1.0).value(-1e-9)) == 1


@pytest.mark.parametrize("name", ["number", "listed", "front", "runs"])
def test_an_axis_of_a_search_that_is_called_as_a_column_of_its_table(name, write_sweep):
    text = SEARCH.replace("width: {randint", f"{name}: {{randint").replace("width: 8", f"{name}: 8")
    with pytest.raises(SweepFileError, match=rf"search.space.{name}: came .*which is a column of search.csv"):
        load_sweep(write_sweep(text.replace("$width", f"${name}")))


@pytest.mark.parametrize("views", [(), (1,)])
@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_probabilities_in_the_place_of_logits(kind, views, tmp_path):
    recipe = Recipe(optimizer=SGD(lr=0.1), schedule=Step(milestones=(), factor=1.0), precision="float32",
                    batch_size=20, epochs=1)  # fmt: skip
    data = load(Digits(), tmp_path)
    logits = torch.randn(len(data.train), *views, 10, generator=torch.Generator().manual_seed(0))
    for name, array in (("logits", logits), ("logs", logits.log_softmax(-1)), ("shares", logits.softmax(-1))):
        np.save(tmp_path / f"{name}.npy", array.numpy().astype(kind))
        if name != "shares":
            assert len(given_answers(tmp_path / f"{name}.npy", None, data, len(data.train), recipe)) == len(logits)
    with pytest.raises(DataError, match="probabilities, not logits; their logarithm would do"):
        given_answers(tmp_path / "shares.npy", None, data, len(data.train), recipe)


@pytest.mark.filterwarnings("error")  # Optuna's, that it leaves out the last step
@pytest.mark.parametrize(
    ("upper", "q", "count"), [(1.0, 1 / 3, 4), (2.0, 0.6666666666666, 4), (1.0, 0.33333333334, 4), (1.0, 0.1, 11)]
)
def test_steps_that_no_decimal_number_is(upper, q, count):
    space = {"x": {"quniform": [0.0, upper, q]}}
    asked = Search.model_validate(
        {"trials": 99, "objectives": {"val/accuracy": "max"}, "sampler": "random", "lag": 99, "space": space}
    )
    points = [{"x": upper}]  # listed, and told to the sampler
    while len(points) < 80:
        points.append(proposed(asked, points, [(1.0,)]))
    drawn = {point["x"] for point in points[1:]}
    assert len(drawn) == count and {0.0, upper} <= drawn and max(drawn) == upper
    assert QUniform(lower=0.0, upper=upper, q=q).told(upper) is not None


def test_a_last_batch_of_few_images_counts_by_these():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4))
    images = torch.rand(22, 1, 2, 2)
    split = Split(images, torch.zeros(22, dtype=torch.int64))
    found = averaged(network, added(None, network), split, 10)[1]
    torch.testing.assert_close(found.running_mean, images.flatten(1).mean(0))
    spreads = [batch.flatten(1).var(0) * len(batch) for batch in images.split(10)]
    torch.testing.assert_close(found.running_var, sum(spreads) / 22)
    assert found.momentum == 0.1


def test_a_last_batch_of_one_that_nobody_foresaw_is_averaged_too():
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4))
    images = torch.rand(21, 1, 2, 2)
    split = Split(images, torch.zeros(21, dtype=torch.int64), uncounted=True)
    found = averaged(network, added(None, network), split, 10)[1]
    torch.testing.assert_close(found.running_mean, images.flatten(1).mean(0))


def test_an_axis_that_a_spreadsheet_would_run():
    cell = Cell(Interval(1.0, None, None, 1), 1)
    lines = [([name], [cell]) for name in ("=1+1", "-0.5", "@x", "plain")]
    rows = written(Comparison(["label"], ["test/accuracy"], lines), "csv").splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["'=1+1", "-0.5", "'@x", "plain"]


def test_ids_that_look_like_numbers_are_text_to_who_says_so():
    ids = ["000123456789", "12345678e012", "1234567890e1", "123456789012"]
    csv = to_csv([{"id": id, "teacher.id": id} for id in ids])
    found = pd.read_csv(io.BytesIO(csv), dtype={"id": str, "teacher.id": str})
    assert found["id"].tolist() == found["teacher.id"].tolist() == ids
    assert 'dtype={"id": str, "teacher.id": str}' in (ROOT / "docs" / "using.md").read_text()


@pytest.mark.parametrize("beginning", ["0593", "059300", "12e4", "1234567e10"])
def test_the_beginning_of_an_id_that_looks_like_a_number(beginning):
    ids = ["0593001f34aa", "12e456789abc", "1234567e1012", "00593000aaaa", "593001f34aa0"]
    assert meant(beginning, ids, [], "r").startswith(beginning)


def test_a_metric_that_is_no_number_is_neither_best_nor_counted(tmp_path):
    rows = [*students([0, 1], [math.nan, 10.0]), *students([2, 3], [math.nan, math.nan], 0.2)]
    rows += students([4, 5], [30.0, 20.0], 0.4)
    told = [*ranked(table_of(rows, tmp_path), "test/accuracy", {})]
    assert [line.split()[1:3] for line in told[1:3]] == [["rate=0.4", "25.00"], ["rate=0", "10.00"]]
    assert told[2].endswith("n = 1") and told[3].startswith("best run: student rate=0.4 seed=4  30.00")


def test_a_radius_is_in_pixels_whatever_images_are_standardised_with():
    torch.manual_seed(0)
    mean, std = [0.5, 0.4], [0.2, 0.3]
    layer = nn.Linear(2 * 16, 5)
    folded, scale = nn.Linear(2 * 16, 5), torch.tensor(std).repeat_interleave(16)
    with torch.no_grad():
        folded.weight.copy_(layer.weight / scale)
        folded.bias.copy_(layer.bias - folded.weight @ torch.tensor(mean).repeat_interleave(16))
    images, labels = torch.rand(8, 2, 4, 4), torch.arange(8) % 5
    networks = [Normalized(nn.Sequential(nn.Flatten(), layer), mean, std), nn.Sequential(nn.Flatten(), folded)]
    for norm in ("linf", "l2"):
        found = [pgd(each, images, labels, images, 0.1, 0.02, 10, norm=norm)[10] for each in networks]
        torch.testing.assert_close(*found)
        assert (found[0] - images).abs().max() <= 0.1 + 1e-6


def test_a_hidden_folder_of_a_notebook_is_no_class(tmp_path):
    for split in ("train", "test"):
        for name in ("a", "b"):
            for folder in (tmp_path / split / name, tmp_path / split / name / ".ipynb_checkpoints"):
                folder.mkdir(parents=True)
                Image.new("L", (8, 8)).save(folder / "1.png")
        (tmp_path / split / ".ipynb_checkpoints").mkdir()
        Image.new("L", (8, 8)).save(tmp_path / split / ".ipynb_checkpoints" / "a-checkpoint.png")
    text = SMALL.replace("{digits: {}, train_size: 100, validation: 0.2}", f"{{folder: {{path: {tmp_path}, name: n}}}}")
    (tmp_path / "x.yaml").write_text(text.replace("val/accuracy", "test/accuracy"))
    run = next(iter(build_plan(load_sweep(tmp_path / "x.yaml"), tmp_path / "d").runs.values())).run
    data = load(run.dataset, tmp_path / "d")
    assert data.class_names == ("a", "b") and inputs(data.train.images).shape == (2, 3, 8, 8)


@pytest.mark.parametrize("prefix", ["", "{name}/", "C:\\data\\train\\{name}\\"])
def test_labels_that_name_their_images_in_another_order(prefix, tmp_path):
    """img2 before img10, as people count, where folders go img1, img10, img2."""
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(1, 13):
                Image.new("L", (8, 8)).save(tmp_path / split / name / f"{name}{number}.png")
    file, labels = tmp_path / "l.csv", {"file": {"path": str(tmp_path / "l.csv"), "key": "label"}}
    counted = [(name, f"{name}{number}") for name in ("a", "b") for number in range(1, 13)]
    for rows in (counted, sorted(counted)):
        lines = [f"{prefix.format(name=name)}{image}.png,{int(name == 'b')},x" for name, image in rows]
        file.write_text("\n".join(["image,label,by", *lines]))
        folder = Folder.model_validate({"path": str(tmp_path), "name": "n", "labels": labels})
        if rows != counted:
            assert load(folder, tmp_path / "d").noise == {"labels.file": 0.0}
            continue
        with pytest.raises(DataError, match=r"not in the order of the images.*'image' has .*a2 at place 1.*a10 is"):
            load(folder, tmp_path / "d")


def test_ids_hang_on_no_processs_own_hashes(write_sweep, tmp_path):
    """What is kept in sets has another order in every process."""
    code = (
        "import sys; from pathlib import Path; from kdtune.planning.plan import build_plan;"
        "from kdtune.sweepfile.load import load_sweep; plan = build_plan(load_sweep(sys.argv[1]), Path(sys.argv[2]));"
        "print([each.id for each in plan.places], [each.hash for each in plan.evaluation], [*plan.metrics])"
    )
    entries = "[accuracy, agreement, {corruptions: {}}, {pgd: {eps: [0.1, 0.2], loss: [margin, scaled]}, on: val}]"
    file = write_sweep(SMALL.replace("[accuracy]", entries))
    plan = build_plan(load_sweep(file), tmp_path)  # with the hashes of this process, which are drawn
    here = [each.id for each in plan.places], [each.hash for each in plan.evaluation], [*plan.metrics]
    words, environ = [sys.executable, "-c", code, file, tmp_path], os.environ | {"PYTHONHASHSEED": "1"}
    there = subprocess.run(words, env=environ, capture_output=True, check=True, cwd=ROOT, text=True).stdout
    assert there.split() == " ".join(map(str, here)).split()


def test_weights_that_lie_transposed_in_memory():
    network, again = nn.Linear(3, 5), nn.Linear(3, 5)
    network.weight = nn.Parameter(torch.randn(3, 5).t())
    found = safetensors.torch.load(weights.save(network))
    weights.load(again, weights.save(network))
    assert torch.equal(found["weight"], network.weight) and torch.equal(again.weight, network.weight)
    convolution = nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)
    assert torch.equal(safetensors.torch.load(weights.save(convolution))["weight"], convolution.weight)
