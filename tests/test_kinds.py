"""The one mechanism for all that a sweep file names."""

from __future__ import annotations

import subprocess
import sys
from abc import abstractmethod
from typing import Annotated, Any, ClassVar, get_args

import pytest
from pydantic import BaseModel, ValidationError, model_validator

from kdtune.config import Sweep
from kdtune.data.dataset import Dataset
from kdtune.evaluation.evaluator import Evaluator
from kdtune.kinds import Kind, Several, snake_case
from kdtune.losses.loss import Loss
from kdtune.models.model import Model
from kdtune.networks import Student
from kdtune.noise.input import InputKnob
from kdtune.noise.labels import LabelsKnob
from kdtune.noise.target import TargetKnob
from kdtune.noise.teacher import TeacherKnob
from kdtune.optimization.optimizers import Optimizer
from kdtune.optimization.schedules import Schedule
from kdtune.run import Run
from kdtune.settings import Count, Positive, Rate, Settings
from kdtune.sweepfile.tree import NAMING, POINTS

KNOBS = [InputKnob, TeacherKnob, TargetKnob, LabelsKnob]
FAMILIES = [*KNOBS, Evaluator, Model, Dataset, Optimizer, Schedule, Loss]
KNOWN = "circle, dot, grid-{rows}-{columns}"


class Shape(Kind, home="kdtune.kinds"):
    """A family of the tests' own: `colour` stands beside."""

    colour: Count | None = None

    @abstractmethod
    def area(self) -> float: ...


class Circle(Shape):
    radius: Positive

    def area(self) -> float:
        return 3 * self.radius**2


class Dot(Shape):
    def area(self) -> float:
        return 0.0


class Grid(Shape):
    key: ClassVar[str] = "grid-{rows}-{columns}"
    familiar: ClassVar[tuple[str, ...]] = ("grid-2-3",)
    rows: Count
    columns: Count
    filled: Rate = 0.0

    @model_validator(mode="after")
    def _not_square(self) -> Grid:
        if self.rows == self.columns:
            raise ValueError("a square is no grid")
        return self

    def area(self) -> float:
        return float(self.rows * self.columns)


class Drawing(Settings):
    shape: Shape
    others: Annotated[tuple[Shape, ...], Several(Shape)] = ()


def drawing(**stated: Any) -> Drawing:
    return Drawing.model_validate(stated)


def problems(**stated: Any) -> list[tuple[str, str]]:
    """Where and what."""
    with pytest.raises(ValidationError) as caught:
        drawing(**stated)
    errors = caught.value.errors()
    return [(".".join(map(str, error["loc"])), error["msg"].removeprefix("Value error, ")) for error in errors]


def test_a_field_of_the_family_holds_the_kind_that_was_named() -> None:
    assert drawing(shape={"circle": {"radius": 2}}).shape == Circle(radius=2.0)
    assert drawing(shape={"circle": {"radius": 2}, "colour": 3}).shape == Circle(radius=2.0, colour=3)
    assert drawing(shape=Circle(radius=1)).shape == Circle(radius=1)


def test_a_bare_name_is_a_kind_without_settings() -> None:
    assert drawing(shape="dot") == drawing(shape={"dot": {}})


def test_a_key_may_hold_fields() -> None:
    for name in ("grid-2-3", "GRID_2_3"):
        assert drawing(shape={name: {"filled": 0.5}}).shape == Grid(rows=2, columns=3, filled=0.5)
    assert Grid(rows=2, columns=3).written == "grid-2-3"
    (wrong,) = problems(shape={"grid-2-3": {"rows": 4}})
    assert wrong == ("shape.grid-2-3.rows", "unknown key 'rows'; known here: filled")
    assert problems(shape="grid-0-3") == [("shape.grid-0-3", "rows 0: input should be greater than or equal to 1")]
    assert problems(shape="grid-3-3") == [("shape.grid-3-3", "a square is no grid")]
    assert "unknown shape" in problems(shape="grid-" + "9" * 5000 + "-1")[0][1]


def test_what_is_dumped_is_what_was_stated_and_reads_back() -> None:
    stated = {"shape": {"grid-2-3": {"filled": 0.5}, "colour": 1}, "others": {"dot": {}, "circle": {"radius": 1.0}}}
    made = Drawing.model_validate(stated)
    assert made.model_dump(mode="json") == stated
    assert list(made.model_dump()["others"]) == ["dot", "circle"], "written order"
    assert Drawing.model_validate_json(made.model_dump_json()) == made


