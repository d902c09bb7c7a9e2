"""What is explained is what is checked: keys, types, ranges, defaults; the reference and the schema are made of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kdtune.__main__ import main
from kdtune.cli.explain import reference
from kdtune.config import Sweep
from kdtune.kinds import PLACEHOLDER, Kind
from kdtune.sweepfile.reference import Key, NoSuchKey, explained, needed
from kdtune.sweepfile.schema import Schema
from kdtune.sweepfile.source import read_source

ROOT = Path(__file__).parents[2]
SHARE = "the share of the teacher; required but for `calibrated`"
DEVIATION = "standard deviation in pixel units, images in [0, 1]"
GIVEN = "a teacher of one's own: loaded, evaluated, never trained"
SWEEPS = sorted((ROOT / "sweeps").glob("*.yaml"))


def key(path: str, name: str) -> Key:
    return next(each for each in explained(path).keys if each.name == name)


@pytest.mark.parametrize(
    ("path", "name", "type", "default", "note"),
    [
        ("", "seeds", "a count, or a list of seeds", "required", ""),
        ("student.distillation", "alpha", "number in [0, 1] or null", "off", SHARE),
        ("student.loss.dkd", "temperature", "number in [0.1, 1000]", "required", ""),
        ("student.distillation", "divergence", "forward | reverse", "default forward", ""),
        ("recipe.optimizer.sgd", "lr", "number above 0", "required", ""),
        ("recipe", "epochs", "whole number in [1, 1e+06]", "required", ""),
        ("dataset", "validation", "number in (0, 1) or null", "off", ""),
        ("dataset", "labels", "mapping of labels knobs by name", "off", ""),
        ("noise.input.gaussian", "sigma", "number in [0, 1]", "required", DEVIATION),
        ("evaluation.pgd", "eps", "list of: number in [0, 1]", "default [0.031]", "pixel units, images in [0, 1]"),
        ("student.model.wrn-16-2", "dropout", "number in [0, 1]", "default 0", ""),
        ("teacher", "checkpoint", "path, relative to the sweep file or null", "off", GIVEN),
    ],
)
def test_keys_with_types_defaults_and_units(path: str, name: str, type: str, default: str, note: str) -> None:
    assert key(path, name) == Key(name, type, default, note)


def test_a_value_a_family_and_what_no_model_has() -> None:
    sigma = explained("noise.input.gaussian.sigma")
    assert sigma.title == "number in [0, 1]; required" and "pixel units" in sigma.about
    optimizers = explained("recipe.optimizer")
    assert list(optimizers.kinds) == ["sgd", "adam", "adamw"] and "torch.optim.SGD" in optimizers.kinds["sgd"]
    assert "blocks" in explained("grid").about
    assert {each.name for each in explained("").keys} == {*Sweep.model_fields, "recipe", "grid", "search", "profiles"}


def test_below_an_axis_of_a_search_stands_what_stands_below_its_space() -> None:
    space, axis = explained("search.space"), explained("search.space.sigma")
    assert axis.kinds == space.kinds and "[lower, upper]`, both above 0" in axis.kinds["loguniform"]
    assert explained("search.space.sigma.uniform").keys == explained("search.space.uniform").keys
    assert explained("search.space.sigma.loguniform.lower").title == "number above 0; required"
    done = CliRunner().invoke(main, ["explain", "search.space.sigma"])
    assert done.exit_code == 0 and "quniform    `quniform: [lower, upper, q]`: the multiples of q" in done.output


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("search.space.sigma.unifrom", "search.space.sigma: unknown distribution 'unifrom'; did you mean uniform?"),
        ("search.space.sigma.uniform.q", "search.space.sigma.uniform: unknown key 'q'"),
        ("search.space.", "search.space: unknown distribution ''"),
        ("search.trails", "did you mean trials?"),
        ("studnet", "a sweep file: unknown key 'studnet'; did you mean student?"),
        ("noise.inptu", "noise: unknown key 'inptu'; did you mean input?"),
        ("student.model.wrn16", "did you mean wrn-16-2?"),
        (
            "student.distillation.alpha.x",
            "student.distillation.alpha is number in [0, 1] or null; nothing stands below it",
        ),
        ("evaluation.pdg", "did you mean pgd?"),
        ("..", "unknown key ''"),
    ],
)
def test_what_is_not_there_names_what_is_near(path: str, said: str) -> None:
    with pytest.raises(NoSuchKey) as caught:
        explained(path)
    assert said in str(caught.value)
    done = CliRunner().invoke(main, ["explain", path])
    assert done.exit_code == 2 and said in done.output


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("temperature", ["student.distillation.temperature", "student.loss.dkd.temperature"]),
        ("pgd", ["student.noise.input.pgd", "evaluation.pgd"]),
        ("epochs", ["recipe.epochs"]),
        ("tpe", ["search.sampler.tpe"]),
        ("schedule.cosine", ["recipe.schedule.cosine"]),
        ("gaussian.sigma", ["student.noise.input.gaussian.sigma"]),
    ],
)
def test_a_bare_name_and_the_end_of_a_path_are_answered_with_where_they_stand(name: str, places: list[str]) -> None:
    done = CliRunner().invoke(main, ["explain", name])
    assert done.exit_code == 2 and done.output.splitlines()[: len(places) + 1] == [f"{name} stands at:", *places]
    for path in done.output.splitlines()[1:]:
        assert explained(path)


def test_what_is_needed_where_something_is_missing() -> None:
    assert needed("recipe.optimizer.sgd.lr") == "number above 0 would do: kdtune explain recipe.optimizer.sgd"
    assert needed("recipe.optimizer") == "one of sgd, adam, adamw would do: kdtune explain recipe.optimizer"
    assert needed("recipe").startswith("a mapping with optimizer, schedule, ")
    assert needed("nowhere.at.all") == "nothing stands in for it"


def test_every_kind_is_explained_with_its_fields() -> None:
    """Under the name that a sweep file has for it."""
    families = {"dataset", "student.model", "recipe.optimizer", "recipe.schedule", "student.loss", "evaluation"}
    families |= {f"student.noise.{point}" for point in ("input", "teacher", "target")} | {"dataset.labels"}
    families |= {"search.space", "search.sampler"}
    seen = set()
    for path in families:
        for name in explained(path).kinds:
            kind = explained(f"{path}.{PLACEHOLDER.sub('16', name)}")
            assert kind.about, name
            seen.add(kind.source)
    bases = [family for family in subclasses(Kind) if family.__dict__.get("family") is family]
    bases = [family for family in bases if family.__module__.startswith("kdtune.")]  # other tests have their own
    assert len(bases) == 12
    assert seen == {f"{one.__module__}.{one.__qualname__}" for family in bases for one in family.kinds().values()}


def subclasses(kind: type) -> set[Any]:
    return {each for direct in kind.__subclasses__() for each in {direct} | subclasses(direct)}


def test_the_reference_is_made_of_the_models() -> None:
    """`kdtune explain --reference > docs/reference.md`"""
    assert (ROOT / "docs/reference.md").read_text() == "\n".join(reference()) + "\n"


def test_neither_loads_torch_or_ray() -> None:
    for words in (["explain", "student.distillation"], ["explain", "--reference"], ["schema"]):
        code = f"import sys; sys.argv[1:] = {words}; from kdtune.__main__ import main\n"
        code += "try: main()\nexcept SystemExit: pass\nprint(sorted({'torch', 'ray', 'pandas'} & set(sys.modules)))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[]" and len(done.stdout.splitlines()) > 5


# The schema


@pytest.fixture(scope="module")
def validator() -> Any:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema, which ray asks for, is not installed")
    document = json.loads(CliRunner().invoke(main, ["schema"]).output)
    assert document == Schema().document()
    jsonschema.Draft202012Validator.check_schema(document)
    return jsonschema.Draft202012Validator(document)


def plain(tree: Any) -> Any:
    """A sweep file's tree in JSON's own types."""
    if isinstance(tree, dict):
        return {str(name): plain(value) for name, value in tree.items()}
    return [plain(each) for each in tree] if isinstance(tree, list) else tree


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_the_schema_takes_every_sweep_file(validator: Any, path: Path) -> None:
    assert not list(validator.iter_errors(plain(read_source(path).tree)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("alpha: 0.9", "alhpa: 0.9"),
        ("alpha: 0.9", "alpha: 1.9"),
        ("alpha: 0.9", "alpha: high"),
        ("wrn-16-2", "wrn-16"),
        ("sgd: {lr: 0.1", "sgdd: {lr: 0.1"),
        ("rule: best", "rule: bets"),
        ("seeds: 5  ", "seeds: 0  "),
        ("  - accuracy\n", "  - accurazy\n"),
        ("noise:\n    teacher", "noise:\n    teachers"),
        ("  quick:\n", "  quick:\n    studnet: {}\n"),
        ("dataset: cifar10\n", "dataset: cifar11\n"),
        ("batch_size: 128", "batch_size: 128.5"),
    ],
)
def test_the_schema_refuses_what_the_reader_would(validator: Any, tmp_path: Path, old: str, new: str) -> None:
    text = (ROOT / "sweeps/fickle.yaml").read_text()
    assert old in text
    (tmp_path / "wrong.yaml").write_text(text.replace(old, new, 1))
    assert list(validator.iter_errors(plain(read_source(tmp_path / "wrong.yaml").tree)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("trials: 100", "trial: 100"),
        ("trials: 100", "trials: 0"),
        ("accuracy: max", "accuracy: maximum"),
        ("{tpe: {startup: 20}}", "{tpe: {start: 20}}"),
        ("{tpe: {startup: 20}}", "{tpo: {startup: 20}}"),
        ("lag: 16", "lag: 0"),
        ("loguniform: [0.005", "lognormal: [0.005"),
        ("loguniform: [0.005, 0.5]", "loguniform: [0.005]"),
        ("loguniform: [0.005, 0.5]", "loguniform: [0.0, 0.5]"),
        ("loguniform: [0.005, 0.5]", "loguniform: [low, 0.5]"),
        ("loguniform: [0.005, 0.5]", "loguniform: {lower: 0.005, uper: 0.5}"),
        ("quniform: [1, 16, 0.5]", "quniform: [1, 16]"),
        ("quniform: [1, 16, 0.5]", "quniform: [1, 16, 0.5, 2]"),
        ("choice: [0.0, 0.2, 0.4]", "choice: [0.0]"),
        ("sigma: {loguniform: [0.005, 0.5]}", "sigma: [0.005, 0.5]"),
        ("points: 3, seeds: 5", "point: 3, seeds: 5"),
        ("  lag: 16", "  teachers: few\n  lag: 16"),
        ("search: {trials: 30, seeds: 2,", "search: {trails: 30, seeds: 2,"),
    ],
)
def test_the_schema_refuses_slips_of_a_search(validator: Any, tmp_path: Path, old: str, new: str) -> None:
    text = (ROOT / "sweeps/search.yaml").read_text()
    assert old in text
    (tmp_path / "wrong.yaml").write_text(text.replace(old, new, 1))
    assert list(validator.iter_errors(plain(read_source(tmp_path / "wrong.yaml").tree)))
    (tmp_path / "right.yaml").write_text(text.replace("loguniform: [0.005, 0.5]", "randint: {lower: 1, upper: 5}"))
    assert not list(validator.iter_errors(plain(read_source(tmp_path / "right.yaml").tree)))
