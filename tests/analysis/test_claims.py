"""Claims judged from tables whose effects are known: the rules of a verdict, scopes, and tables that lack things."""

from __future__ import annotations

import csv
import importlib
import json
import random
import statistics
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from analysis.tables import ANALYSIS, SCRIPTS, Row, mean_and_interval, sweep, unfinish, write

import kdtune
from kdtune.report.table import rows as rows_of
from kdtune.report.table import to_parquet
from kdtune.statistics import paired_difference
from kdtune.store.standing import Standing
from kdtune.store.store import Store

ATTACKS = ("robust/pgd20", "masking/margin20", "masking/square", "masking/transfer", "robust/autoattack")
OTHERS = ("errors", "cross_domain", "two_dimensional", "robust_overfitting", "double_descent", "specialization")
SWEEPS = ("fickle", "softrand", "messy", "fixed_label_corruption", "noisy_labels", "signal_noise", "swap", *OTHERS)
UP, DOWN, NONE = (0.4, 0.5, 0.6, 0.45, 0.55), (-0.4, -0.5, -0.6, -0.45, -0.55), (0.01, -0.02, 0.03, 0.0, 0.01)
OPEN = (-1.0, 2.0, 0.5, -0.4, 1.2)  # mean 0.46, half of its interval 1.5
HOLDS = (0.5, 0.4, 0.02, 0.04, 0.3)  # mean 0.25, half of its interval 0.27: neither off 0 nor small, and not lower


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Modules of analysis by name."""
    monkeypatch.syspath_prepend(str(ANALYSIS))
    yield importlib.import_module


def difference(values: Iterable[float]) -> Any:
    pairs = dict(enumerate(values))
    return paired_difference(pairs, dict.fromkeys(pairs, 0.0))


# --- the rules ---


@pytest.mark.parametrize(
    ("values", "higher", "lower", "unchanged", "not_lower"),
    [
        (UP, "reproduced", "contradicted", "contradicted", "reproduced"),
        (DOWN, "contradicted", "reproduced", "contradicted", "contradicted"),
        (NONE, "contradicted", "contradicted", "reproduced", "reproduced"),  # negligible
        (OPEN, "inconclusive", "inconclusive", "inconclusive", "inconclusive"),
        (HOLDS, "inconclusive", "inconclusive", "inconclusive", "reproduced"),
        ((0.06, 0.07, 0.05), "contradicted", "contradicted", "reproduced", "reproduced"),  # off 0, and too small
        ((-0.06, -0.07, -0.05), "contradicted", "contradicted", "reproduced", "reproduced"),
        (
            (0.0625, 0.0625, 0.0625),
            "contradicted",
            "contradicted",
            "reproduced",
            "reproduced",
        ),  # the same in every pair
        ((-1.5, -1.5), "inconclusive", "inconclusive", "inconclusive", "inconclusive"),  # grains of accuracy, by chance
        ((0.0, 0.0), "contradicted", "contradicted", "reproduced", "reproduced"),
        ((0.3,), "inconclusive", "inconclusive", "inconclusive", "inconclusive"),
        ((), "not measured", "not measured", "not measured", "not measured"),
    ],
)
def test_a_verdict_looks_at_the_interval_in_this_order(
    scripts: Any, values: tuple[float, ...], higher: str, lower: str, unchanged: str, not_lower: str
) -> None:
    judge, found = scripts("verdicts").judge, difference(values)
    if len(values) > 1 and len(set(values)) > 1:  # what the rows above say of the intervals, by a printed table of t
        _, low, high = mean_and_interval(list(values))
        assert (found.low, found.high) == pytest.approx((low, high), abs=1e-3)
    for direction, verdict in zip(
        ("higher", "lower", "unchanged", "not lower"), (higher, lower, unchanged, not_lower), strict=True
    ):
        assert judge(found, direction, 0.1).verdict == verdict, direction


def test_what_is_open_says_what_it_would_take(scripts: Any) -> None:
    judge = scripts("verdicts").judge
    wide = judge(difference(OPEN), "higher", 0.1).why
    assert wide == "not decidable at this budget: 2 would show, 0.1 takes 1,139 seeds"
    near = judge(difference(OPEN), "higher", 1.0).why
    assert near.startswith("2 would show, 1 takes ") and near.endswith(" seeds") and "budget" not in near
    # The normal approximation, (1.96 + 0.84)^2 sd^2 / effect^2, and two pairs more for the t distribution.
    sd = statistics.stdev(OPEN)
    assert int(near.split()[-2]) == pytest.approx(7.85 * sd**2 + 2, abs=1.5)
    assert "over 10,000 seeds" in judge(difference([100 * value for value in OPEN]), "higher", 0.1).why
    # To lie inside of +-1 in four of five trials each end must in nine of ten: (1.96 + 1.28)^2.
    assert int(judge(difference(OPEN), "unchanged", 1.0).why.split()[-2]) == pytest.approx(10.5 * sd**2 + 2, abs=1.5)
    assert judge(difference(NONE), "higher", 0.1).why == "negligible, within ±0.1"
    assert judge(difference([0.3]), "higher", 0.1).why == "one pair has no interval"


def test_every_needs_every_cell(scripts: Any) -> None:
    verdicts = scripts("verdicts")
    for words, verdict in {
        "reproduced reproduced": "reproduced",
        "reproduced inconclusive": "inconclusive",
        "reproduced inconclusive contradicted": "contradicted",
        "reproduced not_measured": "inconclusive",
        "contradicted not_measured": "contradicted",
        "not_measured not_measured": "not measured",
        "": "not measured",
    }.items():
        assert verdicts.every(verdicts.Verdict[word.upper()] for word in words.split()) == verdict, words


def test_one_of_several_is_held_to_holm(scripts: Any) -> None:
    verdicts = scripts("verdicts")
    alone = difference((0.9, 0.2, 0.3, 1.1, 0.5))  # p 0.026
    assert 0.02 < alone.p < 0.03 and verdicts.judge(alone, "higher", 0.1).verdict == "reproduced"

    def any_of(*found: Any) -> str:
        judgements = [verdicts.judge(each, "higher", 0.1) for each in found]
        kind = verdicts.Verdict.REPRODUCED
        return str(verdicts.any_of(verdicts.corrected(judgements, scripts("points").adjusted(found), kind)))

    assert any_of(alone) == "reproduced"
    assert any_of(alone, difference(OPEN), difference(OPEN)) == "inconclusive"  # 3 times 0.026
    assert any_of(difference(UP), difference(OPEN), difference(DOWN)) == "reproduced"
    assert any_of(difference(DOWN), difference(NONE)) == "contradicted"
    assert any_of(difference(DOWN), difference(OPEN)) == "inconclusive"
    assert any_of(None, None) == "not measured" and any_of(None, difference(UP)) == "reproduced"


# --- claims from tables ---


def softrand(effects: dict[str, dict[float, Iterable[float]]], teachers: int = 1, **flags: float) -> list[Row]:
    """Students with and without a teacher; by metric and sigma, what the first have over the second, seed by seed."""
    draw, found = random.Random(7), []
    for seed in range(max(teachers, 1)):
        found.append({"id": f"t{seed}", "role": "teacher", "seed": seed, "state": "done"})
    count = max(len([*values]) for of in effects.values() for values in of.values())
    for sigma in sorted({sigma for of in effects.values() for sigma in of}):
        for seed in range(count):
            lone = {"id": f"l{sigma}{seed}", "role": "student", "seed": seed, "state": "done", "sigma": sigma}
            soft = lone | {"id": f"s{sigma}{seed}", "kd": "yes", "distillation.alpha": 0.9, **flags}
            soft |= {"distillation.temperature": 4.0}
            soft |= {"teacher.id": f"t{seed % teachers}"}
            for metric, of in effects.items():
                values = [*of[sigma]]
                if seed < len(values):
                    lone[metric] = draw.uniform(50, 60)
                    soft[metric] = lone[metric] + values[seed]
                if metric == "masking/transfer":
                    del lone[metric]
            found += [lone, soft]
    network = {"recipe.batch_size": 128, "recipe.optimizer.sgd.lr": 0.1, "recipe.epochs": 200}
    network |= {"recipe.optimizer.sgd.momentum": 0.9, "recipe.optimizer.sgd.weight_decay": 0.0005}
    network |= {"recipe.precision": "float32", "recipe.schedule.step.factor": 0.2}
    return [row | network | {f"model.wrn-{40 if row['role'] == 'teacher' else 16}-2": True} for row in found]


def scaled(values: Iterable[float], by: float = 10) -> list[float]:
    """Effects on robust accuracy, whose smallest of interest is ten times that of accuracy."""
    return [by * value for value in values]


def run(scripts: Any, folder: Path, *arguments: str) -> int:
    return int(scripts("claims").command([str(folder), *arguments]))


def rows(folder: Path, claim: str = "", metric: str = "") -> list[dict[str, str]]:
    with open(folder / "figures/claims.csv", newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    return [row for row in found if claim in ("", row["claim"]) and metric in ("", row["metric"])]


def words(folder: Path) -> str:
    return " ".join((folder / "figures/claims.md").read_text(encoding="utf-8").split())


def place(folder: Path, table: list[Row], name: str = "softrand", **about: str) -> Path:
    return write(folder, name, table, **about)


@pytest.mark.parametrize(
    ("small", "large", "verdict"),
    [
        (UP, UP, "reproduced"),
        (UP, OPEN, "inconclusive"),
        (UP, NONE, "contradicted"),
        (UP, DOWN, "contradicted"),
        (OPEN, OPEN, "inconclusive"),
    ],
)
def test_a_claim_at_every_sigma(scripts: Any, tmp_path: Path, small: Any, large: Any, verdict: str) -> None:
    effects = {"test/accuracy": {0.02: small, 0.2: large}, "robust/pgd20": {0.02: scaled(UP), 0.2: scaled(UP)}}
    folder = place(tmp_path, softrand(effects))
    assert run(scripts, folder) == 0
    accuracy = rows(folder, "A4", "test/accuracy")
    assert {row["verdict"] for row in accuracy} == {verdict}
    assert {row["claim verdict"] for row in rows(folder, "A4")} == {verdict}  # PGD alone would bear it out
    for row, values in zip(accuracy, (small, large), strict=True):
        mean, low, high = mean_and_interval([*values])
        assert [float(row[name]) for name in ("difference", "low", "high")] == pytest.approx(
            [mean, low, high], abs=1e-3
        )
        assert (row["pairs"], row["planned"], row["smallest"]) == ("5", "5", "0.1")


@pytest.mark.parametrize(
    ("others", "verdict"), [((OPEN, OPEN), "inconclusive"), ((), "reproduced"), ((UP,), "reproduced")]
)
def test_a_claim_at_one_rate_of_several(
    scripts: Any, tmp_path: Path, others: tuple[tuple[float, ...], ...], verdict: str
) -> None:
    of = dict(zip((0.1, 0.2, 0.3), ((0.9, 0.2, 0.3, 1.1, 0.5), *others), strict=False))  # the first: p 0.026
    table: list[Row] = []
    for rate, values in {0.0: (0.0,) * 5, **of}.items():
        table.append({"id": f"t{rate}", "role": "teacher", "seed": 0, "state": "done", "dropout": rate})
        for seed, value in enumerate(values):
            row = {"id": f"s{rate}{seed}", "role": "student", "seed": seed, "state": "done", "dropout": rate}
            row |= {"teacher.id": f"t{rate}", "distillation.alpha": 0.9, "recipe.epochs": 250}
            table.append(row | {"test/accuracy": 93 + 0.1 * seed + value})
    folder = write(tmp_path, "fickle", table)
    assert run(scripts, folder) == 0
    found = rows(folder, "A1", "test/accuracy")
    assert {row["verdict"] for row in found} == {verdict} and len(found) == len(of)
    expected = min(1.0, len(of) * float(found[0]["p"])) if verdict == "inconclusive" else float(found[0]["p"])
    assert float(found[0]["p holm"]) == pytest.approx(expected)  # the smallest of all, or the larger of two


@pytest.mark.parametrize(
    ("change", "believable", "said"),
    [
        ({}, "reproduced", "AutoAttack reproduced"),
        ({"masking/margin20": NONE}, "contradicted", "margin PGD contradicted"),
        ({"masking/square": OPEN}, "inconclusive", "gradient-free inconclusive"),
        ({"robust/autoattack": DOWN}, "contradicted", "AutoAttack contradicted"),
        ({"distance/median": UP}, "reproduced", "distance reproduced"),
        ({"distance/median": DOWN}, "contradicted", "distance contradicted"),
        ({"robust/autoattack": None}, "not established", "AutoAttack not measured"),
        ({"robust/autoattack": None, "masking/margin20": NONE}, "not established", "margin PGD contradicted"),
        ({"flags": 1.0}, "not established", "flags up: square_wins"),
        ({"radii": '{"pgd": 0.08, "masking": 0.08, "autoattack": 0.031}'}, "not established", "AutoAttack at another"),
        ({"radii": '{"pgd": 0.031, "masking": 0.08, "autoattack": 0.031}'}, "inconclusive", "margin PGD at another"),
        ({"radii": '{"pgd": 0.031, "masking": 0.031, "autoattack": 0.031}'}, "reproduced", "AutoAttack reproduced"),
    ],
)
def test_robust_accuracy_has_a_second_verdict(
    scripts: Any, tmp_path: Path, change: Row, believable: str, said: str
) -> None:
    of = dict.fromkeys(ATTACKS, UP) | {key: value for key, value in change.items() if "/" in key}
    effects = {metric: {0.05: scaled(values)} for metric, values in of.items() if values is not None}
    flags = {"flags/square_wins": change["flags"]} if "flags" in change else {}
    about = {"radii": change["radii"]} if "radii" in change else {}
    folder = place(tmp_path, softrand({"test/accuracy": {0.05: UP}} | effects, **flags), **about)
    assert run(scripts, folder) == 0
    (row,) = rows(folder, "A4", "robust/pgd20")
    assert (row["verdict"], row["believable"]) == ("reproduced", believable)
    assert said in words(folder)
    # Nobody taught the lone students: no teacher's examples to try, and the others decide.
    assert row["transfer"] == ""
    assert {row["believable"] for row in rows(folder, "A4", "test/accuracy")} == {""}


def test_where_pgd_is_at_its_floor_the_distance_still_ranks(scripts: Any, tmp_path: Path) -> None:
    """It stands beside the claim, which is on accuracy under PGD, and is no part of its verdict."""
    effects = {"test/accuracy": {0.05: UP}, "robust/pgd20": {0.05: scaled(NONE)}}
    near = (0.0041, 0.0052, 0.0047, 0.0049, 0.0043)
    folder = place(tmp_path, softrand(effects | {"distance/median": {0.05: near}}))
    assert run(scripts, folder) == 0
    (row,) = rows(folder, "A4", "distance/median")
    assert (row["verdict"], row["claim verdict"], row["smallest"]) == ("reproduced", "contradicted", "0.001")
    assert {each["verdict"] for each in rows(folder, "A4", "robust/pgd20")} == {"contradicted"}
    beside = "The same by **distance to another answer, median**, which is no part of the claim:"
    said = words(folder).partition(beside)[2].partition("###")[0]
    assert said.startswith(" reproduced. |") and "| +0.0046 ± 0.0006 | 5/5 |" in said


@pytest.mark.parametrize(
    ("pgd", "measured", "believable"),
    [
        (None, "not measured", ""),
        (DOWN, "contradicted", "contradicted"),
        (OPEN, "inconclusive", "inconclusive"),
    ],
)
def test_what_pgd_does_not_bear_out_is_not_believed(
    scripts: Any, tmp_path: Path, pgd: Any, measured: str, believable: str
) -> None:
    effects = {metric: {0.05: scaled(UP)} for metric in ATTACKS if metric != "robust/pgd20"}
    effects |= {"robust/pgd20": {0.05: scaled(pgd)}} if pgd else {}
    folder = place(tmp_path, softrand({"test/accuracy": {0.05: UP}} | effects))
    assert run(scripts, folder) == 0
    assert {(row["verdict"], row["believable"]) for row in rows(folder, "A4", "robust/pgd20")} == {
        (measured, believable)
    }


def test_a_flag_counts_wherever_it_is_up(scripts: Any, tmp_path: Path) -> None:
    """On a run that is only compared with, and not under PGD."""
    table = softrand({"test/accuracy": {0.05: UP}} | {metric: {0.05: scaled(UP)} for metric in ATTACKS})
    for row in table:
        if row["id"] == "s0.052":
            row |= {"flags/smoothed_wins": 1.0, "robust/pgd20": None}
    folder = place(tmp_path, table)
    assert run(scripts, folder) == 0
    assert {row["believable"] for row in rows(folder, "A4", "robust/pgd20")} == {"not established"}
    assert "flags up: smoothed_wins" in words(folder)


@pytest.mark.parametrize(
    ("planted", "radii", "believable", "said"),
    [
        ((None, None), {}, "reproduced", "not tried"),  # as before there was such a test
        ((0.0, 0.0), {}, "reproduced", "found"),
        ((0.0, None), {}, "reproduced", "found, not tried in every network"),
        ((0.0, 0.0), {"planted": 0.031}, "reproduced", "found at another radius"),
        ((0.0, 0.0), {"planted": 0.08}, "reproduced", "found"),
        ((0.0, 1.0), {}, "not established", "missed"),
        ((1.0, None), {"planted": 0.031}, "not established", "missed"),
    ],
)
def test_pgd_that_misses_planted_examples_is_not_believed(
    scripts: Any, tmp_path: Path, planted: tuple[Any, Any], radii: Row, believable: str, said: str
) -> None:
    """Though the difference is there under every attack, and Square alone finds what was planted."""
    table = softrand({"test/accuracy": {0.05: UP}} | {metric: {0.05: scaled(UP)} for metric in ATTACKS})
    for row in table:
        if row["role"] == "student" and row["id"].startswith("s0.05"):
            row["flags/planted_missed"] = planted[row["seed"] % 2]
            row |= {f"planted/{name}": 100.0 for name in ("missed", "missed_margin", "missed_smoothed")}
            row["planted/missed_square"] = 0.0
    same = dict.fromkeys(("pgd", "masking", "autoattack"), 0.08) | radii
    folder = place(tmp_path, table, radii=json.dumps(same))
    assert run(scripts, folder) == 0
    (row,) = rows(folder, "A4", "robust/pgd20")
    assert (row["verdict"], row["believable"], row["planted examples"]) == ("reproduced", believable, said)
    text = words(folder)
    assert f"planted examples {said}" in text
    assert ("flags up: planted_missed" in text) == (said == "missed")
    assert {row["planted examples"] for row in rows(folder, "A4", "test/accuracy")} == {""}


def test_a_labelled_entry_of_planted_examples_counts(scripts: Any, tmp_path: Path) -> None:
    table = softrand({"test/accuracy": {0.05: UP}} | {metric: {0.05: scaled(UP)} for metric in ATTACKS})
    for row in table:
        row["flags/planted_missed@eps=0.08"] = float(row["id"] == "s0.052")
    folder = place(tmp_path, table)
    assert run(scripts, folder) == 0
    (row,) = rows(folder, "A4", "robust/pgd20")
    assert (row["believable"], row["planted examples"], row["flags"]) == ("not established", "missed", "planted_missed")


def test_one_cell_of_many_contradicts_only_after_holm(scripts: Any, tmp_path: Path) -> None:
    low = [-value for value in (0.9, 0.2, 0.3, 1.1, 0.5)]  # p 0.026
    for name, sigmas, verdict in (("one", (0.02,), "contradicted"), ("many", (0.02, 0.1, 0.2), "inconclusive")):
        effects = {"test/accuracy": {sigma: low if sigma == 0.02 else OPEN for sigma in sigmas}}
        folder = place(tmp_path / name, softrand(effects))
        assert run(scripts, folder) == 0
        assert {row["verdict"] for row in rows(folder, "A4", "test/accuracy")} == {verdict}
    assert "not after Holm's correction" in words(folder)


def test_students_are_compared_with_the_teacher_that_was_chosen(scripts: Any, tmp_path: Path) -> None:
    table = sweep("messy", seeds=3, teachers=5)
    folder = place(tmp_path, table, "messy")
    assert run(scripts, folder) == 0
    of = {row["id"]: row for row in table}
    for found in rows(folder, "A6", "test/accuracy"):
        if "the chosen teacher" not in found["statement"]:
            continue
        r_teacher, r_student = (float(word.split()[1]) for word in found["setting"].split(", "))
        students = [r for r in table if r["role"] == "student" and r.get("teacher.id") and r["r_student"] == r_student]
        students = [row for row in students if row["r_teacher"] == r_teacher]
        taught_by = next(r["teacher.id"] for r in table if r["role"] == "student" and r["r_teacher"] == 0.5)
        differences = [row["test/accuracy"] - of[taught_by]["test/accuracy"] for row in students]
        assert float(found["difference"]) == pytest.approx(statistics.mean(differences)) and found["pairs"] == "3"


def test_an_attack_that_both_sides_had_is_not_left_out(scripts: Any, tmp_path: Path) -> None:
    table = sweep("messy")
    for row in table:
        row |= dict.fromkeys(ATTACKS, row["robust/pgd20"])
        if row.get("r_teacher") == 0 and row["role"] == "student":
            row["masking/transfer"] = 50.0 + row["seed"]
    folder = place(tmp_path, table, "messy")
    assert run(scripts, folder) == 0
    assert {row["transfer"] for row in rows(folder, "A7")} <= {"reproduced", "contradicted", "inconclusive"}


def test_growth_is_from_the_first_cell_to_the_last(scripts: Any, tmp_path: Path) -> None:
    table: list[Row] = []
    for c, gain in {0.05: 9.0, 0.1: 1.0, 0.25: 0.5, 0.5: 3.0}.items():  # 0.05 is not spoken of
        table.append({"id": f"t{c}", "role": "teacher", "seed": 0, "state": "done", "c": c, "test/accuracy": 70.0})
        for seed, off in enumerate(NONE):
            row = {"id": f"s{c}{seed}", "role": "student", "seed": seed, "state": "done", "c": c, "r": 0.0}
            row |= {"teacher.id": f"t{c}", "distillation.alpha": 0.9, "test/accuracy": 70 + gain + off * 10 * c}
            table.append(row)
    folder = place(tmp_path, table, "noisy_labels", dataset="MNIST", axes='["c", "r"]')
    assert run(scripts, folder) == 0
    over, growth = [each["verdict"] for each in rows(folder, "A10")[:3]], rows(folder, "A10")[3]
    assert over == ["reproduced"] * 3 and growth["cells"] == "growth" and growth["setting"] == "c 0.5 over 0.1"
    mean, low, high = mean_and_interval([2 + 4 * off for off in NONE])
    found = [float(growth[name]) for name in ("difference", "low", "high")]
    assert found == pytest.approx([mean, low, high], abs=1e-3) and growth["verdict"] == "reproduced"


@pytest.mark.parametrize(
    ("teachers", "said"), [(1, "for this one teacher"), (2, "for these 2 teachers"), (5, "reproduced |")]
)
def test_a_method_is_judged_by_paired_teachers_or_the_verdict_says_so(
    scripts: Any, tmp_path: Path, teachers: int, said: str
) -> None:
    effects = {"test/accuracy": {0.05: UP}, "robust/pgd20": {0.05: scaled(UP)}}
    folder = place(tmp_path, softrand(effects, teachers))
    assert run(scripts, folder) == 0
    line = next(line for line in (folder / "figures/claims.md").read_text().splitlines() if line.startswith("| A4 |"))
    assert said in line and ("teacher" in line) == (teachers < 5)


@pytest.mark.parametrize(
    ("dataset", "batch", "scope", "heading", "verdict"),
    [
        ("CIFAR-10", 128, "paper", "the paper's networks, recipe and data", "reproduced"),
        ("CIFAR-10 (JPEG q75)", 128, "replication", "a replication on CIFAR-10 (JPEG q75)", "reproduced"),
        ("CIFAR-10", 64, "direction", "direction on CIFAR-10;", "as claimed"),
        ("MNIST", 128, "direction", "direction on MNIST;", "as claimed"),
    ],
)
def test_scopes_are_told_apart(
    scripts: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    dataset: str,
    batch: int,
    scope: str,
    heading: str,
    verdict: str,
) -> None:
    effects = {"test/accuracy": {0.05: UP}, "robust/pgd20": {0.05: scaled(UP)}}
    table = [row | {"recipe.batch_size": batch} for row in softrand(effects)]
    folder = place(tmp_path, table, dataset=dataset)
    assert run(scripts, folder) == 0
    printed, written = capsys.readouterr().out, words(folder)
    assert f"Profile paper: {heading}" in printed and f"## Profile paper: {heading}" in written
    assert f"A4  {verdict}, for this one teacher" in printed
    assert ("reproduced" in printed) == (scope != "direction") and {row["scope"] for row in rows(folder)} == {scope}
    assert ("+16.34" in written) == (scope == "paper")  # what is in print stands beside the paper's own setting alone


def test_scopes_are_never_mixed(scripts: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    effects = {"test/accuracy": {0.05: UP}, "robust/pgd20": {0.05: scaled(UP)}}
    place(tmp_path, softrand(effects), profile="laptop", dataset="digits")
    place(tmp_path, softrand(effects), profile="paper")
    place(tmp_path, sweep("messy"), "messy")
    assert run(scripts, tmp_path) == 0
    heads = [line for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")]
    assert heads[0].startswith("Profile paper: the paper's") and heads[1].startswith("Profile laptop: direction")
    text = (tmp_path / "figures/claims.md").read_text()
    own, other = text.split("## Profile ")[1:]
    assert "| A4 |" in own and "| A7 |" in own and "| A4 |" in other and "| A7 |" not in other
    assert run(scripts, tmp_path, "--profile", "laptop", "--output", str(tmp_path / "there")) == 0
    assert "| A7 |" not in (tmp_path / "there/claims.md").read_text()


def test_what_was_overridden_stands_apart(scripts: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both tables say `profile: laptop`; one of the two sweeps had other values."""
    for name, values in (("laptop", UP), ("laptop+5d2a", DOWN)):
        effects = {"test/accuracy": {0.05: values}, "robust/pgd20": {0.05: scaled(values)}}
        folder = tmp_path / name
        place(folder, softrand(effects), profile="laptop", dataset="digits")
        target = tmp_path / "results/softrand" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (folder / "softrand/laptop").rename(target)
    assert run(scripts, tmp_path / "results") == 0
    other, plain = sorted(capsys.readouterr().out.split("Profile ")[1:])
    assert plain.startswith("laptop: ") and "A4  as claimed" in plain
    assert other.startswith("laptop+5d2a: ") and "A4  not as claimed" in other


