"""Where inputs lie: their bounds, and the subspace that those of a data set fill."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from kdtune.attacks.pgd import Bounds

Within = Literal["subspace", "complement"]


@dataclass(frozen=True)
class Space:
    """`subspace` holds orthonormal columns U, float32 [D, r] with D = C H W: inputs are U z, and P = U U^T leaves them
    as they are. None: nothing is known of such a subspace."""

    bounds: Bounds = (0.0, 1.0)  # what inputs can be; None: any numbers
    subspace: Tensor | None = None

    def part(self, way: Tensor, within: Within) -> Tensor:
        """Of ways [N, C, H, W] their part in the subspace, P way, or off it, (I - P) way.

        Raises ValueError where no subspace is known.
        """
        if self.subspace is None:
            raise ValueError(f"within: {within}: of these inputs no subspace is known")
        flat = way.flatten(1)
        inside = (flat @ self.subspace) @ self.subspace.T
        return (inside if within == "subspace" else flat - inside).view_as(way)


PIXELS = Space()