def test_a_kind_is_frozen_and_hashable() -> None:
    assert hash(Circle(radius=1)) == hash(Circle(radius=1.0))
    with pytest.raises(ValidationError, match="frozen"):
        Circle(radius=1).radius = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        ({}, [("shape", f"names no shape; exactly one of {KNOWN}")]),
        ({"colour": 1}, [("shape", f"names no shape; exactly one of {KNOWN}")]),
        ({"circle": {"radius": 1}, "dot": {}}, [("shape", f"names circle and dot; exactly one of {KNOWN}")]),
        (3, [("shape", f"names no shape; known here: {KNOWN}")]),
        ("circel", [("shape", "unknown shape 'circel'; did you mean circle? (One of your own: --with FILE.py)")]),
        (
            {"circel": {}},
            [("shape.circel", "unknown shape 'circel'; did you mean circle? (One of your own: --with FILE.py)")],
        ),
        ("gird-2-3", [("shape", "unknown shape 'gird-2-3'; did you mean grid-2-3? (One of your own: --with FILE.py)")]),
        ({"circle": 3}, [("shape.circle", "came 3; its settings are a mapping, such as {}")]),
        ({"circle": None}, [("shape.circle", "came None; its settings are a mapping, such as {}")]),
        ("circle", [("shape.circle.radius", "Field required")]),
        ({"circle": {"radius": 1}, "color": 2}, [("shape.color", "unknown key 'color'; did you mean colour?")]),
        (
            {"circle": {"radius": 1, "colour": 2}},
            [("shape.circle.colour", "colour stands beside circle, not below it")],
        ),
        (
            {"circle": {"radius": -1, "raduis": 2}, "colour": 0},
            [
                ("shape.colour", "Input should be greater than or equal to 1"),
                ("shape.circle.radius", "Input should be greater than 0"),
                ("shape.circle.raduis", "unknown key 'raduis'; did you mean radius?"),
            ],
        ),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_at_its_place_with_what_would_do(shape: Any, found: list[tuple[str, str]]) -> None:
    assert problems(shape=shape) == found


def test_several_kinds_are_refused_one_by_one() -> None:
    found = problems(shape="dot", others={"dot": {}, "DOT": {}, "circle": {"radius": 0}, "square": {}})
    assert [where for where, _ in found] == ["others.DOT", "others.circle.radius", "others.square"]
    assert drawing(shape="dot", others={"circle": None}).others == (), "an axis may take it away"
    assert drawing(shape="dot", others=None).others == ()
    (wrong,) = problems(shape="dot", others={"circel": None})
    assert wrong == ("others.circel", "unknown shape 'circel'; did you mean circle? (One of your own: --with FILE.py)")
    assert problems(shape="dot", others=[1])[0][0] == "others"


def test_a_key_belongs_to_one_kind() -> None:
    with pytest.raises(TypeError, match=r"the key 'dot' is .*Dot's; state another"):

        class Point(Shape):
            key: ClassVar[str] = "dot"

            def area(self) -> float:
                return 0.0


def test_an_abstract_base_between_is_no_kind() -> None:
    class Round(Shape):
        @abstractmethod
        def girth(self) -> float: ...

    assert "round" not in Shape.kinds()


@pytest.mark.parametrize(
    ("name", "key"),
    [("SignalNoise", "signal_noise"), ("PGD", "pgd"), ("FashionMNIST", "fashion_mnist"), ("CIFAR10", "cifar10")],
)
def test_a_key_is_the_class_name_in_snake_case(name: str, key: str) -> None:
    assert snake_case(name) == key


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_every_kind_of_kdtune_is_documented_closed_and_found_by_its_key(family: type[Kind]) -> None:
    kinds = {key: kind for key, kind in family.kinds().items() if kind.__module__.startswith("kdtune.")}
    assert kinds
    for key, kind in kinds.items():
        assert kind.__doc__ and kind.__doc__ != family.__doc__, f"{kind.__name__} does not say what it is"
        assert kind.model_config["extra"] == "forbid" and kind.model_config["frozen"]
        for name in kind.familiar or (key,):
            assert family.find(name)[0] is kind
        assert not {*kind.known_keys()} & {*family.model_fields}, "what stands beside does not stand below too"


def settings_in(model: type[BaseModel], seen: set[type]) -> dict[str, type[Settings]]:
    """The fields of a model, and of the settings in it, that hold settings; kinds are not looked into."""
    found: dict[str, type[Settings]] = {}
    for name, field in model.model_fields.items():
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, Settings) and part not in seen:
                found[name] = part
                if not issubclass(part, Kind):
                    found |= settings_in(part, seen | {part})
    return found


