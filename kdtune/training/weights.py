"""A network's weights as bytes, and weights that come from elsewhere."""

from __future__ import annotations

import pickle
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn


def save(network: nn.Module) -> bytes:
    """The state_dict as safetensors: the same weights give the same bytes."""
    return safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    )


def load(network: nn.Module, data: bytes) -> None:
    network.load_state_dict(safetensors.torch.load(data))


def load_foreign(network: nn.Module, path: str) -> None:
    """Weights from a file of the user's own: safetensors, or `.pt` read without running any code it may hold.

    A `.pt` file holds a state_dict, alone or under the key `state_dict`; DataParallel's prefix `module.` is dropped.
    Raises ValueError naming keys that are missing or too many, and shapes that differ.
    """
    try:
        tensors = safetensors.torch.load_file(path) if Path(path).suffix == ".safetensors" else _read_pt(path)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, safetensors.SafetensorError) as error:
        raise ValueError(f"{path}: cannot be read as weights: {error}") from error
    tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    inner = getattr(network, "network", network)  # a Normalized network holds the one the weights are for
    expected = inner.state_dict()
    problems = [f"missing: {name}" for name in expected if name not in tensors]
    problems += [f"unknown: {name}" for name in tensors if name not in expected]
    problems += [
        f"{name}: {tuple(tensors[name].shape)} in the file, {tuple(tensor.shape)} in the network"
        for name, tensor in expected.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    if problems:
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise ValueError(f"{path}: these weights do not fit {type(inner).__name__}: {shown}")
    inner.load_state_dict(tensors)


def _read_pt(path: str) -> dict[str, Tensor]:
    content = torch.load(path, map_location="cpu", weights_only=True)
    tensors = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise ValueError(f"{path}: holds no state_dict (a mapping from names to tensors), alone or under 'state_dict'")
    return tensors
