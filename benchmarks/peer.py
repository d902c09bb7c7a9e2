"""torchdistill's own step, for whoever has it: `pip install --no-deps torchdistill cython` beside kdtune's environment.

Its distillation box (torchdistill.core.distillation) as its examples for CIFAR-10 drive it, with Hinton's loss: the
teacher is asked at every step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

PLACE = {"path": ".", "io": "output"}  # of the answers that its loss compares
ANSWERS = {"sequential": [], "forward_hook": {"input": [], "output": []}, "wrapper": None}


def torchdistill(
    student: nn.Module, teacher: nn.Module, loader: DataLoader[Any], alpha: float, temperature: float
) -> tuple[Callable[[], None], Any]:
    """An epoch of it, and the box itself. Raises ImportError where it is not installed."""
    from torchdistill.core.distillation import get_distillation_box

    logging.getLogger("torchdistill").setLevel(logging.WARNING)  # it prints both networks
    ends = {f"{who}_module_{what}": value for who in ("student", "teacher") for what, value in PLACE.items()}
    # Its alpha is the weight of the labels.
    hinton = {"key": "KDLoss", "kwargs": {**ends, "temperature": temperature, "alpha": 1 - alpha}}
    settings = {
        "num_epochs": 1,
        "train_data_loader": {},
        "val_data_loader": {},
        "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False, **ANSWERS},
        "student": {"forward_proc": "forward_batch_only", "requires_grad": True, **ANSWERS},
        "optimizer": {"key": "SGD", "kwargs": {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"model_term": {"weight": 0.0}, "sub_terms": {"kd": {"criterion": hinton, "weight": 1.0}}},
        },
    }
    box = get_distillation_box(teacher, student, {}, settings, torch.device("cpu"), None, False, 1.0)

    def epoch() -> None:
        box.pre_epoch_process(epoch=0)
        for images, labels in loader:
            box.pre_forward_process()
            box.post_forward_process(box.forward_process(images, labels, None))

    return epoch, box
