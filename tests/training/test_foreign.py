"""Teachers from elsewhere, as people have them: under others' names, in wrappers, from old versions, damaged.

The networks here are others' architectures in short, with the names that their code gives to tensors (read in the
repositories that each names): what is loaded must answer as they do.
"""

from __future__ import annotations

import argparse
import hashlib
from collections import OrderedDict
from pathlib import Path

import pytest
import safetensors.torch
import stored
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtune.models.naming import TABLES, renamed
from kdtune.models.networks.normalized import Normalized
from kdtune.models.networks.preactivated import Preactivated
from kdtune.models.networks.resnet import ResNet18
from kdtune.models.networks.small import MLP
from kdtune.planning.plan import build_plan
from kdtune.store.state import State
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep
from kdtune.training.context import RunContext
from kdtune.training.network import load_finished
from kdtune.training.preflight import preflight
from kdtune.training.run import perform
from kdtune.training.weights import load_foreign


def conv(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


class Unit(nn.Module):
    """A block of others that normalise first; `kind` is the family of its names."""

    def __init__(self, inputs: int, outputs: int, stride: int, kind: str) -> None:
        super().__init__()
        self.kind, self.changes = kind, inputs != outputs
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, outputs, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), conv(outputs, outputs)
        if kind == "wrn" and self.changes:
            self.convShortcut = conv(inputs, outputs, stride, 1)
        elif self.changes:
            self.shortcut = nn.Sequential(conv(inputs, outputs, stride, 1))

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        if self.changes:
            x = self.convShortcut(active) if self.kind == "wrn" else self.shortcut(active)
        return x + self.conv2(F.relu(self.bn2(self.conv1(active))))


