"""Noise in the teacher's response, while it teaches.

Called as `knob(logits, draw) -> logits` with the teacher's logits float [N, K]. A knob may also reach into the teacher
itself: `prepare(teacher)` is called at the beginning of every epoch, after the teacher was put in eval mode.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from pydantic.dataclasses import dataclass

from kdtune.noise.knob import Knob
from kdtune.settings import Rate

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdtune.randomness import Draw


@dataclass(frozen=True)
class Dropout(Knob):
    """Fickle Teacher: the teacher's dropout stays on while it teaches (Arani et al., arXiv 1910.05057, section 4.1).

    The response is one stochastic pass, no average over passes. Batch normalisation stays in eval mode, so the teacher
    learns nothing from what it is shown (protocols A.7, row 5). The masks come from torch's global generator.
    """

    strength: ClassVar[str] = "rate"
    rate: Rate  # probability that a unit is zeroed; the others are scaled by 1 / (1 - rate)

    def layers(self, network: nn.Module) -> list[nn.Module]:
        from torch.nn.modules.dropout import _DropoutNd

        return [layer for layer in network.modules() if isinstance(layer, _DropoutNd)]

    def prepare(self, network: nn.Module) -> None:
        """Switch the dropout layers on at `rate`. `network.eval()` switches them off again.

        Raises ValueError if the network has none: it would answer without noise and nobody would notice.
        """
        if self.off:
            return
        if not (layers := self.layers(network)):
            raise ValueError(
                f"noise.teacher.dropout: rate {self.rate} is asked for, but the teacher ({type(network).__name__}) has "
                "no dropout layer to switch on; choose a teacher model that has some, or leave the knob out"
            )
        for layer in layers:
            layer.p = self.rate  # type: ignore[assignment]
            layer.train()

    def __call__(self, logits: Tensor, draw: Draw) -> Tensor:
        return logits  # the noise is in them already

    def measure(self, before: Tensor, after: Tensor) -> float:
        """Share of the units that dropout set to zero, among those that were not zero (as after a ReLU) before."""
        units = int(before.count_nonzero())
        return 1 - int(after.count_nonzero()) / units if units else math.nan
