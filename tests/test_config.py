"""Identity: what is stated decides a run's id, what is off does not, and neither does where things lie."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from kdtune.noise.noise import Noise
from kdtune.recipe import Optimizer, Recipe
from kdtune.run import Run

RECIPE = {
    "optimizer": {"sgd": {"lr": 0.1, "momentum": 0.9}},
    "schedule": {"step": {"milestones": [0.5], "factor": 0.1}},
    "precision": "float32",
    "batch_size": 20,
    "epochs": 3,
}
STATED = {
    "dataset": {"digits": {}},
    "content": {"name": "digits", "digest": "0123", "seed": 0},
    "model": "wrn-16-2",
    "recipe": RECIPE,
    "seed": 1,
}


def run(**changes) -> Run:
    return Run.model_validate({**STATED, **changes})


def test_an_id_is_pinned():
    """If this fails, every run of every user has a new id: raise RECIPE_VERSION and say so in CHANGELOG."""
    assert run().id == "c3d5a49277f4"


def test_what_is_off_is_not_written():
    plain = run()
    for off in (
        {"noise": {"input": {"gaussian": {"sigma": 0}}}},
        {"noise": {"teacher": {"dropout": {"rate": 0.0}}}},
        {"noise": {"teacher": {"dropout": {"rate": 0.0, "bn": "train", "passes": 8}}}},
        {"noise": {"target": {"variability": {"rate": 0}, "smoothing": {"rate": 0}}}},
        {"model": {"wrn-16-2": {"dropout": 0}}},
        {
            "recipe": {
                **RECIPE,
                "optimizer": {"sgd": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0, "nesterov": False}},
            }
        },
        {"recipe": {**RECIPE, "augmentation": {}}},
        {"normalization": None},
        {"recipe": {**RECIPE, "keep": None}},
    ):
        assert run(**off).id == plain.id, off
    assert "noise" not in plain.description


def test_a_teacher_that_sees_what_is_shown_sees_the_clean_image_where_no_knob_changes_it():
    """So that strength 0 of the control is plain distillation, as everywhere."""

    def distilled(teacher_sees: str, sigma: float) -> str:
        how = {"alpha": 0.9, "temperature": 4, "teacher_sees": teacher_sees}
        return run(loss={"kd": how}, noise={"input": {"gaussian": {"sigma": sigma}}}).id

    plain = run(loss={"kd": {"alpha": 0.9, "temperature": 4}}).id
    assert distilled("clean", 0) == distilled("shown", 0) == plain
    assert len({plain, distilled("clean", 0.1), distilled("shown", 0.1)}) == 3


def test_every_stated_value_counts():
    changes = [
        {"seed": 2},
        {"model": "wrn-16-1"},
        {"model": {"wrn-16-2": {"dropout": 0.1}}},
        {"content": {"name": "digits", "digest": "0124", "seed": 0}},
        {"recipe": {**RECIPE, "epochs": 4}},
        {"recipe": {**RECIPE, "keep": {"best": "val/accuracy"}}},
        {"recipe": {**RECIPE, "augmentation": {"flip": {}}}},
        {"noise": {"input": {"gaussian": {"sigma": 0.1}}}},
        {"noise": {"input": {"gaussian": {"sigma": 0.1, "clamp": True}}}},
        {"noise": {"teacher": {"dropout": {"rate": 0.1}}}},
        {"noise": {"teacher": {"dropout": {"rate": 0.1, "bn": "train"}}}},
        {"noise": {"teacher": {"dropout": {"rate": 0.1, "passes": 2}}}},
        {"noise": {"target": {"variability": {"rate": 0.1}}}},
        {"noise": {"target": {"variability": {"rate": 0.1, "classes": "any"}}}},
        {"noise": {"target": {"smoothing": {"rate": 0.1}}}},
        {"noise": {"target": {"variability": {"rate": 0.1}, "smoothing": {"rate": 0.1}}}},
        {"loss": {"kd": {"alpha": 0.9, "temperature": 4}}},
        {"loss": {"kd": {"alpha": 0.9, "temperature": 4, "divergence": "reverse"}}},
        {"teacher": {"runs": ["a", "b"], "rule": "best", "metric": "val/accuracy", "evaluator": "e"}},
        {"teacher": {"runs": ["b", "a"], "rule": "best", "metric": "val/accuracy", "evaluator": "e"}},
        {"normalization": {"mean": [0.5], "std": [0.2]}},
    ]
    ids = [run().id, *(run(**change).id for change in changes)]
    assert len(set(ids)) == len(ids)


def test_spelling_and_order_of_keys_do_not_count():
    assert run(model="WRN_16_2").id == run().id
    assert run(recipe=dict(reversed(RECIPE.items()))).id == run().id
    assert run(recipe={**RECIPE, "optimizer": {"sgd": {"momentum": 0.9, "lr": 1e-1}}}).id == run().id


def test_where_things_lie_does_not_count():
    folders = [{"folder": {"path": path, "name": "Mine"}} for path in ("/here", "/there")]
    assert run(dataset=folders[0]).id == run(dataset=folders[1]).id
    checkpoints = [run(recipe=None, seed=None, checkpoint=path, checkpoint_digest="d") for path in ("/a.pt", "/b.pt")]
    assert checkpoints[0].id == checkpoints[1].id


def test_a_renaming_counts_in_its_order_and_none_leaves_no_trace():
    """The same file with other weights at other places is another teacher."""
    given = {"recipe": None, "seed": None, "checkpoint": "a.pt", "checkpoint_digest": "d"}
    entries = [("conv1", "a"), ("conv2", "b")]
    plain, one, other = (run(**given, rename=each) for each in ((), entries, entries[::-1]))
    assert "rename" not in plain.description
    assert len({plain.id, one.id, other.id}) == 3
    again = Run.model_validate(json.loads(json.dumps(one.model_dump(mode="json"))))
    assert again.id == one.id


def test_a_run_survives_the_way_to_another_process():
    original = run(
        noise={"input": {"gaussian": {"sigma": 0.1}}, "teacher": {"dropout": {"rate": 0.2}}},
        model={"wrn-16-2": {"dropout": 0.1}},
        loss={"kd": {"alpha": 0.9, "temperature": 4}},
    )
    again = Run.model_validate(json.loads(json.dumps(original.model_dump(mode="json"))))
    assert (again.id, again.description, again.noise) == (original.id, original.description, original.noise)


def test_numbers_must_be_numbers_and_kinds_known():
    with pytest.raises(ValidationError, match="valid number"):
        Optimizer.model_validate({"sgd": {"lr": "0.1"}})
    with pytest.raises(ValidationError, match="exactly one of sgd"):
        Optimizer.model_validate({})
    with pytest.raises(ValidationError, match="milestones must rise"):
        Recipe.model_validate({**RECIPE, "schedule": {"step": {"milestones": [0.6, 0.3], "factor": 0.1}}})
    with pytest.raises(ValidationError, match="val/"):
        Recipe.model_validate({**RECIPE, "keep": {"best": "test/accuracy"}})
    with pytest.raises(ValidationError, match="unknown input knob 'gausian'; did you mean gaussian"):
        Noise.model_validate({"input": {"gausian": {"sigma": 0.1}}})


def test_knobs_of_a_point_keep_their_written_order():
    noise = Noise.model_validate({"teacher": {"dropout": {"rate": 0.1}}})
    assert list(noise.knobs("teacher")) == ["dropout"]
    swap, signal = {"rate": 0.1, "pairs": "top2", "threshold": 0.2}, {"sigma": 0.1}
    both = [run(noise={"teacher": written}) for written in ({"swap": swap, "signal_noise": signal},
                                                            {"signal_noise": signal, "swap": swap})]  # fmt: skip
    assert [list(each.noise.knobs("teacher")) for each in both] == [["swap", "signal_noise"], ["signal_noise", "swap"]]
    assert both[0].id != both[1].id, "they compose in that order"
    assert noise.knobs("input") == {}
    assert Noise.model_validate({"teacher": {"dropout": {"rate": 0}}}).knobs("teacher") == {}


def test_a_copy_has_an_id_of_its_own():
    """pydantic copies cached properties too: the id of the original would be the copy's."""
    original = run()
    assert original.id == run().id, "worked out and kept"
    assert original.model_copy(update={"seed": 2}).id == run(seed=2).id != original.id
    assert original.model_copy(update={"seed": 2}).description["seed"] == 2


def test_only_runs_in_bfloat16_say_how_they_compute_in_it() -> None:
    """They once computed every step with the weights of the first: those runs are other runs."""
    half = run(recipe={**RECIPE, "precision": "bfloat16"})
    assert half.description["bfloat16_version"] == 1 and "bfloat16_version" not in run().description
