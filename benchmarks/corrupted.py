"""What corrupted images cost beside a look at them: `python benchmarks/corrupted.py [MODEL] [--images 500]`.

Each of the families at severity 3, images of 32 x 32, one thread; beside it a forward pass of the network over as many.
Where the package imagecorruptions is installed (tests/evaluation/make_imagecorruptions.py says how), its families that
have CIFAR-10-C's names are timed too: it makes one image at a time.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import measuring
import numpy as np
import torch
from PIL import Image
from step import network

from kdtune.data.loading import inputs
from kdtune.evaluation.families import FAMILIES, corrupt

SEVERITY, SEED = 3, 0


def public(images: torch.Tensor) -> dict[str, Callable[[], object]]:
    """The other package's families by name; none where it is not installed."""
    np.float_ = np.float64  # type: ignore[attr-defined] # it is of before NumPy 2
    try:
        from imagecorruptions import corruptions as theirs
    except ImportError:
        print("imagecorruptions is not installed: not compared")
        return {}
    pictures = [Image.fromarray(image) for image in images.permute(0, 2, 3, 1).numpy()]

    def one_by_one(family: str) -> None:
        for picture in pictures:
            getattr(theirs, family)(picture, SEVERITY)

    usable = [family for family in FAMILIES if hasattr(theirs, family)]
    return {f"{family}, imagecorruptions": partial(one_by_one, family) for family in usable}


def works(do: Callable[[], object]) -> bool:
    """Whether it runs with the libraries of today."""
    try:
        do()
    except Exception as error:
        print(f"left out: {error}")
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="wrn-16-2")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    drawn = np.random.default_rng(0).integers(256, size=(asked.images, 3, 32, 32), dtype=np.uint8)
    images, net = torch.from_numpy(drawn), network(asked.model, 0).eval()

    @torch.no_grad()
    def look() -> None:
        net(inputs(images))

    look_at = f"a forward pass of {asked.model}"
    ways: dict[str, Callable[[], object]] = {look_at: look}
    ways |= {family: partial(corrupt, images, family, SEVERITY, SEED) for family in FAMILIES}
    ways |= {name: do for name, do in public(images).items() if works(do)}
    found = measuring.in_turn(ways, asked.rounds)
    print(measuring.table(found, look_at, per=asked.images / 1000, unit="ms"))
    print("milliseconds an image")
    print(f"wrote {measuring.write('corrupted', vars(asked) | {'seconds': measuring.plain(found)})}")


if __name__ == "__main__":
    main()
