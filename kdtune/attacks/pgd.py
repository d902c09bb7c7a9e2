"""Projected gradient descent, for evaluation as the paper defines it, and to make images that networks learn from.

As Arani et al. (arXiv 1910.05057) use it: in the l-infinity ball, from a random start, the sign of the gradient of the
cross-entropy, judged at the iterate that is reached, not at the best one on the way. Pixels lie in [0, 1]; a network
normalises inside. Two further losses are for networks whose logits are so large that float32 loses the gradient of the
cross-entropy, a third leads towards a class. In the l2 ball a step goes along the gradient, each image's at length 1
(Madry et al. 2018's code, as Ilyas et al. 2019 use it).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Loss = Callable[[Tensor, Tensor], Tensor]  # (logits [N, K], labels [N]) -> a scalar that the attack climbs
Norm = Literal["linf", "l2"]
Bounds = tuple[float, float] | None  # what a pixel can be; None: any number
Confine = Callable[[Tensor], Tensor]  # the part of ways [N, C, H, W] in a subspace that a perturbation is to stay in


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over the images: a mean would divide each image's gradient by the batch size, and small ones underflow."""
    return functional.cross_entropy(logits, labels, reduction="sum")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over the images of the largest wrong logit minus the right one: above 0 where the answer is wrong.

    Linear in the logits, so that its gradient does not fade where the cross-entropy's does. Carlini & Wagner 2017,
    section V-A, f6 for any wrong class and without its bound.
    """
    return (wrong(logits, labels) - logits.gather(1, labels[:, None])[:, 0]).sum()


def scaled(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each image's logits divided by their standard deviation over the classes (uncorrected).

    No logits are too large for it, whatever the temperature of a network was. The deviation is measured, not climbed:
    where there are two classes the divided logits are always 1 and -1, and climbing that would be no climb at all.
    """
    deviation = logits.detach().std(1, correction=0, keepdim=True)
    return cross_entropy(logits / deviation.clamp(min=torch.finfo(logits.dtype).tiny), labels)


def towards(logits: Tensor, targets: Tensor) -> Tensor:
    """The cross-entropy of targets, classes that are not the images' own, going downhill."""
    return -cross_entropy(logits, targets)


def wrong(logits: Tensor, labels: Tensor) -> Tensor:
    """The largest logit that is not the label's: [N]. logits: [N, K], K at least 2; labels: [N]."""
    return logits.scatter(1, labels[:, None], -torch.inf).max(1).values


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "margin": margin, "scaled": scaled}


@dataclass(frozen=True)
class Ball:
    """Around each of images [N, C, H, W], with a radius for all or one each [N, 1, 1, 1]: where iterates may be."""

    images: Tensor
    radius: float | Tensor
    norm: Norm
    bounds: Bounds
    confine: Confine | None = None  # None: every way from the image is open

    def __post_init__(self) -> None:
        if self.confine is not None and (self.norm != "l2" or self.bounds is not None):
            raise ValueError("only the l2 ball without bounds is cut by a subspace in a ball again")

    def project(self, iterate: Tensor) -> Tensor:
        """The nearest points of the ball; then what is beyond the bounds is cut off."""
        low, high = self.bounds or (None, None)
        if self.norm == "linf":
            lowest, highest = self.images - self.radius, self.images + self.radius
            if self.bounds is not None:
                lowest, highest = lowest.clamp(min=low), highest.clamp(max=high)
            return iterate.clamp(lowest, highest)
        away = iterate - self.images
        away = away if self.confine is None else self.confine(away)
        inside = self.images + away * (self.radius / length(away)).clamp(max=1)
        return inside if self.bounds is None else inside.clamp(low, high)

    def uphill(self, gradient: Tensor) -> Tensor:
        """The direction of a step: of length 1 in the ball's norm."""
        gradient = gradient if self.confine is None else self.confine(gradient)
        return gradient.sign() if self.norm == "linf" else gradient / length(gradient)


def length(of: Tensor) -> Tensor:
    """The l2 norm of each image, [N, 1, 1, 1]; that of one that is 0 counts as the smallest number, to divide by."""
    return of.flatten(1).norm(dim=1).clamp(min=torch.finfo(of.dtype).tiny).view(-1, 1, 1, 1)


