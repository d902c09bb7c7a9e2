"""Accuracy under common corruptions (Hendrycks and Dietterich, ICLR 2019), in percent."""

from __future__ import annotations

import difflib
import logging
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

import numpy as np
from pydantic import AfterValidator, Field, field_validator, model_validator

from kdtune.data import cifar10c
from kdtune.evaluation.evaluator import EvaluationError, Evaluator, Measurement, correct, pack, percent, predict
from kdtune.evaluation.families import FAMILIES, SEVERITIES, USUAL, corrupt, unsuited
from kdtune.evaluation.metric import Metric
from kdtune.evaluation.pgd import balanced
from kdtune.settings import Count, PathText, Settings, Text

if TYPE_CHECKING:
    from torch import Tensor, device

    from kdtune.data.dataset import Dataset
    from kdtune.data.loading import Data
    from kdtune.evaluation.subject import Context, Subject

logger = logging.getLogger(__name__)

SMALL = 1 << 18  # bytes; what is made of fewer is kept for the next network that this process measures
FAINT = 0.5  # grey levels: a family that changes less on average, at every severity, would only lift the mean
MADE = "computed with CIFAR-10-C's constants; frost is drawn, not photographed"


def _known(family: str) -> str:
    if family not in FAMILIES:
        nearest = difflib.get_close_matches(family.lower().replace(" ", "_"), FAMILIES, 1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"there is {', '.join(FAMILIES)}"
        raise ValueError(f"unknown corruption family {family!r}; {hint}")
    return family


Families = Annotated[tuple[Annotated[Text, AfterValidator(_known)], ...], Field(min_length=1)]
Severity = Annotated[Count, Field(le=len(SEVERITIES))]


class Files(Settings):
    """CIFAR-10-C's folder of .npy files. Only for CIFAR-10's own test images, in their order."""

    path: PathText

    def identity(self) -> str:
        """The files' published digest, wherever they lie. Raises DataError where they are missing or others."""
        cifar10c.check_folder(Path(self.path))
        return f"{cifar10c.TITLE} {cifar10c.MD5['labels']}"


class Corruptions(Evaluator):
    """`corruption/<family>`: accuracy over the severities, conditional as in Arani et al. 2019: right on the corrupted
    image among images right when clean. `/unconditional` is the same over all images.

    `corruption/mca` is the plain mean over the families (19 where all were measured; no AlexNet in it),
    `corruption/mca15` that over the usual 15, where all of those were; `corruption/families` counts what `mca` is over.
    `corruption/clean` is the accuracy on the same images. `corruption/published` is 1 where CIFAR-10-C's files were
    used and 0 where corruptions were computed. Where no image is right when clean, conditional metrics are absent.
    Families that make nothing of these images (saturation of grey ones, blur by less than a pixel) are left out.
    Arrays: `corruption/<family>` packed bits [severities, ceil(N / 8)]; `corruption/clean` [ceil(N / 8)];
    `corruption/images`, places among those measured on, int64 [N]; `corruption/severities`; `corruption/left_out`, text
    "family: reason"; `corruption/source`, text.
    """

    families: Families | None = None  # None: all that make something of the images
    severities: Annotated[tuple[Severity, ...], Field(min_length=1)] = SEVERITIES
    images: Count | None = None  # at most so many images, those of `pgd`; None: all of them
    files: Files | None = None  # None: computed

    version: ClassVar[int] = 2
    conditional: ClassVar[bool] = True
    needs_pixels: ClassVar[bool] = True

    def metrics(self, dataset: Dataset) -> tuple[Metric, ...]:
        left_out = unsuited(dataset.tested.image_shape[0]) if dataset.tested.image_shape else {}
        families = [family for family in self.families or FAMILIES if family not in left_out]
        means = ["mca", "mca15"] if USUAL.keys() <= set(families) else ["mca"]
        return (
            Metric("corruption/clean", better="higher"),
            Metric("corruption/families", "families"),
            Metric("corruption/published", "0 or 1"),
            *(
                Metric(f"corruption/{name}{tail}", better="higher", headline=name == "mca", always=False)
                for name in (*families, *means)
                for tail in ("", "/unconditional")
            ),
        )

    @model_validator(mode="after")
    def _files_are_of_the_test_images(self) -> Self:
        if self.files is not None and self.on is not None:
            raise ValueError(f"on: {self.on}: CIFAR-10-C's files are made from test images; remove `files` or `on`")
        return self

    @field_validator("families", "severities")
    @classmethod
    def _distinct(cls, values: tuple[str | int, ...] | None) -> tuple[str | int, ...] | None:
        if values is not None and len(set(values)) < len(values):
            raise ValueError("the same value twice; each must be another")
        return values

    @property
    def per_image(self) -> int:
        """Corrupted images per clean one, where no family is left out."""
        return len(self.families or FAMILIES) * len(self.severities)

    @property
    def writes(self) -> str:
        return "corruption"

    def passes(self, test: int, validation: int) -> int:
        return self.per_image * min(self.images or test, test) + test + validation

    def preflight(self, data: Data, context: Context) -> None:
        """All files that are to be read, some 3 GB, are held against their digests here, for a sweep may take days."""
        super().preflight(data, context)
        if data.shape[0] not in (1, 3):
            raise EvaluationError(f"evaluation.corruptions: images of {data.shape[0]} channels; they are grey or RGB")
        if self.files is None:
            return
        folder = Path(self.files.path)
        cifar10c.check_labels(folder, data.test.labels.numpy(), data.title)
        clean = data.test.images.permute(0, 2, 3, 1).numpy()
        for family in self.families or FAMILIES:
            if family not in unsuited(data.shape[0]):
                cifar10c.read(folder, family, clean, data.title)

    def measure(self, subject: Subject) -> Measurement:
        data, split, seed = subject.data, subject.split, subject.seed
        chosen = balanced(split.labels.cpu().numpy(), self.images, seed)
        images, labels = split.images[chosen], split.labels[chosen]
        clean = correct(predict(subject.network, images), labels)
        found, left_out = {}, []
        for family in self.families or FAMILIES:
            corrupted = self._corrupted(family, data, images, chosen, seed)
            if isinstance(corrupted, str):
                left_out.append(f"{family}: {corrupted}")
                continue
            bits = correct(predict(subject.network, corrupted), labels.repeat(len(self.severities)))
            found[family] = bits.reshape(len(self.severities), -1)
        if left_out:
            logger.info("corruptions of %s left out: %s", data.title, "; ".join(left_out))
        if not found:
            logger.warning("corruptions: none of the families makes anything of %s, so nothing is measured", data.title)
        arrays = {f"corruption/{family}": pack(bits) for family, bits in found.items()}
        arrays |= {"corruption/clean": pack(clean), "corruption/images": chosen}
        arrays |= {"corruption/severities": np.array(self.severities), "corruption/left_out": np.array(left_out, str)}
        arrays["corruption/source"] = np.array(cifar10c.TITLE if self.files else MADE)
        return Measurement(rates(found, clean) | {"corruption/published": float(self.files is not None)}, arrays)

    def _corrupted(self, family: str, data: Data, images: Tensor, chosen: np.ndarray, seed: int) -> Tensor | str:
        """The images, a severity after the other, uint8; or why the family is left out."""
        if family in unsuited(data.shape[0]):
            return unsuited(data.shape[0])[family]
        if self.files:
            return published(Path(self.files.path), family, self.severities, data, chosen)
        if images.nbytes > SMALL:
            made = make(images, family, self.severities, seed)
        else:
            pixels = images.cpu().numpy().tobytes()
            made = _kept(pixels, tuple(images.shape), images.device, family, self.severities, seed)
        clean = images.float()
        if all(float((part.float() - clean).abs().mean()) < FAINT for part in made.split(len(images))):
            return f"changes images of {data.shape[2]} x {data.shape[1]} by less than {FAINT} grey levels"
        return made


def rates(found: dict[str, np.ndarray], clean: np.ndarray) -> dict[str, float]:
    """The metrics. found: which images are right, bool [severities, N] by family; clean: bool [N]."""
    metrics = {"corruption/clean": percent(clean), "corruption/families": float(len(found))}
    for tail, among in (("/unconditional", np.ones_like(clean)), ("", clean)):
        if not among.any():
            continue
        each = {family: percent(bits[:, among]) for family, bits in found.items()}
        metrics |= {f"corruption/{family}{tail}": rate for family, rate in each.items()}
        if each:
            metrics[f"corruption/mca{tail}"] = float(np.mean(list(each.values())))
        if USUAL.keys() <= each.keys():
            metrics[f"corruption/mca15{tail}"] = float(np.mean([each[family] for family in USUAL]))
    return metrics


def published(folder: Path, family: str, severities: tuple[int, ...], data: Data, chosen: np.ndarray) -> Tensor:
    """CIFAR-10-C's images at the chosen places, a severity after the other: uint8 [severities * N, C, H, W].

    Raises DataError where the folder is not CIFAR-10-C or the test images are not those it was made from.
    """
    import torch

    cifar10c.check_labels(folder, data.test.labels.cpu().numpy(), data.title)
    images = cifar10c.read(folder, family, data.test.images.permute(0, 2, 3, 1).cpu().numpy(), data.title)
    pixels = np.concatenate([images[severity - 1, chosen] for severity in severities])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().to(data.test.images.device)


def make(images: Tensor, family: str, severities: tuple[int, ...], seed: int) -> Tensor:
    """A family's corruptions, a severity after the other: uint8 [severities * N, C, H, W]."""
    import torch

    return torch.cat([corrupt(images, family, severity, seed) for severity in severities])


@lru_cache(maxsize=2 * len(FAMILIES))
def _kept(
    pixels: bytes, shape: tuple[int, ...], device: device, family: str, severities: tuple[int, ...], seed: int
) -> Tensor:
    import torch

    images = torch.frombuffer(bytearray(pixels), dtype=torch.uint8).view(shape).to(device)
    return make(images, family, severities, seed)
