"""Stand-ins for what a machine without network cannot have, and what evaluators are given."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kdtune.attacks.pgd import pgd
from kdtune.data import cifar10c
from kdtune.data.loading import Data
from kdtune.evaluation.families import corrupt
from kdtune.evaluation.subject import Context, Subject

NOWHERE = Path("/dev/null/data")  # a data folder that cannot be: for what must not look into it


def subject(
    network: nn.Module, data: Data, seed: int = 0, teacher: nn.Module | None = None, data_dir: Path = NOWHERE
) -> Subject:
    """What an evaluator is given; of the last epoch the same network."""
    where = Context(data_dir)
    return Subject(network, data, where, ask_teacher=lambda: teacher, seed=seed, ask_weights=lambda which: network)


def cifar10c_folder(path: Path, data: Data, monkeypatch, families) -> tuple[Path, dict[str, np.ndarray]]:
    """A folder as CIFAR-10-C's would be for this test set, and what its families hold; the others' files are empty."""
    path.mkdir(exist_ok=True)
    images = {
        family: torch.stack([corrupt(data.test.images, family, severity, 7) for severity in range(1, 6)])
        .permute(0, 1, 3, 4, 2)
        .numpy()
        for family in families
    }
    for name in cifar10c.MD5:
        made = images[name].reshape(-1, *images[name].shape[2:]) if name in images else np.zeros(0, np.uint8)
        np.save(
            path / f"{name}.npy", np.tile(data.test.labels.numpy(), 5).astype(np.uint8) if name == "labels" else made
        )
        monkeypatch.setitem(cifar10c.MD5, name, hashlib.md5((path / f"{name}.npy").read_bytes()).hexdigest())
    return path, images


def trained_on(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    epochs: int,
    adversarial: bool = False,
) -> nn.Module:
    """The network after training on batches of 20 that torch's global generator draws, in eval mode. `adversarial`: on
    examples of four steps of PGD at 0.1 (Madry et al. 2018). images: float [N, C, H, W] in [0, 1]."""
    for _ in range(epochs):
        for places in torch.randperm(len(images)).split(20):
            x, y = images[places], labels[places]
            if adversarial:
                x = pgd(network, x, y, x + 0.1 * (2 * torch.rand_like(x) - 1), 0.1, 0.04, 4)[4]
            optimizer.zero_grad()
            functional.cross_entropy(network(x), y).backward()
            optimizer.step()
    network.zero_grad(set_to_none=True)
    return network.eval()