class WRN(nn.Module):
    """WideResNet of xternalz/WideResNet-pytorch, wideresnet.py, and of HobbitLong/RepDistiller, models/wrn.py."""

    def __init__(self, depth: int, width: int, classes: int = 10, colours: int = 3) -> None:
        super().__init__()
        self.conv1 = conv(colours, 16)
        sizes = (16, 16 * width, 32 * width, 64 * width)
        for group in (1, 2, 3):
            blocks = [Unit(sizes[group - 1], sizes[group], 1 if group == 1 else 2, "wrn")]
            blocks += [Unit(sizes[group], sizes[group], 1, "wrn") for _ in range((depth - 4) // 6 - 1)]
            holder = nn.Module()
            holder.layer = nn.Sequential(*blocks)
            self.add_module(f"block{group}", holder)
        self.bn1, self.fc = nn.BatchNorm2d(sizes[3]), nn.Linear(sizes[3], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for block in (self.block1, self.block2, self.block3):
            x = block.layer(x)
        return self.fc(F.avg_pool2d(F.relu(self.bn1(x)), 8).flatten(1))


class Basic(nn.Module):
    """A block of kuangliu/pytorch-cifar, models/resnet.py."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, outputs, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv(outputs, outputs), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if inputs != outputs:
            self.shortcut = nn.Sequential(conv(inputs, outputs, stride, 1), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.shortcut(x))


class Residual(nn.Module):
    """A block of weiaicunzai/pytorch-cifar100, models/resnet.py."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.residual_function = nn.Sequential(
            conv(inputs, outputs, stride), nn.BatchNorm2d(outputs), nn.ReLU(), conv(outputs, outputs),
            nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.shortcut = nn.Sequential()
        if inputs != outputs:
            self.shortcut = nn.Sequential(conv(inputs, outputs, stride, 1), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.residual_function(x) + self.shortcut(x))


def groups(make) -> list[nn.Module]:
    return [nn.Sequential(make(inputs, outputs, stride), make(outputs, outputs, 1))
            for inputs, outputs, stride in ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2))]  # fmt: skip


class Kuangliu(nn.Module):
    """ResNet18 of kuangliu/pytorch-cifar; RepDistiller's models/resnetv2.py has the same names."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(3, 64), nn.BatchNorm2d(64)
        self.layer1, self.layer2, self.layer3, self.layer4 = groups(Basic)
        self.linear = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer4(self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x)))))))
        return self.linear(F.avg_pool2d(x, 4).flatten(1))


class Weiaicunzai(nn.Module):
    """resnet18 of weiaicunzai/pytorch-cifar100."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(conv(3, 64), nn.BatchNorm2d(64), nn.ReLU())
        self.conv2_x, self.conv3_x, self.conv4_x, self.conv5_x = groups(Residual)
        self.fc = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv5_x(self.conv4_x(self.conv3_x(self.conv2_x(self.conv1(x)))))
        return self.fc(x.mean((2, 3)))


class PreAct(nn.Module):
    """PreActResNet18 of kuangliu/pytorch-cifar; with `last`, of most work on adversarial training."""

    def __init__(self, last: bool, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = conv(3, 64)
        self.layer1, self.layer2, self.layer3, self.layer4 = groups(lambda *sizes: Unit(*sizes, "preact"))
        if last:
            self.bn = nn.BatchNorm2d(512)
        self.linear = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        if hasattr(self, "bn"):
            x = F.relu(self.bn(x))
        return self.linear(F.avg_pool2d(x, 4).flatten(1))


def torchvisions(classes: int = 10) -> nn.Module:
    """torchvision's own code with the usual stem for small images."""
    from torchvision.models import resnet18

    network = resnet18(num_classes=classes)
    network.conv1, network.maxpool = conv(3, 64), nn.Identity()
    return network


def trained(network: nn.Module, colours: int = 3) -> nn.Module:
    """As training leaves it: no two tensors of BatchNorm alike, statistics that moved."""
    torch.manual_seed(5)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    with torch.no_grad():
        network.train()(torch.rand(4, colours, 32, 32))
    return network.eval()


def ours(network: str) -> nn.Module:
    torch.manual_seed(9)
    return {
        "wrn-10-1": lambda: Preactivated(3, 10, 16, (16, 32, 64), 1, 0.0),
        "wrn-16-2": lambda: Preactivated(3, 10, 16, (32, 64, 128), 2, 0.0),
        "resnet-18": lambda: ResNet18(3, 10),
        "preact-resnet-18": lambda: Preactivated(3, 10, 64, (64, 128, 256, 512), 2, 0.0),
    }[network]()


def same_answers(one: nn.Module, other: nn.Module, images: Tensor | None = None) -> None:
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(2)) if images is None else images
    with torch.no_grad():
        torch.testing.assert_close(one.eval()(images), other.eval()(images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("theirs", "model", "named"),
    [
        (lambda: WRN(16, 2), "wrn-16-2", "block2.layer.0.convShortcut.weight"),
        (lambda: WRN(10, 1), "wrn-10-1", "block1.layer.0.bn1.running_mean"),
        (Kuangliu, "resnet-18", "layer2.0.shortcut.1.weight"),
        (torchvisions, "resnet-18", "layer2.0.downsample.1.weight"),
        (Weiaicunzai, "resnet-18", "conv3_x.0.residual_function.4.bias"),
        (lambda: PreAct(last=True), "preact-resnet-18", "layer4.0.shortcut.0.weight"),
    ],
    ids=["xternalz", "width 1", "kuangliu", "torchvision", "weiaicunzai", "preact"],
)
def test_networks_of_others_answer_as_they_did(theirs, model, named, tmp_path):
    original = trained(theirs())
    assert named in original.state_dict()
    torch.save(original.state_dict(), tmp_path / "mine.pth")
    network = ours(model)
    load_foreign(network, str(tmp_path / "mine.pth"))
    same_answers(network, original)


def test_a_table_gives_no_two_tensors_one_name():
    """And takes each to where its own network has it: no entry of a table is idle for the network it is for."""
    for table, theirs, model in zip(
        TABLES,
        (WRN(16, 2), Kuangliu(), torchvisions(), Weiaicunzai(), PreAct(last=True)),
        ("wrn-16-2", "resnet-18", "resnet-18", "resnet-18", "preact-resnet-18"),
        strict=True,
    ):
        named = [renamed(name, table.entries) for name in theirs.state_dict()]
        assert sorted(map(str, named)) == sorted(ours(model).state_dict()), table.title


# How files wrap them

SAVED = {
    "alone": lambda tensors: tensors,
    "xternalz": lambda tensors: {"epoch": 200, "state_dict": tensors, "best_prec1": 95.1},
    "kuangliu": lambda tensors: {"net": prefixed("module.", tensors), "acc": 95.1, "epoch": 199},
    "RepDistiller": lambda tensors: {
        "epoch": 240,
        "model": tensors,
        "best_acc": torch.tensor(75.6),
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
    },
    "Lightning": lambda tensors: {"state_dict": prefixed("model.", tensors), "hyper_parameters": {"lr": 0.1}},
    "compiled": lambda tensors: prefixed("_orig_mod.", tensors),
    "DataParallel of compiled": lambda tensors: prefixed("module._orig_mod.", tensors),
    "compiled DataParallel": lambda tensors: prefixed("_orig_mod.module.", tensors),
    "averaged": lambda tensors: {**prefixed("module.", tensors), "n_averaged": torch.tensor(12)},
    "in another class": lambda tensors: {"network": prefixed("net.backbone.", tensors)},
    "two deep": lambda tensors: {"state_dict": {"model": tensors, "step": 3}},
    "under its role": lambda tensors: {"teacher": tensors, "args": {"lr": 0.1}, "best_acc": 70.0},
    "flat, with an epoch": lambda tensors: {**tensors, "epoch": 12},
}


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> OrderedDict[str, Tensor]:
    return OrderedDict((prefix + name, tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("wrapped", SAVED.values(), ids=SAVED)
@pytest.mark.parametrize("suffix", [".pt", ".pth.tar", ".ckpt", ".bin"])
def test_wrappers_come_off(wrapped, suffix, tmp_path):
    original = trained(WRN(10, 1))
    torch.save(wrapped(original.state_dict()), tmp_path / f"mine{suffix}")
    network = ours("wrn-10-1")
    load_foreign(network, str(tmp_path / f"mine{suffix}"))
    same_answers(network, original)


@pytest.mark.parametrize("wrapped", SAVED.values(), ids=SAVED)
def test_and_from_around_our_own_names(wrapped, tmp_path):
    original = trained(ours("wrn-10-1"))
    torch.save(wrapped(original.state_dict()), tmp_path / "mine.pt")
    network = ours("wrn-10-1")
    load_foreign(network, str(tmp_path / "mine.pt"))
    same_answers(network, original)


def test_a_networks_own_names_may_begin_as_a_wrappers_do(tmp_path):
    original = nn.Sequential(OrderedDict(model=nn.Sequential(nn.Flatten(), nn.Linear(4, 2))))
    twin = nn.Sequential(OrderedDict(model=nn.Sequential(nn.Flatten(), nn.Linear(4, 2))))
    for number, names in enumerate((original.state_dict(), prefixed("module.", original.state_dict()))):
        torch.save(names, tmp_path / f"{number}.pt")
        load_foreign(twin, str(tmp_path / f"{number}.pt"))
        same_answers(twin, original, torch.rand(3, 4))


def test_a_run_of_ours_that_standardises_is_a_teacher_like_any(tmp_path):
    """Its file has `network.` before every name."""
    original = Normalized(trained(ours("wrn-10-1")), [0.5] * 3, [0.2] * 3)
    safetensors.torch.save_file(original.state_dict(), tmp_path / "model.safetensors")
    assert all(name.startswith("network.") for name in original.state_dict())
    network = Normalized(ours("wrn-10-1"), [0.5] * 3, [0.2] * 3)
    load_foreign(network, str(tmp_path / "model.safetensors"))
    same_answers(network, original)


def test_a_part_called_network_is_no_wrapper(tmp_path):
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.scale = nn.Linear(4, 2), nn.Parameter(torch.rand(1))

        def forward(self, x: Tensor) -> Tensor:
            return self.network(x) * self.scale

    original, twin = Own(), Own()
    torch.save(original.state_dict(), tmp_path / "mine.pt")
    load_foreign(twin, str(tmp_path / "mine.pt"))
    same_answers(twin, original, torch.rand(3, 4))


def test_files_of_old_torch_count_no_batches(tmp_path):
    original = trained(WRN(10, 1))
    old = {name: tensor for name, tensor in original.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save({"state_dict": old}, tmp_path / "mine.pt", _use_new_zipfile_serialization=False)
    network = ours("wrn-10-1")
    load_foreign(network, str(tmp_path / "mine.pt"))
    same_answers(network, original)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_other_floating_point_becomes_float32(dtype, suffix, tmp_path):
    original = trained(WRN(10, 1)).to(dtype)
    path = tmp_path / f"mine{suffix}"
    (torch.save if suffix == ".pt" else safetensors.torch.save_file)(original.state_dict(), path)
    network = ours("wrn-10-1")
    load_foreign(network, str(path))
    assert {tensor.dtype for tensor in network.parameters()} == {torch.float32}
    same_answers(network, original.float())


def test_what_a_file_is_decides_what_is_in_it_not_its_suffix(tmp_path):
    original = trained(WRN(10, 1))
    safetensors.torch.save_file(original.state_dict(), tmp_path / "one.pt")
    torch.save(original.state_dict(), tmp_path / "other.safetensors")
    torch.save(original.state_dict(), tmp_path / "old.safetensors", _use_new_zipfile_serialization=False)
    for path in tmp_path.iterdir():
        network = ours("wrn-10-1")
        load_foreign(network, str(path))
        same_answers(network, original)


# What is refused, and how

ORIGINAL = trained(WRN(10, 1)).state_dict()


def refusal(path: Path, network: nn.Module | None = None, rename: tuple[tuple[str, str], ...] = (), **keywords) -> str:
    network = network or ours("wrn-10-1")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(ValueError) as caught:
        load_foreign(network, str(path), rename, **keywords)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items()), "nothing by half"
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert max(map(len, said.splitlines())) < 1200 and len(said.splitlines()) < 20
    return said.removeprefix(f"{path}: ")


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("content", "named"),
    [
        (lambda: Whole(), "Whole"),
        (lambda: {"net": Whole(), "acc": 1.0}, "Whole"),
        (lambda: {"model": ORIGINAL, "opt": argparse.Namespace(lr=0.1)}, "argparse.Namespace"),
        (lambda: {"model": ORIGINAL, "best_acc": __import__("numpy").float64(95.1)}, "numpy"),
    ],
)
def test_what_holds_more_than_tensors_is_refused_in_our_words(content, named, old, tmp_path):
    torch.save(content(), tmp_path / "mine.pt", _use_new_zipfile_serialization=not old)
    said = refusal(tmp_path / "mine.pt")
    assert named in said and "torch.save(model.state_dict(), 'clean.pt')" in said and "safetensors" in said
    assert "that can run code" in said and "add_safe_globals" not in said and len(said.splitlines()) == 1


@pytest.mark.filterwarnings("ignore")
def test_so_is_a_program(tmp_path):
    torch.jit.trace(nn.Linear(2, 2), torch.rand(1, 2)).save(str(tmp_path / "mine.pt"))
    assert "torch.jit.load" in refusal(tmp_path / "mine.pt")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({1: torch.zeros(2), 2: torch.zeros(3)}, "a mapping of 1: Tensor, 2: Tensor"),
        ({}, "holds no state_dict (a mapping from names to tensors), but nothing"),
        ({"epoch": 3, "state_dict": None}, "'epoch': int, 'state_dict': NoneType"),
        ({"state_dict": {}}, "'state_dict': dict"),
        ([torch.zeros(2)], "but one list"),
        (None, "but one NoneType"),
        ({"a": {"b": {"c": {"d": {"e": {"f": torch.zeros(1)}}}}}}, "holds no state_dict"),
    ],
)
def test_a_file_without_names_and_tensors_is_one_line(content, expected, tmp_path):
    torch.save(content, tmp_path / "mine.pt")
    said = refusal(tmp_path / "mine.pt")
    assert expected in said and len(said.splitlines()) == 1


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    "data",
    [b"", b"\0" * 8, b"hello world", b'{"weight_map": {}}', b"PK\x03\x04" + b"0" * 50, b"\x80\x02}q\x00.", b"\x80\x05K",
     b"\x89HDF\r\n" + b"0" * 99, b"\xff" * 8 + b"{}", b"\x10\0\0\0\0\0\0\0{" + b"x" * 30, b"\x02\0\0\0\0\0\0\0{}",
     b'\x21\0\0\0\0\0\0\0{"a":{"dtype":"F32","shape":[9],"d'],
)  # fmt: skip
def test_what_is_no_file_of_weights_is_one_line(data, suffix, tmp_path):
    (tmp_path / f"mine{suffix}").write_bytes(data)
    said = refusal(tmp_path / f"mine{suffix}")
    assert "cannot be read as weights" in said or "holds no state_dict" in said
    assert len(said.splitlines()) == 1 and "weights_only" not in said


