"""Training images that hold what another network sees in them, and little besides (Ilyas et al. 2019, Adversarial
Examples Are Not Bugs, They Are Features, arXiv 1905.02175, section 3.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdtune.settings import Count, Positive, Settings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdtune.attacks.pgd import Bounds

BATCH = 500  # fixed: float32 gradients differ in their last bits between batch sizes


class Robust(Settings):
    """For each image x of those trained on, another one of them, drawn once, moved until the source's features of it
    are those of x: gradient descent on |f(x') - f(x)|^2, `steps` steps of length `step` along the gradient, each
    image's at length 1. It has the label of x. Where the source is robust, so is what is left in x' of x.

    How many steps and how long the paper does not say in one place (papers C.2): 200 of 0.1 here.
    """

    steps: Count
    step: Positive  # in the l2 norm, pixel units

    def __call__(self, images: Tensor, source: nn.Module, seed: int, bounds: Bounds) -> Tensor:
        """Images float [N, C, H, W] within `bounds`, moved; `seed`, the data set's, draws where each begins."""
        import torch

        from kdtune.attacks.pgd import evaluating
        from kdtune.randomness import draw

        order = draw(seed, "robust.start").permutation(len(images))
        begin = torch.empty_like(order).index_copy(0, order, order.roll(-1))  # in one circle: never from x itself
        device = next((parameter.device for parameter in source.parameters()), images.device)
        found = []
        with evaluating(source):
            for batch in torch.arange(len(images)).split(BATCH):
                x, start = images[batch].to(device), images[begin[batch]].to(device)
                found.append(self._moved(source, x, start, bounds).to(images.device))
        return torch.cat(found)

    def _moved(self, source: nn.Module, images: Tensor, start: Tensor, bounds: Bounds) -> Tensor:
        import torch

        from kdtune.attacks.pgd import length

        features = source.features
        with torch.no_grad():
            wanted = features(images)  # type: ignore[operator]
        moved = start
        for _ in range(self.steps):
            with torch.enable_grad():
                here = moved.detach().requires_grad_()
                apart = (features(here) - wanted).square().sum()  # type: ignore[operator]
                (slope,) = torch.autograd.grad(apart, here)
            moved = here.detach() - self.step * slope / length(slope)
            moved = moved if bounds is None else moved.clamp(*bounds)
        return moved
