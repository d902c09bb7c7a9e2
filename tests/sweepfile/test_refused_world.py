"""What a sweep in the oracle's world may not say: refused with line and place, or before the start, each in words."""

from __future__ import annotations

from pathlib import Path

import pytest
from world import DATA, ROBUST, SOURCED, STUDENT, TEACHER, WORLD, planned

from kdtune.data.error import DataError
from kdtune.sweepfile.tree import SweepFileError
from kdtune.training.preflight import preflight

DIGITS = "{digits: {}, train_size: 60, validation: 0.2}"
LOSS = "  loss: {mse: {}}\n"


def world(there: str, instead: str, text: str = WORLD) -> str:
    assert there in text
    return text.replace(there, instead)


def knobs(said: str, loss: str = LOSS) -> str:
    return world(LOSS, f"{loss}  noise: {said}\n")


def measured(entry: str, text: str = WORLD) -> str:
    return world("[accuracy]", f"[accuracy, {entry}]", text)


def teacher(said: str) -> str:
    return world("untrained: true", said)


ALONE = world(TEACHER, "", world(LOSS, ""))
PGD = "pgd: {norm: l2, eps: 0.5, step: 0.25, steps: 2, climbs: teacher}"
# fmt: off
REFUSED: dict[str, tuple[str, str]] = {
    "rank": (world("rank: 4", "rank: 13"), ":2: dataset.gaussian: rank: 13 of 12 dimensions"),
    "no teacher": (ALONE, "have the labels that a teacher gives them, and there is no teacher"),
    "no teacher for mse": (world(TEACHER, ""), "student.loss.mse is set, but there is no teacher"),
    "a source without": (
        world(TEACHER, "", world(DATA, DIGITS, SOURCED)), "source.loss.mse is set, but there is no teacher"),
    "trained": (world("untrained: true, ", ""), ":2: dataset: Gaussian points of rank 4 in 12 dimensions have"),
    "mse beside distillation": (
        world(LOSS, f"{LOSS}  distillation: {{alpha: 0.9, temperature: 4}}\n"), "names the loss mse and distillation"),
    "targets beside mse": (
        knobs("{target: {variability: {rate: 0.1}}}"), "noise.target.variability changes labels, and the loss mse"),
    "targets beside rslad": (
        knobs(f"{{input: {{{PGD}}}, target: {{smoothing: {{rate: 0.1}}}}}}", "  loss: {rslad: {clean: 0.2}}\n"),
        "noise.target.smoothing changes labels, and the loss rslad sees none"),
    "within nothing known": (
        world("rank: 4", "rank: null", knobs("{input: {gaussian: {sigma: 0.1, within: complement}}}")),
        "within: complement: this data set fills no subspace that is known"),
    "within moved": (
        world("validation: 0.2}", "validation: 0.2, moments: {mean: [1,1,1,1,1,1,1,1,1,1,1,1],"
              " std: [1,1,1,1,1,1,1,1,1,1,1,1]}}", knobs("{input: {gaussian: {sigma: 0.1, within: subspace}}}")),
        "within: subspace: this data set fills no subspace that is known"),
    "clamp": (knobs("{input: {gaussian: {sigma: 0.1, clamp: true}}}"), "cuts images off at 0 and 1"),
    "labels for all": (
        world(DATA, "{digits: {}, train_size: 60, labels: {teacher: {rate: 1.0}}}"),
        ":2: dataset: dataset.labels.teacher asks a teacher, and a teacher has none: write it below student.dataset"),
    "only at a teacher": (
        world(DATA, DIGITS, teacher("untrained: true, dataset: {only: errors}")), "only: errors asks a teacher"),
    "perturbed at a teacher": (
        teacher("untrained: true, dataset: {perturbed: {norm: l2, eps: 0.5, step: 0.1, steps: 2}}"),
        ":10: teacher.dataset: dataset.perturbed asks a teacher"),
    "errors of the truth": (
        world("student:\n", "student:\n  dataset: {only: errors}\n"), "only: errors asks for the teacher's answers"),
    "the truth as labels": (
        world("source:\n", "source:\n  dataset: {labels: {teacher: {rate: 0.5}}}\n", SOURCED),
        "labels.teacher asks for the teacher's answers, and the labels of Gaussian points"),
    "robust without a source": (
        world(STUDENT, ROBUST), ":13: student.dataset: robust takes images from a source, and there is none"),
    "robust for all": (
        world("validation: 0.2}", "validation: 0.2, robust: {steps: 2, step: 0.1}}", SOURCED),
        ":2: dataset: dataset.robust takes images from a source, and a teacher has none"),
    "robust at the source": (
        world("source:\n", "source:\n  dataset: {robust: {steps: 2, step: 0.1}}\n", SOURCED),
        ":12: source.dataset: dataset.robust takes images from a source, and a source has none"),
    "robust in half": (world("{steps: 20, step: 0.2}", "{steps: 20}", SOURCED), "robust.step: is missing"),
    "a source of other images": (
        world("source:\n", "source:\n  dataset: {digits: {}}\n", SOURCED), "a source answers for its student's images"),
    "a source's calibration": (
        world("climbs: oracle", "climbs: labels", world(
            "loss: {mse: {teacher_sees: shown}}", "distillation: {calibrated: calibration}", SOURCED)),
        ":13: source.distillation.calibrated: came 'calibration'; no entry of evaluation is called so"),
    "calibrated alone": (
        knobs("{target: {calibrated: {norm: l2, eps: 0.5, rho: 10}}}", ""),
        "noise.target.calibrated hangs on how far noise.input moves an image, and no knob there does"),
    "calibrated beside a knob that is off": (
        knobs("{input: {gaussian: {sigma: 0}}, target: {calibrated: {norm: l2, eps: 0.5, rho: 10}}}", ""),
        "and no knob there does"),
    "an oracle that the loss does not ask": (
        knobs(f"{{input: {{{PGD.replace('teacher', 'oracle')}}}}}", ""), "and there is none that the loss asks"),
    "untrained from a file": (
        teacher("untrained: true, checkpoint: x.pt").replace("select: {rule: paired}", "seeds: null"),
        "a teacher with a checkpoint has the weights that stand there; remove untrained"),
    "untrained with noise": (
        teacher("untrained: true, noise: {input: {gaussian: {sigma: 0.1}}}"),
        "noise.input is how a teacher is trained, and an untrained one is not trained; remove it"),
    "untrained with a loss": (teacher("untrained: true, loss: {ce: {}}"), "loss is how a teacher is trained, and an"),
    "the best of oracles": (
        world("{rule: paired}", "{rule: best, metric: val/accuracy}"), ":10: teacher.select.rule: came best: each"),
    "weights that it has not kept": (
        measured("{pgd: {eps: 0.1, step: 0.1, steps: 2}, of: last}").replace(
            "epochs: 3", "epochs: 3\n  keep: {best: val/accuracy}"), "that is not trained here has none such"),
    "a ball in linf": (measured("{oracle: {norm: linf, subspace: data}}"), ":14: evaluation.1.oracle: subspace: a"),
    "specialization of nobody's student": (
        measured("specialization", world(DATA, DIGITS, ALONE)), "specialization compares networks with their teacher"),
    "oracle without one": (measured("oracle", world(DATA, DIGITS, ALONE)), "oracle compares networks with their"),
    "specialization in a crowd": (
        measured("specialization").replace("rule: paired", "rule: average"), "and rule: average has logits alone"),
    "stored answers": (
        world(LOSS, "  distillation: {alpha: 0.9, temperature: 4, responses: stored}\n"),
        "are of images of 8 bits; those of this data set are moved or drawn"),
    "stored answers to what is moved": (
        world(DATA, DIGITS, SOURCED.replace(
            ROBUST, ROBUST + "  distillation: {alpha: 0.9, temperature: 4, responses: stored}\n")), "moved or drawn"),
}
PIXELS = "are no images of 8 bits, whose pixels are in [0, 1]; take it out of `evaluation`"
LATER: dict[str, tuple[str, str]] = {
    **{entry: (measured(entry), PIXELS) for entry in (
        "corruptions", "{autoattack: {eps: 0.1}}", "{masking: {eps: 0.1, step: 0.05}}", "distance", "fooled",
        "{planted: {eps: 0.1, step: 0.05}}")},
    "plane": (measured("plane"), "it is for inputs of two numbers"),
    "flip": (world("epochs: 3", "epochs: 3\n  augmentation: {flip: {}}"), "look the same mirrored; remove it"),
    "crop": (world("epochs: 3", "epochs: 3\n  augmentation: {crop: {padding: 2, mode: zero}}"), "it is not: reflect"),
    "reflect": (
        world("epochs: 3", "epochs: 3\n  augmentation: {crop: {padding: 2, mode: reflect}}"), "be reflected by 2"),
    "a subspace nobody knows": (
        measured("{oracle: {subspace: data}}", world(DATA, DIGITS)), "no subspace is known; {pca: 50} takes one"),
    "too many directions": (measured("{oracle: {subspace: {pca: 13}}}"), "span at most 12 directions"),
    "too few rows": (
        world("width: 4", "width: 40", world("dimension: 12, rank: 4", "dimension: 1")), "there are not 40 rows of 1"),
    "normalization": (
        world(LOSS, f"{LOSS}  normalization: {{mean: [0.5], std: [0.5]}}\n"), "has 1 channels, and the images have 12"),
}
# fmt: on


@pytest.mark.parametrize(("text", "said"), REFUSED.values(), ids=REFUSED)
def test_what_a_file_may_not_say(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises((SweepFileError, DataError)) as caught:
        planned(text, tmp_path)
    assert said in str(caught.value)
    if caught.type is SweepFileError:
        assert "world.yaml:" in str(caught.value)


@pytest.mark.parametrize(("text", "said"), LATER.values(), ids=LATER)
def test_what_is_told_before_the_start(text: str, said: str, tmp_path: Path) -> None:
    plan = planned(text, tmp_path)
    problems = preflight(plan.runs, [*plan.runs], [*plan.runs], plan.evaluation, tmp_path)
    assert len(problems) == 1 and said in problems[0]


@pytest.mark.parametrize("text", [WORLD, SOURCED, world("rule: paired", "rule: average", measured("oracle"))])
def test_what_is_well_said_is_not_refused(text: str, tmp_path: Path) -> None:
    plan = planned(text, tmp_path)
    assert preflight(plan.runs, [*plan.runs], [*plan.runs], plan.evaluation, tmp_path) == []