def test_a_folder_and_a_path_that_cannot_be(tmp_path):
    assert "cannot be read as weights: Is a directory" in refusal(tmp_path)
    assert "cannot be read as weights: " in refusal(tmp_path / "no\0thing.pt")


@pytest.mark.parametrize("form", ["new", "old", "safetensors"])
def test_damage_anywhere_is_an_error_or_harmless(form, tmp_path):
    """Cut, or a byte changed, at fifty places of the file: words, or weights of the right shapes."""
    path = tmp_path / f"mine.{'safetensors' if form == 'safetensors' else 'pt'}"
    small = {name: ORIGINAL[name] for name in ("bn1.weight", "fc.weight", "fc.bias")}
    if form == "safetensors":
        safetensors.torch.save_file(small, path)
    else:
        torch.save(small, path, _use_new_zipfile_serialization=form == "new")
    data = path.read_bytes()
    for number in range(50):
        place = number * 20 if number < 30 else len(data) * number // 50
        for damaged in (data[:place], data[:place] + bytes([data[place] ^ 0x41]) + data[place + 1 :]):
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match="mine"):  # at best it does not fit
                load_foreign(ours("wrn-10-1"), str(path))


def test_a_file_that_changed_since_it_was_planned_is_not_trusted(tmp_path):
    torch.save(ORIGINAL, tmp_path / "mine.pt")
    digest = hashlib.sha256((tmp_path / "mine.pt").read_bytes()).hexdigest()
    load_foreign(ours("wrn-10-1"), str(tmp_path / "mine.pt"), digest=digest)
    torch.save({**ORIGINAL, "fc.bias": torch.zeros(10)}, tmp_path / "mine.pt")
    assert "has changed since the run was planned" in refusal(tmp_path / "mine.pt", digest=digest)


