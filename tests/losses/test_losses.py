"""The contract of every loss; then each one against its formula, written out plainly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.nn import functional

from kdtune.losses.ce import CE
from kdtune.losses.dkd import DKD
from kdtune.losses.kd import KD, kd_loss
from kdtune.losses.loss import Loss
from kdtune.losses.mse import MSE
from kdtune.losses.rslad import RSLAD
from kdtune.losses.trades import TRADES
from kdtune.losses.views import Answer, Views
from kdtune.noise.noise import Noise
from kdtune.settings import HEAVIEST, TEMPERATURES
from kdtune.training.lesson import Lesson

CLASSES = 10
# What a loss is given, a variant each; without an entry, 1 for whatever it asks for.
FIELDS: dict[str, list[dict[str, Any]]] = {
    "kd": [
        {"alpha": 0.9, "temperature": 4},
        {"alpha": 0.5, "temperature": 2, "divergence": "reverse"},
        {"alpha": 0.9, "temperature": 4, "teacher_sees": "shown"},
    ],
    "dkd": [
        {"alpha": 1, "beta": 8, "temperature": 4},
        {"alpha": 1, "beta": 2, "temperature": 2, "warmup": 20},
    ],
    "trades": [{"beta": 6}],
    "rslad": [{"clean": 0.1667}],
    "mse": [{}, {"teacher_sees": "shown"}],
}
every_loss = pytest.mark.parametrize(
    "loss",
    [
        pytest.param(kind(**fields), id=" ".join([key, *map(str, fields.values())]))
        for key, kind in Loss.kinds().items()
        for fields in FIELDS.get(key, [{name: 1 for name, field in kind.model_fields.items() if field.is_required()}])
    ],
)


def logits(seed: int, n: int = 16, classes: int = CLASSES, scale: float = 3.0, dtype: Any = torch.float32) -> Tensor:
    numbers = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(n, classes, generator=numbers, dtype=torch.float64)).to(dtype)


def labels(seed: int, n: int = 16, classes: int = CLASSES) -> Tensor:
    return torch.randint(classes, (n,), generator=torch.Generator().manual_seed(seed))


class Asked:
    """Views of a batch, and which of them were asked for."""

    def __init__(self, student: Tensor, teacher: Tensor, right: Tensor, epoch: int = 0, soft: bool = False) -> None:
        self.log: list[str] = []
        targets = functional.one_hot(right, student.shape[1]) * 0.8 + 0.2 / student.shape[1] if soft else right
        self.views = Views(
            right, targets, epoch, self.answering("student", student), self.answering("teacher", teacher)
        )

    def answering(self, who: str, said: Tensor) -> Callable[[str], Answer]:
        def answer(which: str) -> Answer:
            self.log.append(f"{who} {which}")
            return Answer(said if which == "shown" or who == "teacher" else said.flip(1))

        return answer


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, CLASSES))


# the contract


@every_loss
@pytest.mark.parametrize("soft", [False, True])
def test_a_loss_is_a_finite_scalar_and_its_parts_are_named(loss: Loss, soft: bool) -> None:
    value, parts = loss(Asked(logits(1), logits(2), labels(3), soft=soft).views)
    assert value.shape == () and value.isfinite() and value.dtype == torch.float32
    assert parts and all(name.isidentifier() and name not in ("loss", "accuracy") for name in parts)
    assert all(part.shape == () and part.isfinite() for part in parts.values())


@every_loss
def test_certain_answers_give_a_finite_loss_and_gradient(loss: Loss) -> None:
    student = 200 * torch.eye(CLASSES).requires_grad_()
    student.retain_grad()
    value, _ = loss(Asked(student, 200 * torch.eye(CLASSES).roll(1, 0), labels(0, CLASSES)).views)
    value.backward()
    assert value.isfinite() and student.grad is not None and student.grad.isfinite().all()


@every_loss
def test_each_view_is_asked_for_at_most_once_and_a_teacher_only_where_the_loss_says_so(loss: Loss) -> None:
    asked = Asked(logits(1), logits(2), labels(3))
    loss(asked.views)
    assert len(asked.log) == len(set(asked.log))
    assert any(each.startswith("student") for each in asked.log)
    assert any(each.startswith("teacher") for each in asked.log) == loss.needs_teacher


@every_loss
def test_gradient_reaches_the_student_and_never_the_teacher(loss: Loss) -> None:
    student, teacher = network(1), network(2)
    lesson = Lesson(CLASSES, 0, Noise(), loss, teacher if loss.needs_teacher else None)
    lesson.begin(0)
    value, parts = lesson(student, torch.rand(16, 1, 8, 8), labels(0))
    value.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())
    assert all(p.grad is None for p in teacher.parameters())
    assert not any(part.requires_grad for part in parts.values())


@every_loss
def test_a_loss_that_needs_a_teacher_says_so(loss: Loss) -> None:
    if loss.needs_teacher:
        with pytest.raises(ValueError, match=f"the loss {loss.key} needs a teacher, and this run has none"):
            Lesson(CLASSES, 0, Noise(), loss)
    else:
        Lesson(CLASSES, 0, Noise(), loss)


@every_loss
def test_a_loss_is_written_and_read_back(loss: Loss) -> None:
    family = TypeAdapter(Loss)
    assert family.validate_python(loss.dumped()) == family.validate_json(family.dump_json(loss)) == loss


@every_loss
def test_a_batch_of_copies_has_the_loss_of_one(loss: Loss) -> None:
    """It is a mean over images: twice the batch is not twice the loss."""
    once, teacher, right = logits(1), logits(2), labels(3)
    one, _ = loss(Asked(once, teacher, right).views)
    twice, _ = loss(Asked(once.repeat(2, 1), teacher.repeat(2, 1), right.repeat(2)).views)
    torch.testing.assert_close(twice, one)


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_within_what_settings_allow_float32_has_the_gradient_of_float64(
    temperature: float, scale: float, classes: int
) -> None:
    """Row C13: at a temperature of a million it was noise, at 1e300 an OverflowError."""
    ours: list[Loss] = [
        KD(alpha=1, temperature=temperature),
        KD(alpha=1, temperature=temperature, divergence="reverse"),
        DKD(alpha=HEAVIEST, beta=HEAVIEST, temperature=temperature),
    ]
    right = labels(0, 64, classes)
    for loss in ours:
        found = []
        for dtype in (torch.float64, torch.float32):
            student = logits(1, 64, classes, scale, dtype).requires_grad_()
            value, _ = loss(Asked(student, logits(2, 64, classes, scale, dtype), right).views)
            found.append(torch.autograd.grad(value, student)[0].double())
        assert (found[1] - found[0]).norm() < 0.005 * found[0].norm(), loss


@pytest.mark.parametrize("temperature", [0, 1e-9, 1e5, 1e300])
def test_a_temperature_at_which_gradients_are_rounding_is_refused(temperature: float) -> None:
    for kind, fields in (KD, {"alpha": 1}), (DKD, {"alpha": 1, "beta": 1}):
        with pytest.raises(ValueError, match=r"temperatures are in \[0.1, 1000\]; beyond, gradients are lost"):
            kind(**fields, temperature=temperature)


def test_weights_beside_which_the_cross_entropy_is_nothing_are_refused() -> None:
    for fields in ({"alpha": 1e6, "beta": 1}, {"alpha": 1, "beta": 1e6}):
        with pytest.raises(ValueError, match=r"weights are in \[0, 1000\]; beyond, the cross-entropy is lost"):
            DKD(**fields, temperature=4)


# ce and kd


@pytest.mark.parametrize("soft", [False, True])
def test_ce_is_torchs_cross_entropy_bit_for_bit(soft: bool) -> None:
    asked = Asked(logits(1), logits(2), labels(3), soft=soft)
    loss, parts = CE()(asked.views)
    assert torch.equal(loss, functional.cross_entropy(logits(1), asked.views.targets))
    assert torch.equal(parts["ce"], loss) and asked.log == ["student shown"]


@pytest.mark.parametrize("sees", ["clean", "shown"])
@pytest.mark.parametrize("divergence", ["forward", "reverse"])
@pytest.mark.parametrize(("alpha", "temperature"), [(0.0, 4.0), (0.3, 1.0), (0.9, 4.0), (1.0, 20.0)])
def test_kd_is_its_plain_formula_bit_for_bit(alpha: float, temperature: float, divergence: Any, sees: Any) -> None:
    s, t, right = logits(1), logits(2), labels(3)
    asked = Asked(s, t, right)
    loss, parts = KD(alpha=alpha, temperature=temperature, divergence=divergence, teacher_sees=sees)(asked.views)
    log_s, log_t = (s / temperature).log_softmax(1), (t / temperature).log_softmax(1)
    p, q = (log_t, log_s) if divergence == "forward" else (log_s, log_t)
    kd = temperature**2 * functional.kl_div(q, p, reduction="batchmean", log_target=True)
    ce = functional.cross_entropy(s, right)
    assert torch.equal(loss, (1 - alpha) * ce + alpha * kd)
    assert torch.equal(parts["ce"], ce) and torch.equal(parts["kd"], kd)
    assert asked.log == [f"teacher {sees}", "student shown"]  # the teacher first: its activations are freed by then


def test_kd_with_a_teacher_who_sees_what_is_shown_has_the_gradient_of_kd_at() -> None:
    """(1 - lambda) CE(label) + lambda T^2 CE(softened teacher), as the code of Dong, Liu & Shang (papers D.1)."""
    alpha, temperature, right = 0.8, 1.47, labels(3)
    s, t = logits(1, dtype=torch.float64).requires_grad_(), logits(2, dtype=torch.float64)
    loss, _ = KD(alpha=alpha, temperature=temperature, teacher_sees="shown")(Asked(s, t, right).views)
    softened = -((t / temperature).softmax(1) * (s / temperature).log_softmax(1)).sum(1).mean()
    theirs = (1 - alpha) * functional.cross_entropy(s, right) + alpha * temperature**2 * softened
    ours, wanted = (torch.autograd.grad(each, s)[0] for each in (loss, theirs))
    torch.testing.assert_close(ours, wanted)


def test_kd_that_is_calibrated_has_numbers_before_it_is_called() -> None:
    """Read from its teacher when a run begins; until then there is nothing to compute with."""
    views = Asked(logits(1), logits(2), labels(3)).views
    asked = KD(calibrated="calibration", teacher_sees="shown")
    with pytest.raises(ValueError, match="alpha and temperature are still to be read, as calibrated: calibration says"):
        asked(views)
    read = asked.calibrated_to(alpha=0.8, temperature=1.47)
    assert read == KD(alpha=0.8, temperature=1.47, teacher_sees="shown") and read.softens_at == 1.47
    assert asked.softens_at is None


# dkd


def reference(s: Tensor, t: Tensor, right: Tensor, alpha: float, beta: float, temperature: float) -> Tensor:
    """Decoupled distillation as the authors' public code computes it (arXiv 2203.08679, equations 2 to 7)."""
    mask = torch.zeros_like(s).scatter_(1, right[:, None], 1.0)

    def binary(said: Tensor) -> Tensor:
        p = (said / temperature).softmax(1)
        return torch.stack([(p * mask).sum(1), (p * (1 - mask)).sum(1)], dim=1)

    def without_target(said: Tensor) -> Tensor:
        return said / temperature - 1000.0 * mask

    scale = temperature**2 / len(s)
    tckd = functional.kl_div(binary(s).log(), binary(t), reduction="sum") * scale
    rest = functional.kl_div(without_target(s).log_softmax(1), without_target(t).softmax(1), reduction="sum") * scale
    return alpha * tckd + beta * rest