def test_an_overlay_replaces_exactly_those_mappings_that_name_a_kind() -> None:
    one = {Model, Dataset, Optimizer, Schedule, Loss}  # knobs and evaluators come several at a time
    assert {name for name, part in settings_in(Sweep, set()).items() if part in one} == NAMING
    assert {family.home.removeprefix("kdtune.noise.") for family in KNOBS} == POINTS


def test_kinds_are_looked_up_at_validation_and_load_nothing_heavy() -> None:
    program = (
        "import sys; import kdtune.config; import kdtune.networks as networks\n"
        "print('kdtune.models.residual' in sys.modules, 'kdtune.evaluation.masking' in sys.modules)\n"
        "from kdtune.evaluation.evaluator import Evaluator\n"
        "for family in networks.Model, networks.Dataset, networks.Loss, Evaluator: family.kinds()\n"
        "print('kdtune.models.residual' in sys.modules, 'kdtune.evaluation.masking' in sys.modules)\n"
        "print(sorted({'torch', 'ray', 'pandas', 'torchvision', 'sklearn'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["False False", "True True", "[]"]


RECIPE: dict[str, Any] = {
    "optimizer": {"sgd": {"lr": 0.1}},
    "schedule": "cosine",
    "precision": "float32",
    "batch_size": 8,
    "epochs": 1,
}
RUN: dict[str, Any] = {"dataset": "digits", "content": {}, "model": "wrn-16-2", "recipe": RECIPE, "seed": 0}


def id_of(**changes: Any) -> str:
    return Run.model_validate({**RUN, **changes}).id


def test_a_loss_beside_distillation_is_refused_and_kd_by_either_name_is_one_run() -> None:
    """`loss: {kd: ...}` is what `distillation` writes."""
    kd = {"alpha": 0.9, "temperature": 4.0}
    plain = {"model": "wrn-16-2", "recipe": RECIPE}
    with pytest.raises(ValidationError, match="exactly one"):
        Student.model_validate({**plain, "distillation": kd, "loss": "ce"})
    written = [Student.model_validate({**plain, **one}) for one in ({"distillation": kd}, {"loss": {"kd": kd}})]
    assert all(student.asks for student in written) and not Student.model_validate(plain).asks
    runs = [Run.model_validate({**RUN, "loss": student.objective}) for student in written]
    assert runs[0].id == runs[1].id and runs[0].description["distillation"] == kd


def test_order_of_keys_does_not_enter_an_id_but_that_of_knobs_does() -> None:
    stated: dict[str, Any] = {
        "content": {"name": "digits", "seed": 0, "labels": {"corruption": {"rate": 0.1, "classes": "wrong"}}},
        "model": {"cnn": {"width": 4, "dropout": 0.1}},
        "recipe": {**RECIPE, "optimizer": {"adamw": {"lr": 0.1, "betas": [0.9, 0.99], "weight_decay": 0.1}}},
        "loss": {"kd": {"alpha": 0.5, "temperature": 2, "divergence": "reverse"}},
        "noise": {"target": {"variability": {"rate": 0.1}}, "input": {"gaussian": {"sigma": 0.1, "clamp": True}}},
    }

    def backwards(value: Any) -> Any:
        return {key: backwards(part) for key, part in reversed(value.items())} if isinstance(value, dict) else value

    assert id_of(**stated) == id_of(**backwards(stated))
    teacher = {"signal_noise": {"sigma": 0.1}, "dropout": {"rate": 0.1}}
    assert id_of(noise={"teacher": teacher}) != id_of(noise={"teacher": dict(reversed(teacher.items()))})


def test_ids_of_runs_that_state_something_else_differ() -> None:
    """float32 and bfloat16, every optimizer and schedule, with and without warm-up."""
    adam = {"lr": 0.1, "betas": [0.9, 0.999]}
    recipes = [
        {**RECIPE, "optimizer": optimizer, "schedule": schedule, "precision": precision}
        for optimizer in ({"sgd": {"lr": 0.1}}, {"adam": adam}, {"adamw": adam})
        for schedule in ("cosine", {"cosine": {"warmup": 0.1}}, {"step": {"milestones": [0.5], "factor": 0.1}})
        for precision in ("float32", "bfloat16")
    ]
    assert len({id_of(recipe=recipe) for recipe in recipes}) == len(recipes) == 18


def test_a_loss_that_is_what_is_minimised_anyway_is_not_written() -> None:
    assert id_of(loss="ce") == id_of()


@pytest.mark.parametrize(
    "optimizer", [{"sgd": {"lr": 0.1, "nesterov": True}}, {"adam": {"lr": 0.1, "betas": [1.0, 0.9]}}], ids=str
)
def test_what_torch_would_refuse_is_refused_in_the_file(optimizer: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        id_of(recipe={**RECIPE, "optimizer": optimizer})