def test_two_networks_in_one_file_are_no_choice_of_ours(tmp_path):
    other = {name: tensor + 1 for name, tensor in ORIGINAL.items()}
    torch.save({"model": ORIGINAL, "ema": other}, tmp_path / "mine.pt")
    assert "several networks that fit, under 'model' and 'ema'" in refusal(tmp_path / "mine.pt")
    torch.save({"model": ORIGINAL, "best": dict(ORIGINAL), "head": {"fc.bias": other["fc.bias"]}}, tmp_path / "mine.pt")
    load_foreign(ours("wrn-10-1"), str(tmp_path / "mine.pt"))


def test_a_preactivated_resnet_without_a_last_batchnorm_is_another_network(tmp_path):
    torch.save({"net": prefixed("module.", PreAct(last=False).state_dict()), "acc": 94.0}, tmp_path / "mine.pth")
    said = refusal(tmp_path / "mine.pth", ours("preact-resnet-18"))
    assert "missing: bn.weight; missing: bn.bias" in said
    assert "kuangliu/pytorch-cifar has no BatchNorm and ReLU before its classifier" in said


def test_the_file_stands_beside_ours_and_the_nearest_table_is_named(tmp_path):
    torch.save({name.replace("fc", "head"): tensor for name, tensor in ORIGINAL.items()}, tmp_path / "mine.pt")
    lines = refusal(tmp_path / "mine.pt").splitlines()
    assert lines[0] == (
        "these weights do not fit Preactivated: missing: classifier.weight; missing: classifier.bias; "
        "unknown: head.weight; unknown: head.bias"
    )
    assert lines[1].startswith("nearest: WideResNet of xternalz/WideResNet-pytorch and RepDistiller, by which 44 of 46")
    assert [" ".join(line.split()) for line in lines[2:5]] == [
        "in the file here",
        "head.weight (10, 64) classifier.weight (10, 64)",
        "head.bias (10,) classifier.bias (10,)",
    ]
    assert "rename" in lines[-1] and "where layers differ" not in "".join(lines)


