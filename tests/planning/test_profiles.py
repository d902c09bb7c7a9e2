"""Which profile a sweep file runs under, and what is said about it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from conftest import SMALL

import kdtune
from kdtune.planning import profiles
from kdtune.planning.devices import has_usable_gpu
from kdtune.planning.profiles import choose, line, of_file

OFFERED = ["paper", "quick", "laptop"]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch):
    """Says whether there is a GPU that torch can use."""
    return lambda there: monkeypatch.setattr(profiles, "has_usable_gpu", lambda: there)


def test_what_was_named_is_taken_whatever_there_is(gpu) -> None:
    gpu(True)
    assert choose("quick", "ray://head:10001", OFFERED) == ("quick", "asked for")
    assert choose("nonsense", None, OFFERED)[0] == "nonsense", "the sweep file refuses it, naming what it has"


def test_a_cluster_means_paper_and_asks_no_torch_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiles, "has_usable_gpu", lambda: pytest.fail("the GPUs are the cluster's"))
    name, why = choose(None, "auto", OFFERED)
    assert name == "paper" and "auto" in why


def test_a_usable_gpu_means_paper(gpu) -> None:
    gpu(True)
    name, why = choose(None, None, OFFERED)
    assert name == "paper" and "GPU" in why


def test_else_laptop_where_the_file_has_one(gpu) -> None:
    gpu(False)
    assert choose(None, None, OFFERED)[0] == "laptop"
    name, why = choose(None, None, ["paper", "quick"])
    assert name == "paper" and "no profile laptop" in why


def test_a_ray_of_ones_own_is_no_cluster(gpu) -> None:
    gpu(False)
    assert choose(None, "local", OFFERED)[0] == "laptop"


def test_outside_a_command_the_rule_is_the_same(gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """row D9: `kdtune.plan` and `kdtune.trainable` took `paper` where the command takes `laptop`."""
    file = tmp_path / "small.yaml"
    file.write_text(SMALL + "profiles:\n  laptop: {recipe: {epochs: 1}}\n")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for there, name in ((False, "laptop"), (True, "paper")):
        gpu(there)
        assert of_file(file) == kdtune.plan(file, data=str(tmp_path)).profile == name
    gpu(False)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert of_file(file) == "paper" and of_file(file, "laptop") == "laptop"


def test_the_line_says_why_what_it_changes_what_it_cannot_show_and_what_else_there_is() -> None:
    said = line("laptop", "torch finds no GPU", ["dataset", "recipe.epochs", "recipe.batch_size", "grid"], OFFERED)
    assert "\n" not in said
    assert said.startswith("profile laptop: torch finds no GPU. ")
    assert "sets dataset, recipe, grid " in said, "each once, in order"
    assert "no verdict" in said
    assert said.endswith("--profile paper | quick.")


def test_the_line_of_a_file_without_profiles_offers_none() -> None:
    said = line("paper", "the file has no profile laptop", [], ["paper"])
    assert said == "profile paper: the file as it stands, which names no other", "no paper's scale, no reason needed"
    assert "It sets seeds (the file as it stands)" in line("paper", "asked for", ["seeds"], ["paper"])


def test_the_line_of_a_profile_of_ones_own() -> None:
    assert "a scale of the file's own" in line("mine", "asked for", ["seeds"], [*OFFERED, "mine"])


def test_without_a_card_torch_is_not_even_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    if any(Path("/dev").glob("nvidia[0-9]*")):
        pytest.skip("this machine has a card")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a process was started"))
    assert has_usable_gpu() is False


def test_with_a_card_it_is_torch_that_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver without a torch that fits it is no GPU."""
    import torch

    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter([Path("/dev/nvidia0")]))
    assert has_usable_gpu() is torch.cuda.is_available()
