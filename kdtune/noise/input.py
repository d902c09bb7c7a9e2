"""Noise on the images that the student is shown. The teacher sees the clean ones, unless
`distillation.teacher_sees: shown`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from kdtune.noise.knob import Knob
from kdtune.settings import Flag, Pixels

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdtune.randomness import Draw


class InputKnob(Knob, home="kdtune.noise.input"):
    """The family of knobs at `input`."""

    @abstractmethod
    def __call__(
        self, images: Tensor, labels: Tensor, network: nn.Module, draw: Draw, teacher: nn.Module | None
    ) -> Tensor:
        """What is shown instead of images float [N, C, H, W] in [0, 1].

        labels: the dataset's, int64 [N]; network: the one in training and teacher: the one it learns from, if any (for
        perturbations found with their help); draw: the knob's stream of random numbers.
        """


class Gaussian(InputKnob):
    """x + delta with delta ~ N(0, sigma^2 I), drawn anew for every image, batch and epoch.

    With a teacher this is Soft Randomization, without one Gaussian augmentation (Arani et al., arXiv 1910.05057,
    section 4.2, figures 4 and 5). The sum may leave [0, 1]: it is not clamped, as the equation stands (the paper does
    not say; papers A.7, row 16). `clamp: true` cuts it off at 0 and 1, and what is measured is what that leaves.
    """

    strength: ClassVar[str] = "sigma"
    draws_globally: ClassVar[bool] = False
    sigma: Pixels  # standard deviation in pixel units, images in [0, 1]
    clamp: Flag = False

    def __call__(
        self, images: Tensor, labels: Tensor, network: nn.Module, draw: Draw, teacher: nn.Module | None = None
    ) -> Tensor:
        shown = images + self.sigma * draw.normal(images)
        return shown.clamp(0, 1) if self.clamp else shown

    def measure(self, before: Tensor, after: Tensor) -> float:
        """Root mean square of what was added; the mean is known to be zero."""
        return float((after - before).square().mean().sqrt())