def test_of_a_strange_network_a_dozen_lines_are_shown(tmp_path):
    torch.save({f"encoder.{number}.w": tensor for number, tensor in enumerate(ORIGINAL.values())}, tmp_path / "mine.pt")
    said = refusal(tmp_path / "mine.pt")
    assert "nearest: kdtune's own names, by which 0 of 46" in said
    assert "encoder.0.w (16, 3, 3, 3)" in said and "stem.weight (16, 3, 3, 3)" in said and "more" in said


@pytest.mark.parametrize(
    ("name", "tensor", "expected"),
    [
        ("fc.bias", torch.zeros(100), "fc.bias: (100,) in the file, (10,) in the network"),
        ("fc.bias", torch.zeros(10, dtype=torch.int8), "int8 in the file; what is read is dense float32"),
        ("fc.bias", torch.zeros(10, dtype=torch.complex64), "complex64 in the file"),
        ("fc.bias", torch.zeros(10).to_sparse(), "what is read is dense"),
        ("fc.bias", torch.zeros(10).to(torch.float8_e4m3fn), "float8_e4m3fn in the file"),
        ("fc.bias", torch.tensor([float("nan")] + 9 * [0.0]), "1 of 10 values are no finite float32"),
        ("fc.bias", torch.full((10,), 1e300, dtype=torch.float64), "10 of 10 values are no finite float32"),
        ("mu", torch.zeros(3), 'mu looks like what images are standardised with: state it as teacher.normalization'),
        ("sub_block1.layer.0.conv1.weight", torch.zeros(3), 'rename: {sub_block1: ""} leaves it out'),
    ],
)  # fmt: skip
def test_what_would_give_other_numbers_is_refused(name, tensor, expected, tmp_path):
    torch.save({**ORIGINAL, name: tensor}, tmp_path / "mine.pt")
    assert expected in refusal(tmp_path / "mine.pt")


