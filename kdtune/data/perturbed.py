"""Training images that an attack on the run's teacher has moved, so that another network learns from them.

With `target` these are the sets D_det (`next`) and D_rand (`random`) of Ilyas et al., Adversarial Examples Are Not
Bugs, They Are Features (arXiv 1905.02175), section 3.2, table 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import ValidationInfo, field_validator

from kdtune.settings import Count, Flag, Positive, Settings, of_one

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdtune.attacks.pgd import Bounds

STRETCHED = 12  # times, until lengths agree to a thousandth
BATCH = 500  # fixed: float32 gradients differ in their last bits between batch sizes


@dataclass(frozen=True)
class Moved:
    """`images` as they are trained on and as the attack left them (`attacked`), float [N, C, H, W]; `labels`, int64
    [N], the classes that it was led to, or those that were there; `distance` [N], how far images went, in its norm.
    """

    images: Tensor
    attacked: Tensor
    labels: Tensor
    distance: Tensor


class Perturbed(Settings):
    """PGD on the teacher, in eval mode, from each image itself: `steps` of length `step` within `eps`, in pixel units
    and in `norm`. Without a target uphill the cross-entropy of the image's label; what the teacher then answers is what
    `labels.teacher` writes and `only` asks. With one, towards a class that becomes the image's label: the `next` one,
    or one that is drawn from all of them (`random`).

    `noise` is the null: each image goes as far, in the same norm, in a direction that is drawn and not searched for
    (l2: uniform on the sphere, and on where pixels end at 0 and 1; linf: a sign for every pixel); labels and answers
    stay the attack's.
    """

    norm: Literal["linf", "l2"]
    eps: Positive
    step: Positive
    steps: Count
    target: Literal["next", "random"] | None = None
    noise: Flag = False

    @field_validator("eps", "step")
    @classmethod
    def _in_pixels(cls, size: float, info: ValidationInfo) -> float:
        """No pixel goes further than 1; all of them together may."""
        return of_one(size) if info.data.get("norm") == "linf" else size

    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        places: Tensor,
        classes: int,
        teacher: nn.Module,
        seed: int,
        bounds: Bounds,
    ) -> Moved:
        """Images float [N, C, H, W] with those at `places` moved, within `bounds`; `seed` is the data set's, and draws
        for all of them, so that other places change no image."""

        from kdtune.randomness import draw

        labels = labels.clone()
        if self.target is not None:
            drawn = draw(seed, "perturbed.target").integers(classes, labels)
            labels[places] = (drawn if self.target == "random" else (labels + 1) % classes)[places]
        attacked = images.clone()
        for batch in places.split(BATCH):
            attacked[batch] = self._attacked(teacher, images[batch], labels[batch], bounds)
        distance = self._length(attacked - images)
        shown = attacked
        if self.noise:
            way = draw(seed, "perturbed.noise").normal(images)
            way = way.sign() if self.norm == "linf" else way
            shown = self._as_far(images, way, distance, bounds)
            distance = self._length(shown - images)
        return Moved(shown, attacked, labels, distance)

    def _attacked(self, teacher: nn.Module, images: Tensor, labels: Tensor, bounds: Bounds) -> Tensor:
        from kdtune.attacks.pgd import cross_entropy, pgd, towards

        device = next((parameter.device for parameter in teacher.parameters()), images.device)
        x, y = images.to(device), labels.to(device)
        loss = cross_entropy if self.target is None else towards
        found = pgd(teacher, x, y, x, self.eps, self.step, self.steps, loss=loss, norm=self.norm, bounds=bounds)
        return found[self.steps].to(images.device)

    def _as_far(self, images: Tensor, way: Tensor, distance: Tensor, bounds: Bounds) -> Tensor:
        """Images that go so far along a way each; what bounds cut off is made up for by going further."""
        reach = distance / self._length(way).clamp(min=1e-12)
        for _ in range(STRETCHED):
            shown = images + way * reach.view(-1, 1, 1, 1)
            if bounds is None:
                return shown
            shown = shown.clamp(*bounds)
            reach = reach * (distance / self._length(shown - images).clamp(min=1e-12)).clamp(max=2)
        return shown

    def _length(self, way: Tensor) -> Tensor:
        """[N], in the attack's norm."""
        flat = way.flatten(1)
        return flat.abs().amax(1) if self.norm == "linf" else flat.norm(dim=1)
