"""Noise on the images that the student is shown. The teacher sees the clean ones, unless
`distillation.teacher_sees: shown`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, ValidationInfo, field_validator, model_validator

from kdtune.attacks.space import PIXELS, Space, Within
from kdtune.noise.knob import Knob
from kdtune.settings import Count, Flag, Pixels, Positive, Scale, Settings, Share, of_one, word_or

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdtune.attacks.pgd import Loss
    from kdtune.randomness import Draw


class InputKnob(Knob, home="kdtune.noise.input"):
    """The family of knobs at `input`."""

    needs_bounds: ClassVar[bool] = False  # it takes images that lie within the bounds of their data set, if it has any

    @property
    def keeps_bounds(self) -> bool:
        """Whether what it makes of images within bounds is there again, for knobs after it that need this."""
        return False

    @property
    def confined_to(self) -> Within | None:
        """The part of space that what it adds lies in: the data set's subspace must be known then."""
        return getattr(self, "within", None)

    @property
    def asks_teacher(self) -> bool:
        """Whether it cannot do without one. It is asked without the noise of teacher knobs."""
        return False

    @property
    def teacher_passes(self) -> float:
        """Forward passes of the teacher that an image costs; one with its gradient counts three."""
        return float(self.asks_teacher)

    @abstractmethod
    def __call__(
        self, images: Tensor, labels: Tensor, network: nn.Module, draw: Draw, teacher: nn.Module | None, space: Space
    ) -> Tensor:
        """What is shown instead of images float [N, C, H, W].

        labels: the dataset's, int64 [N]; network: the one in training and teacher: the one it learns from, if any (for
        perturbations found with their help); draw: the knob's stream of random numbers; space: where images lie, pixels
        in [0, 1].
        """


class Gaussian(InputKnob):
    """x + delta with delta ~ N(0, sigma^2 I), drawn anew for every image, batch and epoch.

    With a teacher this is Soft Randomization, without one Gaussian augmentation (Arani et al., arXiv 1910.05057,
    section 4.2, figures 4 and 5). The sum may leave [0, 1]: it is not clamped, as the equation stands (the paper does
    not say; papers A.7, row 16). `clamp: true` cuts it off at 0 and 1, and what is measured is what that leaves.

    `within: complement` leaves of delta what is off the subspace that the data fill, `subspace` what is in it, where
    that is known (`gaussian` data). What is measured is smaller by the root of the share of dimensions left.
    """

    strength: ClassVar[str] = "sigma"
    draws_globally: ClassVar[bool] = False
    sigma: Pixels  # standard deviation in pixel units, images in [0, 1]
    clamp: Flag = False
    within: Within | None = None

    @property
    def keeps_bounds(self) -> bool:
        return self.clamp

    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        network: nn.Module,
        draw: Draw,
        teacher: nn.Module | None = None,
        space: Space = PIXELS,
    ) -> Tensor:
        noise = self.sigma * draw.normal(images)
        shown = images + (noise if self.within is None else space.part(noise, self.within))
        return shown.clamp(0, 1) if self.clamp else shown

    def measure(self, before: Tensor, after: Tensor) -> float:
        """Root mean square of what was added; the mean is known to be zero."""
        return float((after - before).square().mean().sqrt())


class Jitter(Settings):
    """A start beside the image: N(0, gaussian^2) is added to every pixel."""

    gaussian: Annotated[Positive, AfterValidator(of_one)]  # standard deviation in pixel units


Start = Annotated[
    Literal["uniform", "clean"] | Jitter,
    word_or(Jitter, ("uniform", "clean"), "uniform, clean or {gaussian: 0.001}"),
]


