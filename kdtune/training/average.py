"""The mean of a network's weights over epochs (stochastic weight averaging, Izmailov et al. 2018, arXiv 1803.05407)."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdtune.data.loading import inputs

if TYPE_CHECKING:
    from kdtune.data.loading import Split


def added(mean: dict[str, Any] | None, network: nn.Module) -> dict[str, Any]:
    """The mean over one more epoch: `count`, of how many it is, and `weights`, the parameters by name. Nothing that is
    given is written into: a checkpoint may hold it."""
    count = mean["count"] if mean else 0
    weights = {}
    for name, parameter in network.named_parameters():
        now = parameter.detach()
        before = mean["weights"][name].to(now.device) if mean else None
        weights[name] = now.clone() if before is None else before + (now - before) / (count + 1)
    return {"count": count + 1, "weights": weights}


@torch.no_grad()
def averaged(network: nn.Module, mean: dict[str, Any], split: Split, batch_size: int) -> nn.Module:
    """A copy of the network with these weights. BatchNorm's statistics, which are of no mean, are taken anew: in one
    pass over the training images as they are, in their order, each batch counting alike."""
    found = copy.deepcopy(network)
    found.load_state_dict(mean["weights"], strict=False)
    layers = [layer for layer in found.modules() if isinstance(layer, _BatchNorm) and layer.running_mean is not None]
    if not layers:
        return found
    momenta = [layer.momentum for layer in layers]
    found.eval()  # dropout too: its masks would be of no stream
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the mean over batches
        layer.train()
    for batch in split.batches(torch.arange(len(split), device=split.images.device), batch_size):
        found(inputs(split.images[batch]))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    return found.eval()