# --- tables that lack things ---


def change(table: list[Row], case: str) -> list[Row]:
    if case == "unfinished":
        for row in table:
            unfinish(row)
    if case == "every third is missing":
        for row in table[::3]:
            unfinish(row, "diverged")
    if case == "no student":
        return [row for row in table if row["role"] == "teacher"]
    if case == "no teacher":
        return [row for row in table if row["role"] != "teacher"]
    if case == "a further axis":
        return [row | {"id": f"{row['id']}{width}", "width": width} for row in table for width in (1, 2)]
    if case == "no axis":
        return [
            {name: value for name, value in row.items() if "/" in name or "." in name or name in KEPT} for row in table
        ]
    return table


KEPT = ("id", "role", "seed", "state")
CASES = ("unfinished", "every third is missing", "no student", "no teacher", "a further axis", "no axis", "one seed")


SEVERAL = ("fickle", "messy", "fixed_label_corruption")  # with teachers, their outputs, and rates that are made of axes


@pytest.mark.parametrize(
    ("name", "case"),
    [(name, case) for name in SCRIPTS for case in CASES if name in SEVERAL or case.startswith(("every", "one"))],
)
def test_hard_tables_are_a_clear_word(
    scripts: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, case: str
) -> None:
    table = change(sweep(name, *((1, 1) if case == "one seed" else ())), case)
    folder = place(tmp_path, table, name)
    status, said = run(scripts, folder), capsys.readouterr().err
    if (name, case) == ("fixed_label_corruption", "no axis"):  # its rates are made of its axes
        assert status == 2 and "its table has no axis `c`, `r`" in said
        return
    assert status == 0 and not said
    found = rows(folder)
    if case == "every third is missing":
        assert any(int(row["pairs"]) < int(row["planned"]) for row in found if row["pairs"])
        assert all(row["difference"] for row in found if row["pairs"] not in ("", "0"))
        return
    if case == "one seed":
        assert not any(row["low"] or row["high"] or row["p"] for row in found)
        assert {row["why"] for row in found} <= {"one pair has no interval", "no pair of finished runs", ""}
    decided = [row for row in found if row["verdict"] in ("reproduced", "contradicted")]
    if case == "no teacher":
        assert not any("teacher" in row["statement"].partition(" over ")[2] for row in decided)
    else:  # but for teachers against teachers
        assert all(row["statement"].startswith("teachers") for row in decided)
    assert all(row["why"] or row["lacks"] or row["cell"] == "reproduced" for row in found)
    if case == "a further axis":
        assert any("would average over them" in row["lacks"] for row in found)