def test_names_cannot_write_to_the_terminal(tmp_path):
    torch.save({"\x1b[2J" + name: tensor for name, tensor in ORIGINAL.items()}, tmp_path / "mine.pt")
    assert refusal(tmp_path / "mine.pt").isascii() and "\x1b" not in refusal(tmp_path / "mine.pt")
    torch.save({"x" * 100_000: torch.zeros(1)}, tmp_path / "mine.pt")
    refusal(tmp_path / "mine.pt")
    (tmp_path / "mine.pt").write_bytes(b"\x80\x02c\x1b[2J\nsystem\nq\0.")
    assert "\x1b" not in refusal(tmp_path / "mine.pt")
    torch.save({"\x1b" * 100_000: 3}, tmp_path / "mine.pt")
    assert "\x1b" not in refusal(tmp_path / "mine.pt")


# The user's own renaming


@pytest.mark.parametrize(
    ("strange", "rename"),
    [
        (lambda name: name.replace("fc.", "head."), {"head": "fc"}),
        (lambda name: name.replace("fc.", "head."), {"head": "classifier"}),
        (lambda name: "encoder." + name, {"encoder.*": "*"}),
        (lambda name: "module.encoder." + name, {"encoder.*": "*"}),
        (lambda name: "module.encoder." + name, {"module.encoder.*": "*"}),
        (lambda name: name.replace("conv1", "first"), {"first": "conv1", "*.first": "*.conv1"}),
        (
            lambda name: name.replace("conv1", "first"),
            {"first": "stem", "block*.layer.*.first": "block*.layer.*.conv1"},
        ),
    ],
)
def test_a_renaming_leads_to_our_names_or_to_any_known_ones(strange, rename, tmp_path):
    original = trained(WRN(10, 1))
    tensors = {strange(name): tensor for name, tensor in original.state_dict().items()}
    torch.save({"net": tensors, "acc": 90.0}, tmp_path / "mine.pt")
    refusal(tmp_path / "mine.pt")
    network = ours("wrn-10-1")
    load_foreign(network, str(tmp_path / "mine.pt"), tuple(rename.items()))
    same_answers(network, original)


