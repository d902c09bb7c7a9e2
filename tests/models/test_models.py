"""Networks against an independent functional reading of the papers, published parameter counts and torch's counters."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kdtune.models.model import Model
from kdtune.models.residual import PreActResNet18, ResNet18, WideResNet
from kdtune.models.small import CNN, MLP, LeNet
from kdtune.models.two_layer import TwoLayer
from kdtune.settings import Settings

CIFAR = (3, 32, 32)
DIGITS = (1, 8, 8)
MNIST = (1, 28, 28)
EVERY = [
    "wrn-10-1",
    {"wrn-16-2": {"dropout": 0.3}},
    "resnet-18",
    "preact-resnet-18",
    {"cnn": {"width": 8, "dropout": 0.3}},
    {"lenet": {"width": 32, "hidden": 128, "dropout": 0.1}},
    {"mlp": {"hidden": [32, 16], "dropout": 0.3}},
    {"two-layer": {"width": 32, "init": {"normal": 0.1}}},
    {"two-layer": {"width": 32, "init": {"grid": {"strength": 1.0}}}},
]
OWN = {WideResNet, ResNet18, PreActResNet18, CNN, LeNet, MLP, TwoLayer}
EVERY += [key for key, kind in Model.kinds().items() if kind not in OWN]  # one that was added
WITH_DROPOUT = [
    {"wrn-16-1": {"dropout": 0.4}},
    {"cnn": {"width": 8, "dropout": 0.4}},
    {"lenet": {"width": 4, "hidden": 12, "dropout": 0.4}},
    {"mlp": {"hidden": [32], "dropout": 0.4}},
]


class Student(Settings):
    """A stand-in for the settings that hold a model."""

    model: Model


def read(value: object) -> Model:
    return Student.model_validate({"model": value}).model


def seeded(value: object, shape: tuple[int, int, int] = DIGITS, classes: int = 10, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return read(value).build(shape, classes)


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def make_normalisation_matter(network: nn.Module) -> None:
    """BatchNorm as after training: as initialised it would hide a missing scale, shift or average."""
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            nn.init.uniform_(value, 0.5, 2.0)
        elif value.ndim == 1:
            nn.init.normal_(value)


def errors(value: object) -> list[tuple[tuple[int | str, ...], str]]:
    with pytest.raises(ValidationError) as caught:
        Student.model_validate({"model": value})
    return [(error["loc"], error["msg"]) for error in caught.value.errors()]


# What `model:` may say


@pytest.mark.parametrize(
    "written", ["wrn-40-2", "WRN-40-2", "wrn_40_2", {"wrn-40-2": {}}, {"WRN_40_2": {"dropout": 0}}]
)
def test_spellings_of_one_network_have_one_dump(written: object) -> None:
    assert read(written) == read("wrn-40-2")
    assert read(written).dumped() == {"wrn-40-2": {}}
    assert Student(model=read(written)).model_dump(mode="json") == {"model": {"wrn-40-2": {}}}


@pytest.mark.parametrize(
    ("written", "dump"),
    [
        ({"WRN_16_4": {"dropout": 1}}, {"wrn-16-4": {"dropout": 1.0}}),
        ("ResNet_18", {"resnet-18": {}}),
        ("PreAct-ResNet-18", {"preact-resnet-18": {}}),
        ({"CNN": {"width": 32, "dropout": 0.0}}, {"cnn": {"width": 32}}),
        ({"mlp": {"hidden": [64, 32], "dropout": 0.1}}, {"mlp": {"hidden": [64, 32], "dropout": 0.1}}),
    ],
)
@pytest.mark.parametrize("leave_out", [{}, {"exclude_defaults": True}, {"exclude_none": True}, {"exclude_unset": True}])
def test_dump_is_canonical_wherever_it_is_taken(written: object, dump: object, leave_out: dict[str, Any]) -> None:
    student = Student.model_validate({"model": written})
    assert student.model_dump(mode="json", **leave_out) == {"model": dump}
    assert json.loads(student.model_dump_json(**leave_out)) == {"model": dump}
    assert json.loads(json.dumps(student.model_dump(**leave_out))) == {"model": dump}


dropouts: st.SearchStrategy[dict[str, float]] = st.one_of(
    st.just({}), st.floats(0, 1).map(lambda rate: {"dropout": rate})
)
sizes = st.integers(1, 500)
any_model = st.one_of(
    st.builds(lambda n, k, off: {f"WRN_{6 * n + 4}-{k}": off}, st.integers(1, 30), st.integers(1, 20), dropouts),
    st.sampled_from([{"resnet-18": {}}, {"preact-resnet-18": {}}]),
    st.builds(lambda width, off: {"cnn": {"width": width} | off}, sizes, dropouts),
    st.builds(lambda hidden, off: {"mlp": {"hidden": hidden} | off}, st.lists(sizes, min_size=1, max_size=4), dropouts),
)


@given(any_model)
def test_round_trip(written: object) -> None:
    model = read(written)
    assert read(model.dumped()) == model == read(json.loads(json.dumps(model.dumped()))) == read(model)
    assert json.dumps(read(model.dumped()).dumped()) == json.dumps(model.dumped())
    assert hash(read(model.dumped())) == hash(model)
    (options,) = model.dumped().values()
    assert options.get("dropout") != 0


@pytest.mark.parametrize(
    ("written", "title"),
    [
        ("wrn_16_2", "WRN-16-2"),
        ({"wrn-40-2": {"dropout": 0.2}}, "WRN-40-2"),
        ("resnet-18", "ResNet-18"),
        ("preact-resnet-18", "PreAct-ResNet-18"),
        ({"cnn": {"width": 32}}, "CNN-32"),
        ({"LeNet": {"width": 10, "hidden": 50}}, "LeNet-10-50"),
        ({"mlp": {"hidden": [64, 32]}}, "MLP-64-32"),
    ],
)
def test_title(written: object, title: str) -> None:
    assert read(written).title == title


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("wrn-17-2", ["depth 17", "nearest: 16 or 22"]),
        ("wrn-15-3", ["depth 15", "nearest: 10 or 16"]),
        ("WRN-4-2", ["depth 4", "nearest: 10"]),
        ("wrn-16-0", ["greater than or equal to 1"]),
    ],
)
def test_a_name_with_numbers_that_no_network_has_is_told_the_nearest(written: str, says: list[str]) -> None:
    for one in (written, {written: {}}):
        ((place, message),) = errors(one)
        assert place == ("model", written) and all(part in message for part in says)


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("resnet18", "unknown model 'resnet18'; did you mean resnet-18?"),
        ("wrn16", "unknown model 'wrn16'; did you mean wrn-"),
        ("wnr-16-2", "unknown model 'wnr-16-2'; did you mean wrn-16-2?"),
        ("wrn-16-2-3", "unknown model 'wrn-16-2-3'; did you mean wrn-16-2?"),
        ("wrn-" + "1" * 5000 + "-2", "unknown model"),
        ("transformer", "unknown model 'transformer'; known here: wrn-16-2, wrn-40-2, "),
    ],
)
def test_an_unknown_name_is_told_the_nearest(written: str, says: str) -> None:
    ((place, message),) = errors(written)
    assert place == ("model",) and says in message
    ((place, message),) = errors({written: {}})
    assert place == ("model", written) and says in message


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ({}, "names no model"),
        ({"cnn": {"width": 8}, "mlp": {"hidden": [8]}}, "names cnn and mlp"),
        (16, "names no model"),
        (None, "names no model"),
        (["wrn-16-2"], "names no model"),
    ],
)
def test_what_is_no_model_is_told_what_to_write(written: object, says: str) -> None:
    ((place, message),) = errors(written)
    assert place == ("model",)
    assert says in message and ", ".join(Model.kinds()) in message


def test_a_number_for_a_name_is_an_unknown_name() -> None:
    ((_, message),) = errors({18: {}})
    assert "unknown model '18'; known here: " in message


@pytest.mark.parametrize(
    ("written", "place"),
    [
        ({"wrn-40-2": {"dropout": 1.5}}, ("wrn-40-2", "dropout")),
        ({"wrn-40-2": {"dropout": "0.5"}}, ("wrn-40-2", "dropout")),
        ({"wrn_40_2": {"drop": 0.5}}, ("wrn_40_2", "drop")),  # as the file has it, so that its line is found
        ({"wrn-40-2": {"depth": 16}}, ("wrn-40-2", "depth")),
        ({"resnet-18": {"dropout": 0.1}}, ("resnet-18", "dropout")),
        ("cnn", ("cnn", "width")),
        ("MLP", ("MLP", "hidden")),
        ({"cnn": {}}, ("cnn", "width")),
        ({"cnn": {"width": 0}}, ("cnn", "width")),
        ({"cnn": {"width": True}}, ("cnn", "width")),
        ({"cnn": None}, ("cnn",)),
        ({"mlp": {"hidden": 64}}, ("mlp", "hidden")),
        ({"mlp": {"hidden": []}}, ("mlp", "hidden")),
        ({"mlp": {"hidden": [64, 0]}}, ("mlp", "hidden", 1)),
    ],
)
def test_an_error_is_placed_at_its_key(written: object, place: tuple[int | str, ...]) -> None:
    assert [where for where, _ in errors(written)] == [("model", *place)]


def test_all_errors_come_at_once() -> None:
    assert len(errors({"wrn-40-2": {"dropout": 2, "drop": 3}})) == 2


def test_a_model_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        read("wrn-16-2").width = 4


def test_settings_and_costs_load_no_torch() -> None:
    code = (
        "import sys; from kdtune.models.model import Model; "
        "model = Model.model_validate('wrn-16-2'); model.cost((3, 32, 32), 10), model.dumped(); "
        "print([name for name in ('torch', 'ray', 'pandas', 'numpy') if name in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# What every kind promises


def test_every_kind_is_measured_here() -> None:
    """A new kind gets all tests that EVERY is given to."""
    assert {type(read(written)) for written in EVERY} == set(Model.kinds().values())
    assert set(Model.kinds().values()) >= OWN


@pytest.mark.parametrize("written", EVERY)
def test_what_every_kind_promises(written: object) -> None:
    model = read(written)
    assert type(model).__doc__
    assert Model.find(model.written) == (type(model), {name: getattr(model, name) for name in model.in_the_key()})
    assert list(model.dumped()) == [model.written] and read(model.dumped()) == model
    assert model.title and model.title == read(model.dumped()).title
    for shape, classes in ((DIGITS, 10), (CIFAR, 7)):
        with torch.device("meta"):
            network = model.build(shape, classes)
        count, multiply_adds = model.cost(shape, classes)
        assert count == parameters(network) and type(count) is type(multiply_adds) is int
        assert multiply_adds >= sum(weights.numel() for name, weights in network.named_parameters() if weights.ndim > 1)


def test_a_name_gives_a_kind() -> None:
    assert read("wrn-16-2") == WideResNet(depth=16, width=2)
    assert read({"wrn-16-2": {"dropout": 0.2}}) == WideResNet(depth=16, width=2, dropout=0.2)
    assert read("preact-resnet-18") == PreActResNet18() != read("resnet-18")
    assert read({"cnn": {"width": 8}}) == CNN(width=8) and read({"mlp": {"hidden": [8, 4]}}) == MLP(hidden=(8, 4))


# What is built

# Exact counts. WRN-d-k: pytorchcv 0.0.74, get_wrn_cifar(num_classes, blocks=d, width_factor=k); Arani et al. round them
# to 0.7 M (WRN-16-2) and 2.2 M (WRN-40-2). ResNet-18: pytorchcv's resnet18() has 11,689,512 with a 7 x 7 stem and 1000
# classes; - 9,408 + 1,728 (3 x 3 stem) - 513,000 + 5,130 (10 classes) = 11,173,962. PreAct-ResNet-18's
# BatchNorms are fewer by 1,792: none after the stem (128) and the projections (1,792), the first of every group for the
# channels that come in (896), but one at the end (1,024). Without that one it is pytorch-cifar's 11,171,146.
COUNTS = [
    ("wrn-10-1", 10, 77_850),
    ("wrn-16-1", 10, 175_066),
    ("wrn-16-2", 10, 691_674),
    ("wrn-16-2", 100, 703_284),
    ("wrn-40-2", 10, 2_243_546),
    ("wrn-28-10", 10, 36_479_194),
    ("resnet-18", 10, 11_173_962),
    ("preact-resnet-18", 10, 11_172_170),
]


@pytest.mark.parametrize(("name", "classes", "count"), COUNTS)
def test_parameter_counts_are_the_published_ones(name: str, classes: int, count: int) -> None:
    with torch.device("meta"):
        network = read(name).build(CIFAR, classes)
    assert parameters(network) == count == read(name).cost(CIFAR, classes)[0]


shapes = st.tuples(st.integers(1, 4), st.integers(1, 40), st.integers(1, 40))
small_model = st.one_of(
    st.builds(lambda n, k: f"wrn-{6 * n + 4}-{k}", st.integers(1, 3), st.integers(1, 5)),
    st.sampled_from(["resnet-18", "preact-resnet-18"]),
    st.builds(lambda width: {"cnn": {"width": width}}, st.integers(1, 40)),
    st.builds(lambda hidden: {"mlp": {"hidden": hidden}}, st.lists(st.integers(1, 40), min_size=1, max_size=3)),
    st.builds(lambda width: {"two-layer": {"width": width, "init": {"normal": 0.1}}}, st.integers(1, 40)),
)


@settings(deadline=None, max_examples=40)
@given(small_model, shapes, st.integers(1, 20))
def test_cost_is_what_torch_counts(written: object, shape: tuple[int, int, int], classes: int) -> None:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = read(written).build(shape, classes).eval()
        network(torch.empty(1, *shape))
    assert read(written).cost(shape, classes) == (parameters(network), counter.get_total_flops() / 2)


@pytest.mark.parametrize("shape", [DIGITS, MNIST, CIFAR, (3, 7, 5)])
@pytest.mark.parametrize("written", EVERY)
def test_pixels_in_logits_out(written: object, shape: tuple[int, int, int]) -> None:
    network = seeded(written, shape, 7)
    assert network.training
    images = torch.rand(2, *shape)
    assert network(images).shape == (2, 7)
    network.eval()
    features = network.features(images)
    assert features.shape == (2, network.classifier.in_features)
    assert torch.equal(network.classifier(features), network(images))


def preactivated(x: Tensor, state: dict[str, Tensor], groups: int, n: int, rate: float, training: bool) -> Tensor:
    """Blocks that normalise and activate first: WRN by its paper (figure 1 (d), table 1) with 3 groups, He et al.'s
    (2016, arXiv 1603.05027, figure 1 (b)) with 4; pre-activated also where the shortcut is a projection."""

    def activated(x: Tensor, bn: str) -> Tensor:
        average, variance = state[f"{bn}.running_mean"].clone(), state[f"{bn}.running_var"].clone()
        weight, bias = state[f"{bn}.weight"], state[f"{bn}.bias"]
        return F.batch_norm(x, average, variance, weight, bias, training=training).clamp(min=0)

    x = F.conv2d(x, state["stem.weight"], padding=1)
    for group in range(groups):
        for block in range(n):
            at, stride = f"groups.{group}.{block}", 2 if group and not block else 1
            first = activated(x, f"{at}.bn1")
            second = activated(F.conv2d(first, state[f"{at}.conv1.weight"], stride=stride, padding=1), f"{at}.bn2")
            residual = F.conv2d(F.dropout(second, rate, training), state[f"{at}.conv2.weight"], padding=1)
            projection = state.get(f"{at}.shortcut.weight")
            x = residual + (x if projection is None else F.conv2d(first, projection, stride=stride))
    x = activated(x, "bn").flatten(2).mean(2)
    return x @ state["classifier.weight"].T + state["classifier.bias"]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("depth", "width"), [(10, 1), (16, 2), (22, 3)])
@pytest.mark.parametrize("shape", [(3, 16, 16), MNIST])
def test_wide_resnet_is_the_papers(depth: int, width: int, shape: tuple[int, int, int], training: bool) -> None:
    """In training mode this also places dropout: masks are drawn in the same order, at the same activations."""
    network = seeded({f"wrn-{depth}-{width}": {"dropout": 0.3}}, shape).double().train(training)
    make_normalisation_matter(network)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    images = torch.rand(3, *shape, dtype=torch.float64)
    torch.manual_seed(1)
    expected = preactivated(images, state, 3, (depth - 4) // 6, 0.3, training)
    torch.manual_seed(1)
    torch.testing.assert_close(network(images), expected, rtol=1e-9, atol=1e-9)


def resnet_18(x: Tensor, state: dict[str, Tensor]) -> Tensor:
    """He et al., figure 2 and table 1 in evaluation mode, with the stem for small images."""

    def normalised(x: Tensor, bn: str) -> Tensor:
        average, variance, weight, bias = (
            state[f"{bn}.{name}"].view(-1, 1, 1) for name in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - average) / (variance + 1e-5).sqrt() * weight + bias

    x = normalised(F.conv2d(x, state["stem.weight"], padding=1), "bn").relu()
    for group in range(4):
        for block in range(2):
            at, stride = f"groups.{group}.{block}", 2 if group and not block else 1
            out = normalised(F.conv2d(x, state[f"{at}.conv1.weight"], stride=stride, padding=1), f"{at}.bn1").relu()
            out = normalised(F.conv2d(out, state[f"{at}.conv2.weight"], padding=1), f"{at}.bn2")
            if group and not block:
                x = normalised(F.conv2d(x, state[f"{at}.shortcut.0.weight"], stride=2), f"{at}.shortcut.1")
            x = (out + x).relu()
    return x.flatten(2).mean(2) @ state["classifier.weight"].T + state["classifier.bias"]


def test_resnet_18_is_the_papers() -> None:
    network = seeded("resnet-18", (3, 16, 16)).double().eval()
    make_normalisation_matter(network)
    images = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(network(images), resnet_18(images, network.state_dict()), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("training", [False, True])
def test_preact_resnet_18_is_the_papers(training: bool) -> None:
    network = seeded("preact-resnet-18", (3, 16, 16)).double().train(training)
    make_normalisation_matter(network)
    images = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    assert [state[f"groups.{group}.1.conv2.weight"].shape[0] for group in range(4)] == [64, 128, 256, 512]
    torch.testing.assert_close(network(images), preactivated(images, state, 4, 2, 0, training), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("training", [False, True])
def test_small_networks_are_as_described(training: bool) -> None:
    images = torch.rand(3, 2, 8, 8, dtype=torch.float64)

    cnn = seeded({"cnn": {"width": 4, "dropout": 0.3}}, (2, 8, 8)).double().train(training)
    x, layers = images, list(cnn.layers)
    torch.manual_seed(1)
    for at in (0, 4, 8):
        x = F.max_pool2d(x, 2) if at else x
        x = F.conv2d(x, layers[at].weight, padding=1)
        x = F.batch_norm(x, torch.zeros(x.shape[1]).double(), torch.ones(x.shape[1]).double(), training=training).relu()
    x = F.dropout(x.flatten(2).mean(2), 0.3, training) @ cnn.classifier.weight.T
    torch.manual_seed(1)
    torch.testing.assert_close(cnn(images), x)

    mlp = seeded({"mlp": {"hidden": [16, 8], "dropout": 0.3}}, (2, 8, 8)).double().train(training)
    x = images.flatten(1)
    torch.manual_seed(1)
    for linear in (mlp.layers[1], mlp.layers[4]):
        x = F.dropout((x @ linear.weight.T).relu(), 0.3, training)
    torch.manual_seed(1)
    torch.testing.assert_close(mlp(images), x @ mlp.classifier.weight.T)


def test_two_layers_are_the_theory_s() -> None:
    network = seeded({"two-layer": {"width": 5, "init": {"normal": 0.2}}}, (6, 1, 1), 3).double()
    state, points = network.state_dict(), torch.randn(4, 6, 1, 1, dtype=torch.float64)
    hidden = (points.flatten(1) @ state["hidden.weight"].T + state["hidden.bias"]).clamp(min=0)
    wanted = hidden @ state["classifier.weight"].T + state["classifier.bias"]
    torch.testing.assert_close(network(points), wanted)


def test_a_teacher_s_weights_are_of_the_grid_and_its_first_nodes_are_strong() -> None:
    strong, plain = (
        seeded({"two-layer": {"width": 40, "init": {"grid": {"strength": p}}}}, (30, 1, 1), 20).state_dict()
        for p in (2.0, 0.0)
    )
    rows = plain["hidden.weight"]
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(40))
    assert len({tuple(row.tolist()) for row in rows}) == 40
    assert torch.equal(rows, strong["hidden.weight"])
    for row in rows:  # every row is a multiple of quarters up to 1
        quarters = [row / row.abs().max() * largest for largest in (1, 2, 3, 4)]
        assert any((multiple - multiple.round()).abs().max() < 1e-4 for multiple in quarters)
    assert set((4 * plain["classifier.weight"]).flatten().tolist()) <= set(range(-4, 5))
    factor = torch.arange(1, 41) ** 2.0
    torch.testing.assert_close(strong["classifier.weight"] * factor, plain["classifier.weight"])
    assert all(
        (state[f"{layer}.bias"] == -0.1).all() for state in (strong, plain) for layer in ("hidden", "classifier")
    )


def test_rows_that_cannot_differ_are_refused() -> None:
    assert seeded({"two-layer": {"width": 2, "init": {"grid": {"strength": 1.0}}}}, (1, 1, 1), 2)
    with pytest.raises(ValueError, match="there are not 3 rows of 1 weights that differ; a smaller width would do"):
        seeded({"two-layer": {"width": 3, "init": {"grid": {"strength": 1.0}}}}, (1, 1, 1), 2)


@pytest.mark.parametrize("init", [{}, {"normal": 0.1, "grid": {"strength": 1.0}}])
def test_weights_begin_in_one_way(init: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="one of grid"):
        read({"two-layer": {"width": 3, "init": init}})


# Dropout


@pytest.mark.parametrize(
    ("written", "layers"), [("wrn-16-2", 6), ("wrn-40-2", 18), ("preact-resnet-18", 8), ({"cnn": {"width": 4}}, 1)]
)
def test_dropout_layers_are_there_when_off(written: object, layers: int) -> None:
    network = read(written).build(DIGITS, 10)
    rates = [module.p for module in network.modules() if isinstance(module, nn.Dropout)]
    assert rates == [0.0] * layers


@pytest.mark.parametrize("written", ["wrn-10-1", {"cnn": {"width": 4}}, {"mlp": {"hidden": [8, 8]}}])
def test_dropout_at_zero_changes_nothing_and_draws_nothing(written: object) -> None:
    network, images = seeded(written), torch.rand(4, *DIGITS)
    before = torch.get_rng_state()
    with_layers = network.train()(images)
    assert torch.equal(torch.get_rng_state(), before)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    assert torch.equal(network(images), with_layers)


@pytest.mark.parametrize("written", WITH_DROPOUT)
def test_dropout_acts_in_training_mode_only(written: dict[str, dict[str, object]]) -> None:
    network, images = seeded(written), torch.rand(4, *DIGITS)
    ((name, options),) = written.items()
    plain = seeded({name: options | {"dropout": 0.0}})
    assert torch.equal(network.eval()(images), plain.eval()(images))
    network.train()
    assert not torch.equal(network(images), network(images))


@pytest.mark.parametrize("written", WITH_DROPOUT)
def test_dropout_alone_can_be_switched_on(written: object) -> None:
    """A fickle teacher: dropout in training mode, everything else in evaluation mode, buffers untouched."""
    network, images = seeded(written).eval(), torch.rand(4, *DIGITS)
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    quiet = network(images)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.train()
    assert not torch.equal(network(images), quiet)
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in network.named_buffers())


def test_classifier_of_a_wide_resnet_sees_no_dropout() -> None:
    """Dropout at rate 1 is the network with silent second convolutions, and nothing else of it is lost."""
    network, images = seeded({"wrn-10-2": {"dropout": 1.0}}), torch.rand(4, *DIGITS)
    torch.testing.assert_close(network.train()(images), network(images), rtol=0, atol=0)
    with_dropout = network(images)
    for name, module in network.named_modules():
        if name.endswith("conv2"):
            nn.init.zeros_(module.weight)
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    assert torch.equal(network(images), with_dropout)


# Learning


@pytest.mark.parametrize("written", EVERY)
def test_gradient_reaches_every_parameter(written: object) -> None:
    network = seeded(written, (1, 16, 16), 4)
    loss = F.cross_entropy(network(torch.rand(16, 1, 16, 16)), torch.arange(16) % 4)
    loss.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("written", EVERY)
def test_a_batch_can_be_learnt(written: object) -> None:
    network = seeded(written, DIGITS, 4)
    images, labels = torch.rand(16, *DIGITS), torch.arange(16) % 4
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    before = F.cross_entropy(network(images), labels).item()
    for _ in range(30):
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()
    assert F.cross_entropy(network(images), labels).item() < before / 2


@pytest.mark.parametrize("written", EVERY)
def test_weights_are_fixed_by_the_seed(written: object) -> None:
    first, again, other = (seeded(written, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


def test_dropout_does_not_move_the_weights() -> None:
    """Runs that differ only in strength start from the same weights (paired comparisons)."""
    plain, noisy = seeded("wrn-10-1").state_dict(), seeded({"wrn-10-1": {"dropout": 0.5}}).state_dict()
    assert all(torch.equal(value, noisy[name]) for name, value in plain.items())


@pytest.mark.parametrize("name", ["wrn-16-4", "resnet-18", "preact-resnet-18"])
def test_initialisation_is_he_fan_out(name: str) -> None:
    network = seeded(name, CIFAR)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            expected = (2 / (module.out_channels * module.kernel_size[0] ** 2)) ** 0.5
            tolerance = 4 / (2 * module.weight.numel()) ** 0.5  # four standard errors of a standard deviation
            assert module.weight.std().item() == pytest.approx(expected, rel=tolerance)
            assert module.bias is None
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all()
    assert (network.classifier.bias == 0).all()