def decoupled(
    s: Tensor, t: Tensor, right: Tensor, alpha: float, beta: float, temperature: float, **more: Any
) -> Tensor:
    """What DKD adds to the cross-entropy."""
    epoch = more.pop("epoch", 0)
    loss, parts = DKD(alpha=alpha, beta=beta, temperature=temperature, **more)(Asked(s, t, right, epoch).views)
    return loss - parts["ce"]


@pytest.mark.parametrize("classes", [2, 3, 10, 37, 100])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0, 10.0])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 8.0), (1.0, 0.0), (0.0, 1.0), (2.0, 0.5)])
def test_dkd_and_its_gradient_are_those_of_the_public_code(
    classes: int, temperature: float, alpha: float, beta: float
) -> None:
    for seed in range(5):
        right = labels(seed, 12, classes)
        found = []
        for formula in (decoupled, reference):
            s = logits(2 * seed, 12, classes, dtype=torch.float64).requires_grad_()
            t = logits(2 * seed + 1, 12, classes, dtype=torch.float64)
            value = formula(s, t, right, alpha, beta, temperature)
            found.append((value.detach(), *torch.autograd.grad(value, s)))
        torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 20), st.integers(2, 100), st.floats(0.1, 5), st.floats(1, 20))
def test_dkd_in_single_precision_is_the_public_code_in_double(
    seed: int, n: int, classes: int, scale: float, temperature: float
) -> None:
    s, t, right = logits(seed, n, classes, scale), logits(seed + 1, n, classes, scale), labels(seed, n, classes)
    expected = reference(s.double(), t.double(), right, 1.0, 4.0, temperature)
    found = decoupled(s, t, right, 1.0, 4.0, temperature)
    assert found.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-5 * temperature**2)


