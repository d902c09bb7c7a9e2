"""Weights as bytes, and files of the user's own, which may be wrong or hostile."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

from kdtune.models.networks.normalized import Normalized
from kdtune.training.weights import load, load_foreign, save


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 36, 4))


def same(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return list(mine) == list(theirs) and all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.fixture
def trained() -> nn.Module:
    """A network whose buffers moved too."""
    result = network(1)
    result(torch.rand(8, 1, 8, 8))
    return result


# Our own


def test_the_same_weights_are_the_same_bytes(trained: nn.Module) -> None:
    twin = network(2)
    twin.load_state_dict(trained.state_dict())
    assert save(trained) == save(trained) == save(twin)
    with torch.no_grad():
        next(twin.parameters()).view(-1)[0].add_(1e-6)
    assert save(trained) != save(twin)


def test_memory_layout_is_no_part_of_them(trained: nn.Module) -> None:
    expected = save(trained)
    assert save(trained.to(memory_format=torch.channels_last)) == expected


def test_what_was_saved_is_loaded_to_the_bit_buffers_included(trained: nn.Module) -> None:
    fresh = network(3)
    assert not same(fresh, trained)
    load(fresh, save(trained))
    assert same(fresh, trained)
    assert fresh[1].num_batches_tracked == 1


def test_saving_leaves_the_network_as_it_is(trained: nn.Module) -> None:
    trained.train()
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    save(trained)
    assert trained.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.state_dict().items())
    assert all(parameter.requires_grad for parameter in trained.parameters())


def test_anyone_can_read_it(trained: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(save(trained))
    read = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert set(read) == set(trained.state_dict())
    assert torch.equal(read["3.weight"], trained.state_dict()["3.weight"])


# Others'


def write_safetensors(tensors: dict, path: Path) -> None:
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("form", ["safetensors", "pt", "pth", "state_dict"])
def test_the_usual_files(form: str, prefix: str, trained: nn.Module, tmp_path: Path) -> None:
    """safetensors or torch.save; alone or under `state_dict`; from DataParallel or not."""
    tensors = OrderedDict((f"{prefix}{name}", tensor) for name, tensor in trained.state_dict().items())
    path = tmp_path / f"mine.{'pt' if form == 'state_dict' else form}"
    if form == "safetensors":
        write_safetensors(tensors, path)
    else:
        torch.save({"epoch": 3, "state_dict": tensors} if form == "state_dict" else tensors, path)
    fresh = network(3)
    load_foreign(fresh, str(path))
    assert same(fresh, trained)


def test_weights_go_inside_a_normalised_network(trained: nn.Module, tmp_path: Path) -> None:
    torch.save(trained.state_dict(), tmp_path / "mine.pt")
    outer = Normalized(network(3), [0.5], [0.25])
    load_foreign(outer, str(tmp_path / "mine.pt"))
    assert same(outer.network, trained)
    assert outer.mean.item() == 0.5


def test_missing_unknown_and_misshapen_are_named_at_once(trained: nn.Module, tmp_path: Path) -> None:
    tensors = dict(trained.state_dict())
    del tensors["0.bias"]
    tensors["extra"] = torch.zeros(1)
    tensors["3.weight"] = torch.zeros(4, 7)
    path = tmp_path / "mine.safetensors"
    write_safetensors(tensors, path)
    fresh = network(3)
    before = save(fresh)
    with pytest.raises(ValueError) as caught:
        load_foreign(fresh, str(path))
    said = str(caught.value)
    assert said.startswith(f"{path}: ") and "Sequential" in said
    for words in ("missing: 0.bias", "unknown: extra", "3.weight: (4, 7) in the file, (4, 108) in the network"):
        assert words in said
    assert save(fresh) == before, "nothing was loaded by half"


def test_many_mismatches_are_counted(tmp_path: Path) -> None:
    torch.save({f"layer{number}": torch.zeros(1) for number in range(20)}, tmp_path / "mine.pt")
    with pytest.raises(ValueError, match=r"missing: 0\.weight.*and 21 more"):
        load_foreign(network(), str(tmp_path / "mine.pt"))


@pytest.mark.parametrize(
    "content", [torch.zeros(3), [torch.zeros(3)], {"weights": 3}, {"state_dict": [1, 2]}, {"epoch": 1, "state_dict": 5}]
)
def test_a_file_without_a_state_dict_says_so(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "mine.pt")
    with pytest.raises(ValueError, match="holds no state_dict"):
        load_foreign(network(), str(tmp_path / "mine.pt"))


class Touch:
    """Code in a pickle: makes a file where it is loaded without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_code_in_a_file_is_never_run(form: str, trained: nn.Module, tmp_path: Path) -> None:
    mark, path = tmp_path / "touched", tmp_path / "mine.pt"
    content = {**trained.state_dict(), "hook": Touch(mark)}
    if form == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises((pickle.UnpicklingError, ValueError, RuntimeError)):
        load_foreign(network(), str(path))
    assert not mark.exists()
    torch.load(path, weights_only=False) if form == "torch" else pickle.loads(path.read_bytes())
    assert mark.exists(), "the file is dangerous indeed: read without care it runs its code"


def test_a_bit_that_turned_in_an_archive_is_seen(trained: nn.Module, tmp_path: Path) -> None:
    """torch.load takes it without a word, as another weight."""
    path, (name, weight) = tmp_path / "mine.pt", next(iter(trained.state_dict().items()))
    torch.save(trained.state_dict(), path)
    data, values = path.read_bytes(), weight.numpy().tobytes()
    at = data.index(values)
    path.write_bytes(data[: at + 3] + bytes([data[at + 3] ^ 0x80]) + data[at + 4 :])  # a sign
    assert torch.load(path, weights_only=True)[name].flatten()[0] == -weight.flatten()[0]
    with pytest.raises(ValueError, match=r"damaged or cut short .*the checksum of .* does not fit"):
        load_foreign(network(), str(path))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_damaged_or_absent_file_is_an_error(suffix: str, trained: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / f"mine{suffix}"
    with pytest.raises(ValueError, match="cannot be read"):
        load_foreign(network(), str(path))
    if suffix == ".pt":
        torch.save(trained.state_dict(), path)
    else:
        path.write_bytes(save(trained))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="cannot be read"):
        load_foreign(network(), str(path))
