"""A run's network: as its seed initialises it, and as the store has it once it is finished."""

from __future__ import annotations

import torch
from pydantic import ValidationError
from torch import nn

from kdtune.models.model import Model, Shape
from kdtune.networks import Normalization
from kdtune.randomness import seeded
from kdtune.run import Run
from kdtune.store.encoding import from_json, from_yaml
from kdtune.store.layout import DESCRIPTION, PROVENANCE, WEIGHTS
from kdtune.store.state import State
from kdtune.store.store import Done, Store
from kdtune.training import weights


def starting_network(run: Run, shape: Shape, classes: int) -> nn.Module:
    """As the run's seed initialises it, which is all of an untrained one, or with the weights of a file of the user's
    own; on the CPU. One that is not trained is drawn apart: a student of the same seed would begin as its teacher.

    Raises ValueError where normalization or weights do not fit.
    """
    stream = "init" if run.recipe is not None else "untrained"
    network = build_network(run.model, run.normalization, run.seed or 0, shape, classes, stream)
    if run.checkpoint is not None:
        weights.load_foreign(network, run.checkpoint, run.rename, run.checkpoint_digest)
    return network


def build_network(
    model: Model, normalization: Normalization | None, seed: int, shape: Shape, classes: int, stream: str = "init"
) -> nn.Module:
    """A network as its seed initialises it, from the stream of this name; on the CPU, so that it is the same on every
    device.

    Channels last, where its model allows that: 1.8 times as fast for the CNN on 28 x 28, 1.2 for WRN-16-2 (AMD EPYC,
    one core, float32, medians of twelve steps). Values stay, sums are taken in another order.
    """
    with seeded(seed, stream):
        network = model.build(shape, classes)
    if model.channels_last:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if normalization is None:
        return network
    if len(normalization.mean) != shape[0]:  # torch would take one number for all channels
        raise ValueError(f"normalization has {len(normalization.mean)} channels, and the images have {shape[0]}")
    from kdtune.models.networks.normalized import Normalized

    return Normalized(network, normalization.mean, normalization.std)


def placed(network: nn.Module, device: torch.device | str) -> nn.Module:
    """The network on its device. On a GPU channels come first: whether last would be faster was not measured."""
    if torch.device(device).type == "cpu":
        return network
    return network.to(device, memory_format=torch.contiguous_format)  # type: ignore[call-overload,no-any-return]


def load_finished(id: str, store: Store, done: Done | None = None, file: str = WEIGHTS) -> nn.Module:
    """The network of a finished run, from what the store has of it alone, in eval mode, on the CPU.

    `done` is the run's own, if it was read already; `file` that of its weights. Raises LookupError where there is no
    network, none of a model that is known, or no such file; DamagedError.
    """
    done = done or store.done(id)
    if done is None or done.outcome != State.DONE:
        raise LookupError(f"run {id} is {done.outcome if done else 'not done'}: it has no network to load")
    if file not in done.files:
        raise LookupError(
            f"run {id} has kept no {file}: its recipe has no keep or average, or it was trained before such were kept;"
            " then `kdtune forget` it, and the sweep's command trains it anew"
        )
    description = from_yaml(store.file(id, done, DESCRIPTION))
    origin = from_json(store.file(id, done, PROVENANCE))
    stated = description.get("normalization")
    try:
        model = Model.model_validate(description["model"])
    except ValidationError as error:
        raise LookupError(f"run {id}: {'; '.join(each['msg'] for each in error.errors())}") from error
    network = build_network(
        model,
        Normalization.model_validate(stated) if stated else None,
        seed=0,  # overwritten by the weights
        shape=tuple(origin["shape"]),
        classes=origin["classes"],
    )
    weights.load(network, store.file(id, done, file))
    return network.eval()