def test_dkd_adds_cross_entropy_with_the_targets_and_decouples_at_the_labels() -> None:
    s, t, right = logits(1), logits(2), labels(3)
    asked = Asked(s, t, right, soft=True)
    loss, parts = DKD(alpha=1, beta=8, temperature=4)(asked.views)
    assert torch.equal(parts["ce"], functional.cross_entropy(s, asked.views.targets))
    torch.testing.assert_close(loss, parts["ce"] + reference(s, t, right, 1, 8, 4))
    assert list(parts) == ["ce", "tckd", "nckd"]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 100), st.floats(0.5, 20))
def test_kd_is_tckd_plus_what_the_teacher_leaves_times_nckd_for_each_image(
    seed: int, classes: int, temperature: float
) -> None:
    s, t = (logits(seed + i, 8, classes, dtype=torch.float64) for i in range(2))
    right = labels(seed, 8, classes)
    for i in range(8):
        one = slice(i, i + 1)
        _, parts = DKD(alpha=1, beta=1, temperature=temperature)(Asked(s[one], t[one], right[one]).views)
        p_t = (t[one] / temperature).softmax(1)[0, right[i]]
        kd = kd_loss(s[one], t[one], temperature) / temperature**2
        torch.testing.assert_close(parts["tckd"] + (1 - p_t) * parts["nckd"], kd, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("warmup", [0, 1, 3, 20])
def test_dkd_warms_up_with_epochs_counted_from_one(warmup: int) -> None:
    s, t, right = (logits(i, dtype=torch.float64) for i in (1, 2, 3))
    right = labels(3)
    full = reference(s, t, right, 1, 8, 4)
    for epoch in range(25):
        factor = min((epoch + 1) / warmup, 1.0) if warmup else 1.0
        found = decoupled(s, t, right, 1, 8, 4, warmup=warmup, epoch=epoch)
        torch.testing.assert_close(found, factor * full)


def test_a_lesson_tells_the_loss_its_epoch() -> None:
    student, teacher, images = network(1), network(2), torch.rand(16, 1, 8, 8)
    lesson = Lesson(CLASSES, 0, Noise(), DKD(alpha=1, beta=8, temperature=4, warmup=4), teacher)
    added = []
    for epoch in range(6):
        lesson.begin(epoch)
        loss, parts = lesson(student, images, labels(0))
        added.append(float(loss.detach() - parts["ce"]))
    assert [one / added[-1] for one in added] == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1], rel=1e-4)


