"""A network's weights as bytes, and weights that come from elsewhere."""

from __future__ import annotations

import safetensors.torch
from torch import nn

from kdtune.models.naming import Entries
from kdtune.models.networks.normalized import Normalized
from kdtune.training.foreign import fit
from kdtune.training.weightfile import state_dicts


def save(network: nn.Module) -> bytes:
    """The state_dict as safetensors: the same weights give the same bytes."""
    return safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
    )


def load(network: nn.Module, data: bytes) -> None:
    network.load_state_dict(safetensors.torch.load(data))


def load_foreign(network: nn.Module, path: str, rename: Entries = (), digest: str | None = None) -> None:
    """Weights from a file of the user's own, under kdtune's names or those of code that `models.naming` knows.

    `rename` is the user's own renaming, `digest` the SHA-256 that the file is expected to have. Floating-point numbers
    of other widths become float32. Nothing is loaded by half. Raises ValueError with the file's name where it cannot be
    read, and where it does not fit: with the keys that are missing or too many, and its names beside ours.
    """
    inner = network.network if isinstance(network, Normalized) else network
    found = state_dicts(path, digest)
    try:
        inner.load_state_dict(fit(inner.state_dict(), found, rename, type(inner).__name__))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