def test_a_table_that_kdtune_does_not_write_stops_no_other(
    scripts: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = sweep("softrand", 2)
    table[-1]["test/accuracy"] = float("inf")
    write(tmp_path, "softrand", table)
    write(tmp_path, "swap", [row | {"pairs": "a|b"} for row in sweep("swap", 2)])
    assert run(scripts, tmp_path) == 0
    said = capsys.readouterr()
    assert said.err.startswith("left out: ") and len(said.err.splitlines()) == 1 and "A14" in said.out
    assert run(scripts, tmp_path, "--output", str(tmp_path / "softrand/paper/results.parquet")) == 2


@pytest.mark.parametrize("case", ["empty", "nothing there", "another sweep", "damaged", "damaged beside a whole one"])
def test_what_cannot_be_judged_is_one_line(
    scripts: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    if case == "another sweep":
        write(tmp_path, "controls", sweep("signal_noise"))
    if case.startswith("damaged"):
        (write(tmp_path, "messy", sweep("messy", 1)) / "paper/results.parquet").write_bytes(b"PAR1")
    if case.endswith("whole one"):
        write(tmp_path, "signal_noise", sweep("signal_noise", 2))
    status = run(scripts, tmp_path / "none" if case == "nothing there" else tmp_path)
    said = capsys.readouterr()
    assert status == (0 if case.endswith("whole one") else 2) and "Traceback" not in said.err
    assert len(said.err.splitlines()) == (2 if case == "damaged" else 1)
    assert {"empty": "no results here", "another sweep": "that the claims are about"}.get(case, "") in said.err


def test_a_link_is_not_followed(scripts: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "results", "signal_noise", sweep("signal_noise", 2))
    (tmp_path / "other").mkdir()
    (tmp_path / "results/figures").symlink_to(tmp_path / "other")
    assert run(scripts, tmp_path / "results") == 2
    assert "is a link" in capsys.readouterr().err and not list((tmp_path / "other").iterdir())


# --- paper.yaml ---


def test_the_claims_are_whole() -> None:
    paper = yaml.safe_load((ANALYSIS / "paper.yaml").read_text(encoding="utf-8"))
    numbers = [*(f"A{number}" for number in range(1, 15)), *(f"B{number}" for number in range(1, 5))]
    numbers += [f"{letter}{number}" for letter in "CD" for number in range(1, 6)]
    assert list(paper["claims"]) == numbers
    assert {claim["sweep"] for claim in paper["claims"].values()} == set(SWEEPS)
    assert [paper["smallest"][kind] for kind in ("test", "shift", "robust", "masking", "corruption")] == [
        0.1,
        0.1,
        1,
        1,
        1,
    ]
    for id, claim in paper["claims"].items():
        assert set(claim) == {"claim", "where", "stated", "sweep", "statements"}
        assert claim["where"].startswith("Fig") or claim["sweep"] in paper["texts"][id[0]]["sweeps"]
        for each in claim["statements"]:
            assert set(each) - {"same"} == {"says", "metric", "of", "against", "by", "direction", "cells"}, id
            assert each["cells"] in ("every", "any", "growth")
            assert each["direction"] in ("higher", "lower") or (
                each["direction"] in ("unchanged", "not lower") and each["cells"] == "every"
            )


@pytest.mark.parametrize("profile", ["paper", "laptop"])
@pytest.mark.parametrize("name", SWEEPS)
def test_every_statement_finds_its_runs_in_its_sweep(scripts: Any, tmp_path: Path, name: str, profile: str) -> None:
    """On what the sweep plans, before anything is trained: no statement asks for what the sweep has not."""
    if profile == "paper" and name not in OTHERS:  # needs the data's digest; the axes are what is asked for
        overrides: dict[str, Any] = {"dataset": {"digits": {}, "validation": 0.1}}
        if name in ("noisy_labels", "fixed_label_corruption"):
            overrides["dataset"]["labels"] = {"corruption": {"rate": "$c"}}
        overrides |= {"recipe.augmentation": {"crop": None, "flip": None}, "teacher.select": {"metric": "val/accuracy"}}
    else:
        overrides = {}
    plan = kdtune.plan(ANALYSIS.parent / f"sweeps/{name}.yaml", profile, overrides)
    standing = Standing(Store(tmp_path), plan.evaluators)
    table = rows_of(plan, standing, standing.states(plan.runs))
    target = tmp_path / name / profile
    target.mkdir(parents=True)
    axes = sorted({axis for each in plan.places for axis in (*each.parameters, *each.teacher_parameters)})
    about = {"sweep": name, "profile": profile, "dataset": "digits", "axes": json.dumps(axes)}
    (target / "results.parquet").write_bytes(to_parquet(table, about | {"headlines": "[]"}))
    read = scripts("figure").read_table(target)
    judging = scripts("judging")
    read = judging.PREPARED.get(name, lambda whole: whole)(read)
    asked = [each for claim in judging.claims() if claim.sweep == name for each in claim.statements]
    for statement in asked:
        compared = scripts("points").cells(read, statement.contrast, "test/accuracy")
        assert compared and all(cell.planned for cell in compared), statement
        one_radius = profile == "laptop" and statement.contrast.by == ("eps",)  # so D2 is not measured there
        assert len(compared) > 1 or statement.holds != "growth" or one_radius, statement
    assert asked