class PGD(InputKnob):
    """Adversarial training: each image as projected gradient descent leaves it, within `eps`, found anew in every step
    on the network in training (Madry et al. 2018, arXiv 1706.06083).

    `start` is drawn uniformly from the ball, is the image itself, or lies beside it as in TRADES' code, {gaussian:
    0.001}. `climbs` is what is raised: `labels`, the cross-entropy of the data's labels; `clean`, KL(answer to the
    clean image || answer) with the first held fast (TRADES, arXiv 1901.08573); `teacher`, the same with the teacher's
    answer to the clean image (RSLAD, arXiv 2108.07969); `confidence`, the largest wrong class's log-probability (CCAT,
    arXiv 1910.06259); `mse`, half the squared distance of the outputs to the teacher's for the clean image; `oracle`,
    the same to what the teacher says of the image as it is moved (papers C.2). FGSM with a random start is one step of
    1.25 eps (Wong et al. 2020, arXiv 2001.03994). With `share` below 1 the others of a batch, which is in random order,
    are shown as they are.

    Both networks are in eval mode (as in the code of papers D.1) and in float32 meanwhile, whatever the run's
    precision: a run in bfloat16 learns from examples as exact as those it is evaluated by. At every strength one start
    is drawn: radii are paired. Where a gradient is not finite the images are NaN, and so is the loss: the run has
    diverged.
    """

    strength: ClassVar[str] = "eps"
    draws_globally: ClassVar[bool] = False
    needs_bounds: ClassVar[bool] = True

    norm: Literal["linf", "l2"] = "linf"
    eps: Scale  # radius of the ball in `norm`, pixel units, images in [0, 1]
    step: Positive  # how far a step goes, likewise
    steps: Count
    start: Start = "uniform"
    share: Share = 1.0  # of a batch's images; one at least
    climbs: Literal["labels", "clean", "teacher", "confidence", "mse", "oracle"] = "labels"

    @field_validator("eps", "step")
    @classmethod
    def _in_pixels(cls, size: float, info: ValidationInfo) -> float:
        """No pixel goes further than 1; all of them together may."""
        return of_one(size) if info.data.get("norm") == "linf" else size

    @model_validator(mode="after")
    def _leaves_the_image(self) -> Self:
        if (self.climbs, self.start) == ("clean", "clean"):
            raise ValueError("climbs: clean has no gradient at the clean image; start: uniform or {gaussian: 0.001}")
        return self

    @property
    def keeps_bounds(self) -> bool:
        return True

    @property
    def asks_teacher(self) -> bool:
        return self.climbs in ("teacher", "mse", "oracle")

    @property
    def teacher_passes(self) -> float:
        return self.share * (3 * self.steps if self.climbs == "oracle" else self.asks_teacher)

    @property
    def student_passes(self) -> float:
        return self.share * (3 * self.steps + (self.climbs == "clean"))

    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        network: nn.Module,
        draw: Draw,
        teacher: nn.Module | None = None,
        space: Space = PIXELS,
    ) -> Tensor:
        import torch

        from kdtune.attacks.pgd import Ball, climb

        moved = max(1, round(self.share * len(images)))
        clean, right, start = images[:moved], labels[:moved], self._start(images, draw)[:moved]
        attacked, loss = self._climbed(network, teacher, clean)
        ball = Ball(clean, self.eps, self.norm, space.bounds)
        found, finite = climb(attacked, ball, right, start, self.step, [self.steps], loss)
        return torch.cat([found[self.steps], images[moved:]]).where(finite, math.nan)

    def _start(self, images: Tensor, draw: Draw) -> Tensor:
        """Where the search begins, for all images: `share` moves no number of the stream."""
        from kdtune.attacks.pgd import length

        if isinstance(self.start, Jitter):
            return images + self.start.gaussian * draw.normal(images)
        if self.start == "clean":
            return images
        if self.norm == "linf":
            return images + self.eps * (2 * draw.uniform(images) - 1)
        way = draw.normal(images)  # its direction is uniform on the sphere
        far = draw.uniform(images[:, :1, :1, :1]) ** (1 / images[0].numel())
        return images + self.eps * far * way / length(way)

    def _climbed(self, network: nn.Module, teacher: nn.Module | None, clean: Tensor) -> tuple[nn.Module, Loss]:
        """What is attacked, and what is climbed. Raises ValueError where there is no teacher that is to be asked."""
        import torch

        from kdtune.attacks.pair import Pair, distance, divergence
        from kdtune.attacks.pgd import cross_entropy, evaluating, wrong

        if self.climbs == "labels":
            return network, cross_entropy
        if self.climbs == "confidence":
            return network, lambda logits, labels: wrong(logits.log_softmax(1), labels).sum()
        asked = network if self.climbs == "clean" else teacher
        if asked is None:
            raise ValueError(f"noise.input.pgd: climbs: {self.climbs}, but this run has no teacher")
        if self.climbs == "oracle":
            return Pair(network, asked), distance
        with evaluating(asked), torch.no_grad():
            fixed = asked(clean)
        apart = distance if self.climbs == "mse" else divergence
        return network, lambda logits, labels: apart(torch.cat([logits, fixed], dim=1), labels)

    def measure(self, before: Tensor, after: Tensor) -> float:
        """The furthest that an image was moved, in `norm`: eps where the ball's edge is reached. In the l2 ball images
        near 0 and 1 do not reach it: what is beyond is cut off."""
        moved = (after - before).flatten(1)
        return float(moved.abs().max() if self.norm == "linf" else moved.norm(dim=1).max())