def test_dkd_of_equal_answers_is_zero() -> None:
    s = logits(1, dtype=torch.float64)
    assert abs(decoupled(s, s.clone(), labels(3), 1, 8, 4).item()) < 1e-12


# trades and rslad: of clean answers and of answers to what is shown instead


def both(seed: int, classes: int = CLASSES, dtype: Any = torch.float64) -> tuple[Tensor, Tensor]:
    """The student's clean and shown answers, leaves that ask for a gradient."""
    clean, shown = (logits(seed + more, 12, classes, dtype=dtype).requires_grad_() for more in (0, 1))
    return clean, shown


def seen(clean: Tensor, shown: Tensor, right: Tensor, teacher: Tensor | None = None, soft: bool = False) -> Views:
    targets = functional.one_hot(right, clean.shape[1]) * 0.8 + 0.2 / clean.shape[1] if soft else right
    answers = {"clean": Answer(clean), "shown": Answer(shown)}

    def teach(which: str) -> Answer:
        assert teacher is not None and which == "clean"
        return Answer(teacher)

    return Views(right, targets, 0, answers.__getitem__, teach)


def kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) of each image, plainly: [N]. p, q: probabilities [N, K]."""
    return (p * (p.log() - q.log())).sum(1)


def agree(found: Tensor, expected: Tensor, leaves: tuple[Tensor, ...], **tolerance: float) -> None:
    """Two values, and their gradients in these answers."""
    ours, theirs = (torch.autograd.grad(value, leaves) for value in (found, expected))
    torch.testing.assert_close([found, *ours], [expected, *theirs], **tolerance)
    assert all(slope.abs().max() > 1e-6 for slope in ours)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.parametrize("beta", [0.5, 1.0, 6.0])
def test_trades_is_its_formula_and_its_gradient_goes_through_both_answers(
    beta: float, classes: int, soft: bool
) -> None:
    (clean, shown), right = both(1, classes), labels(3, 12, classes)
    views = seen(clean, shown, right, soft=soft)
    loss, parts = TRADES(beta=beta)(views)
    apart = kl(clean.softmax(1), shown.softmax(1)).mean()
    expected = functional.cross_entropy(clean, views.targets) + beta * apart
    agree(loss, expected, (clean, shown), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(parts["kl"], apart)
    assert torch.equal(parts["ce"], functional.cross_entropy(clean, views.targets))


@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.parametrize("clean_weight", [0.0, 1 / 6, 1.0])
def test_rslad_is_its_formula_and_a_mean_over_classes_too(clean_weight: float, classes: int) -> None:
    (clean, shown), teacher = both(1, classes), logits(5, 12, classes, dtype=torch.float64)
    loss, parts = RSLAD(clean=clean_weight)(seen(clean, shown, labels(3, 12, classes), teacher))
    on_shown, on_clean = (kl(teacher.softmax(1), said.softmax(1)).sum() / (12 * classes) for said in (shown, clean))
    expected = (1 - clean_weight) * on_shown + clean_weight * on_clean
    torch.testing.assert_close([parts["kl_shown"], parts["kl_clean"]], [on_shown, on_clean])
    leaves = {0.0: (shown,), 1.0: (clean,)}.get(clean_weight, (shown, clean))
    agree(loss, expected, leaves, rtol=1e-9, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 100))
def test_in_single_precision_both_are_themselves_in_double(seed: int, classes: int) -> None:
    (clean, shown), teacher, right = both(seed, classes), logits(seed + 2, 12, classes), labels(seed, 12, classes)
    for loss in TRADES(beta=6), RSLAD(clean=0.1667):
        double, _ = loss(seen(clean, shown, right, teacher.double()))
        single, _ = loss(seen(clean.float(), shown.float(), right, teacher))
        assert single.item() == pytest.approx(double.item(), rel=1e-4, abs=1e-6)


def test_where_nothing_is_moved_trades_is_cross_entropy_and_rslad_has_one_term() -> None:
    assert TRADES(beta=6).under(moved=False) == CE() and TRADES(beta=6).under(moved=True) == TRADES(beta=6)
    assert RSLAD(clean=0.2).under(moved=False) == RSLAD(clean=0.7).under(moved=False) != RSLAD(clean=0.2)
    assert RSLAD(clean=0.2).under(moved=True) == RSLAD(clean=0.2) and CE().under(moved=False) == CE()
    (same, _), teacher, right = both(1), logits(5, 12, dtype=torch.float64), labels(3, 12)
    for loss in TRADES(beta=6), RSLAD(clean=0.2):
        views = seen(same, same, right, teacher)
        torch.testing.assert_close(loss(views)[0], loss.under(moved=False)(views)[0])


@pytest.mark.parametrize(("kind", "fields"), [(TRADES, {"beta": -1}), (TRADES, {"beta": 1e6}), (RSLAD, {"clean": 1.1})])
def test_weights_out_of_range_are_refused(kind: type[Loss], fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"weights are in|less than or equal to 1"):
        kind(**fields)


@pytest.mark.parametrize("teacher_sees", ["clean", "shown"])
def test_one_step_of_mse_is_the_theory_s(teacher_sees: str) -> None:
    """Tian's equations in float64: dW2 = mean of (s - t) h', db2 of s - t, dW1 of 1[h > 0] W2' (s - t) x'."""
    numbers = torch.Generator().manual_seed(0)
    w1, w2 = (torch.randn(*of, generator=numbers, dtype=torch.float64) for of in ((5, 7), (3, 5)))
    x, delta = (torch.randn(8, 7, generator=numbers, dtype=torch.float64) for _ in range(2))
    answers = {"clean": torch.randn(8, 3, generator=numbers, dtype=torch.float64)}
    answers["shown"] = answers["clean"] + 1

    weights = [w1.clone().requires_grad_(), w2.clone().requires_grad_()]

    def student(which: str) -> Answer:
        return Answer(((x + delta * (which == "shown")) @ weights[0].T).relu() @ weights[1].T)

    views = Views(labels(0, 8, 3), labels(0, 8, 3), 0, student, lambda which: Answer(answers[which]))
    loss, _ = MSE(teacher_sees=teacher_sees)(views)
    loss.backward()

    shown = x + delta
    hidden = (shown @ w1.T).clamp(min=0)
    apart = hidden @ w2.T - answers[teacher_sees]
    torch.testing.assert_close(loss.detach(), apart.square().sum() / 16)
    torch.testing.assert_close(weights[1].grad, apart.T @ hidden / 8)
    torch.testing.assert_close(weights[0].grad, ((apart @ w2) * (hidden > 0)).T @ shown / 8)


def test_mse_is_half_the_outputs_times_torch_s() -> None:
    student, teacher = logits(1), logits(2)
    loss, _ = MSE()(Asked(student, teacher, labels(3)).views)
    torch.testing.assert_close(loss, CLASSES / 2 * functional.mse_loss(student, teacher))
