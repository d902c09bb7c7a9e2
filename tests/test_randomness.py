from __future__ import annotations

import hashlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdtune.randomness import GlobalStream, draw, seeded, set_global, stream_seed

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
SEEDS = st.integers(0, 2**40)
EPOCHS = st.integers(0, 1000)


@given(SEEDS, NAMES, EPOCHS)
def test_stream_seed_is_the_top_63_bits_of_the_hash(seed: int, name: str, epoch: int) -> None:
    digest = int(hashlib.sha256(f"{seed}/{name}/{epoch}".encode()).hexdigest(), 16)
    assert stream_seed(seed, name, epoch) == digest >> (256 - 63)


@given(st.tuples(SEEDS, NAMES, EPOCHS), st.tuples(SEEDS, NAMES, EPOCHS))
def test_different_streams_have_different_seeds(one: tuple[int, str, int], other: tuple[int, str, int]) -> None:
    assert (stream_seed(*one) == stream_seed(*other)) == (one == other)


def test_slashes_in_names_do_not_merge_streams() -> None:
    assert stream_seed(1, "2/3", 4) != stream_seed(1, "2", 3)
    assert stream_seed(1, "order/1", 2) != stream_seed(1, "order", 12)


PINNED_SEED = 3955691223199900983
PINNED_INTEGERS = [8, 7, 2, 0, 3, 2, 3, 7]
PINNED_PERMUTATION = [7, 5, 4, 2, 1, 6, 3, 0]
PINNED_NORMAL = [-2.510351, 0.63277, 0.368072]
PINNED_UNIFORM = [0.557588, 0.641355, 0.495619]


# A change here alters every run ever made: raise RECIPE_VERSION with it.
def test_numbers_are_pinned() -> None:
    assert stream_seed(0, "order", 0) == PINNED_SEED
    like = torch.empty(3)
    assert draw(1, "crop", 2).integers(9, torch.empty(8)).tolist() == PINNED_INTEGERS
    assert draw(1, "order", 2).permutation(8).tolist() == PINNED_PERMUTATION
    torch.testing.assert_close(draw(1, "noise", 2).normal(like), torch.tensor(PINNED_NORMAL), rtol=0, atol=1e-6)
    torch.testing.assert_close(draw(1, "noise", 2).uniform(like), torch.tensor(PINNED_UNIFORM), rtol=0, atol=1e-6)


@given(SEEDS, NAMES, EPOCHS)
def test_same_stream_same_numbers_whatever_the_global_state(seed: int, name: str, epoch: int) -> None:
    like = torch.empty(4, 5)
    before = torch.get_rng_state()
    first = draw(seed, name, epoch).normal(like)
    assert torch.equal(torch.get_rng_state(), before)  # nothing taken from the global generator
    torch.rand(3)
    assert torch.equal(draw(seed, name, epoch).normal(like), first)


@pytest.mark.parametrize("other", [(2, "crop", 3), (1, "flip", 3), (1, "crop", 4)])
def test_other_seed_name_or_epoch_other_numbers(other: tuple[int, str, int]) -> None:
    like = torch.empty(16)
    assert not torch.equal(draw(1, "crop", 3).normal(like), draw(*other).normal(like))