def pgd(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    start: Tensor,
    eps: float | Tensor,
    step: float | Tensor,
    steps: int,
    at: Iterable[int] | None = None,
    loss: Loss = cross_entropy,
    norm: Norm = "linf",
    bounds: Bounds = (0.0, 1.0),
    confine: Confine | None = None,
) -> dict[int, Tensor]:
    """Iterates of PGD (Madry et al. 2018, equation 3) after each of the step counts `at` (default: the last only).

    images: [N, C, H, W] within `bounds`; labels: [N]; start: [N, C, H, W], where the search begins, usually
    images + U(-eps, eps), projected like every iterate; eps: the ball's radius and step: how far a step goes, both in
    pixel units and in `norm`, each one number or one per image [N]. `loss` must be a sum over images: none sees the
    others. `confine` projects ways on a linear subspace: perturbations stay in it (l2 without bounds).
    One pass serves all step counts: the iterates are those of separate attacks from the same start, exactly.
    The network is in eval mode meanwhile; its modes, buffers, parameters and their gradients stay as they are.
    Raises ValueError for a step count outside 0..steps, FloatingPointError where an image's gradient is not finite.
    """
    wanted = sorted({steps} if at is None else set(at))
    if not wanted or wanted[0] < 0 or wanted[-1] > steps:
        raise ValueError(f"iterates at {wanted} of an attack of {steps} steps; each must lie in 0..{steps}")
    radius, stride = (each.view(-1, 1, 1, 1) if isinstance(each, Tensor) else each for each in (eps, step))
    ball = Ball(images, radius, norm, bounds, confine)
    iterates, finite = climb(network, ball, labels, start, stride, wanted, loss)
    if not finite:  # looked at only here: a look waits for the GPU
        raise FloatingPointError("the loss has gradients that are not finite; the network cannot be attacked with it")
    return iterates


def climb(
    network: nn.Module, ball: Ball, labels: Tensor, start: Tensor, stride: float | Tensor, at: Sequence[int], loss: Loss
) -> tuple[dict[int, Tensor], Tensor]:
    """The iterates of `pgd` after the step counts `at`, in rising order; and whether all gradients were finite, bool []
    where the images lie. stride: pixel units, for all or one each [N, 1, 1, 1]."""
    iterate = ball.project(start.detach())
    iterates, finite = {0: iterate}, ball.images.new_ones((), dtype=torch.bool)
    with evaluating(network):
        for count in range(1, at[-1] + 1):
            slope = gradient(network, iterate, labels, loss)
            finite &= slope.isfinite().all()  # sign(NaN) is 0: a broken gradient would pass for robustness
            iterate = ball.project(iterate + stride * ball.uphill(slope))
            if count in at:
                iterates[count] = iterate
    return {count: iterates[count] for count in at}, finite


def gradient(network: nn.Module, images: Tensor, labels: Tensor, loss: Loss) -> Tensor:
    """The gradient of the loss in the pixels [N, C, H, W]; 0 where autograd sees no way from the loss to them."""
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        value = loss(network(images), labels)
        if not value.requires_grad:
            return torch.zeros_like(images)
        # Asked for the input alone: weights get no gradient, neither computed nor left in .grad.
        return torch.autograd.grad(value, images, allow_unused=True, materialize_grads=True)[0].detach()


def differentiable(network: nn.Module, images: Tensor, labels: Tensor) -> bool:
    """Whether autograd finds its way from the logits to the pixels of these few images, which `network` can answer.

    It does not where a front-end is detached, works in NumPy or in torch's inference mode; the last two raise a
    RuntimeError as soon as gradients are asked for.
    """
    with evaluating(network), torch.enable_grad():
        images = images.detach().requires_grad_()
        try:
            value = margin(network(images), labels)
            return value.requires_grad and torch.autograd.grad(value, images, allow_unused=True)[0] is not None
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            return False


class Detached(nn.Module):
    """A network that is asked for no gradient, as it has none to give. Attacks meet one of 0."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return self.network(images.detach())


def withstood(network: nn.Module, iterates: Mapping[int, Tensor], labels: Tensor) -> dict[int, Tensor]:
    """Whether each image is classified correctly at each iterate: bool [N] by step count.

    Raises FloatingPointError for logits that are not finite.
    """
    correct = {}
    with evaluating(network), torch.no_grad():
        for count, images in iterates.items():
            logits = network(images)
            if not logits.isfinite().all():
                raise FloatingPointError(f"logits are not finite on images after {count} steps of the attack")
            correct[count] = logits.argmax(1) == labels
    return correct


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """The state a network is measured in: eval mode, full float32 (no autocast, no TF32), deterministic kernels.

    Afterwards every module's mode and torch's switches are as they were.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    modes = [(module, module.training) for module in network.modules()]
    switches = cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic, matmul.allow_tf32
    device = next((parameter.device.type for parameter in network.parameters()), "cpu")
    try:
        network.eval()
        cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic, matmul.allow_tf32 = False, False, True, False
        with torch.autocast(device, enabled=False):
            yield
    finally:
        cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic, matmul.allow_tf32 = switches
        for module, training in modes:
            module.training = training