def test_what_a_renaming_leaves_out_may_be_there(tmp_path):
    tensors = {**ORIGINAL, **{f"sub_block1.{name}": tensor for name, tensor in ORIGINAL.items()}}
    torch.save(tensors, tmp_path / "mine.pt")
    refusal(tmp_path / "mine.pt")
    load_foreign(ours("wrn-10-1"), str(tmp_path / "mine.pt"), (("sub_block1", ""),))


def test_from_the_sweep_file_to_the_numbers(write_sweep, small_sweep, tmp_path):
    """A renaming is the teacher's, and another one is another run; a file that does not fit fails it in words."""
    original = MLP([8], (1, 8, 8), 10, 0.0)
    named = {f"enc.{name}".replace("classifier", "top"): tensor for name, tensor in original.state_dict().items()}
    torch.save({"net": prefixed("module.", named), "acc": 11.0}, tmp_path / "own.pt")
    pool = "  seeds: 3\n  select: {rule: best, metric: val/accuracy}\n"
    text = small_sweep.replace("grid: {rate: [0.0, 0.2]}\n", "").replace("$rate", "0")
    ids = {}
    for rename in ("", '  rename: {"enc.*": "*", top: classifier}\n', '  rename: {top: classifier, "enc.*": "*"}\n'):
        plan = build_plan(load_sweep(write_sweep(text.replace(pool, "  checkpoint: own.pt\n" + rename))), tmp_path)
        teacher = next(iter(plan.runs.values()))
        foreseen = preflight(plan.runs, [teacher.id], [teacher.id], plan.evaluation, tmp_path)
        context = RunContext(Store(tmp_path / "results"), tmp_path)
        ended = perform(teacher.run, plan.evaluation, context)
        ids[teacher.id] = ended.state
        if ended.state == State.DONE:
            same_answers(load_finished(teacher.id, context.store), original, torch.rand(4, 1, 8, 8))
            assert not foreseen
            assert stored.description(context.store, teacher.id)["rename"] == [["enc.*", "*"], ["top", "classifier"]]
        else:
            assert f"{tmp_path}/own.pt: " in ended.traceback
            (told,) = foreseen
            assert told.startswith(f"teacher: {tmp_path}/own.pt: ") and (
                "in the file" in told or "teacher.rename" in told
            )
    assert list(ids.values()) == [State.FAILED, State.DONE, State.FAILED]


def test_an_entry_about_nothing_and_two_names_become_one_are_errors(tmp_path):
    torch.save(ORIGINAL, tmp_path / "mine.pt")
    said = refusal(tmp_path / "mine.pt", rename=(("bn1", "bn"), ("fd", "fc")))
    assert (
        "teacher.rename: no name in the file is 'fd' or goes on after it with a dot; its names are conv1.weight" in said
    )
    assert "conv1.weight and fc.weight both become" in refusal(tmp_path / "mine.pt", rename=(("fc", "conv1"),))