@pytest.mark.parametrize("kind", ["normal", "uniform"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_floats_take_shape_and_type_of_like(kind: str, dtype: torch.dtype) -> None:
    numbers = getattr(draw(0, "x"), kind)(torch.empty(2, 3, dtype=dtype))
    assert numbers.shape == (2, 3) and numbers.dtype == dtype


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_integers_as_like_give_float32(kind: str) -> None:
    assert getattr(draw(0, "x"), kind)(torch.zeros(4, dtype=torch.int64)).dtype == torch.float32


def test_distributions() -> None:
    like = torch.empty(200_000)
    normal, uniform = draw(0, "n").normal(like), draw(0, "u").uniform(like)
    assert abs(normal.mean()) < 0.01 and abs(normal.std() - 1) < 0.01
    assert uniform.min() >= 0 and uniform.max() < 1 and abs(uniform.mean() - 0.5) < 0.01
    integers = draw(0, "i").integers(9, like)
    assert integers.dtype == torch.int64
    shares = torch.bincount(integers, minlength=9) / len(integers)
    assert len(shares) == 9 and (shares - 1 / 9).abs().max() < 0.005


@given(st.integers(0, 50))
def test_permutation_holds_every_number_once(n: int) -> None:
    assert sorted(draw(3, "order").permutation(n).tolist()) == list(range(n))


def test_seeded_sets_and_restores_the_global_generator() -> None:
    before = torch.get_rng_state()
    with seeded(1, "init"):
        first = torch.nn.Linear(3, 2).weight.detach().clone()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    with seeded(1, "init"):
        assert torch.equal(torch.nn.Linear(3, 2).weight, first)
    with seeded(1, "init", epoch=1):
        assert not torch.equal(torch.nn.Linear(3, 2).weight, first)


def test_seeded_restores_after_an_error() -> None:
    before = torch.get_rng_state()
    with pytest.raises(KeyError), seeded(1, "init"):
        torch.rand(3)
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before)


def test_the_global_generators_are_put_where_torch_puts_them() -> None:
    with seeded(0, "elsewhere"):
        set_global(4, "dropout", 9)
        ours = torch.rand(5)
        torch.manual_seed(stream_seed(4, "dropout", 9))
        assert torch.equal(torch.rand(5), ours)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_s_global_generator_too() -> None:
    torch.cuda.init()
    with seeded(0, "elsewhere"):
        set_global(4, "dropout", 9)
        ours = torch.rand(5, device="cuda")
        torch.manual_seed(stream_seed(4, "dropout", 9))
        assert torch.equal(torch.rand(5, device="cuda"), ours)


def test_dropout_follows_its_stream() -> None:
    dropout, ones = torch.nn.Dropout(0.5), torch.ones(100)
    with seeded(5, "dropout", 2):
        first = dropout(ones)
    with seeded(5, "dropout", 2):
        assert torch.equal(dropout(ones), first)
    with seeded(5, "dropout", 3):
        assert not torch.equal(dropout(ones), first)


def test_a_global_stream_goes_on_where_it_stopped_whatever_is_drawn_outside() -> None:
    with seeded(5, "learns.teacher.dropout", 2):
        whole = torch.rand(30)
    stream, parts = GlobalStream(5, "learns.teacher.dropout", 2), []
    for count in (7, 3, 20):
        with stream.resumed():
            parts.append(torch.rand(count))
        torch.rand(count)
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_s_global_stream_goes_on_where_it_stopped() -> None:
    torch.cuda.init()
    with seeded(5, "learns.teacher.dropout", 2):
        whole, on_cpu = [torch.rand(count, device="cuda") for count in (7, 3, 20)], torch.rand(9)
        before = torch.cuda.get_rng_state(), torch.get_rng_state()
    stream, parts = GlobalStream(5, "learns.teacher.dropout", 2, "cuda"), []
    for count in (7, 3, 20):
        with stream.resumed():
            parts.append(torch.rand(count, device="cuda"))
        torch.rand(count, device="cuda")
    with stream.resumed():
        assert torch.equal(torch.rand(9), on_cpu), "the CPU's generator has its stream too"
    assert all(torch.equal(*pair) for pair in zip(parts, whole, strict=True))
    now = [each.get_state() for each in reversed(stream.generators)]
    assert all(torch.equal(*pair) for pair in zip(now, before, strict=True)), "where they stand can be asked"


def test_a_global_stream_takes_nothing_from_outside() -> None:
    torch.manual_seed(1)
    plain = torch.rand(20)
    torch.manual_seed(1)
    stream = GlobalStream(5, "learns.teacher.dropout", 2)
    with stream.resumed():
        torch.rand(9)
    first = torch.rand(10)
    with pytest.raises(KeyError), stream.resumed():
        torch.rand(9)
        raise KeyError
    assert torch.equal(torch.cat([first, torch.rand(10)]), plain)


def test_two_global_streams_do_not_mix() -> None:
    def drawn(*order: int) -> list[torch.Tensor]:
        streams, numbers = [GlobalStream(5, name, 0) for name in ("one", "other")], [[], []]
        for which in order:
            with streams[which].resumed():
                numbers[which].append(torch.rand(4))
        return [torch.cat(each) for each in numbers]

    apart, mixed = drawn(0, 0, 1, 1), drawn(0, 1, 1, 0)
    assert all(torch.equal(*pair) for pair in zip(apart, mixed, strict=True)) and not torch.equal(*apart)
