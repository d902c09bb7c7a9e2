"""A student's training on a GPU, in under eight minutes and without Ray: `python benchmarks/gpu.py [--tiny]`.

What is measured, on the wall, each way in turn: what the card can do (a product of matrices, a copy); the usual loop (a
DataLoader, the teacher asked at every step) in float32 and bfloat16; kdtune's steps, eager and captured in CUDA graphs,
float32 and bfloat16, the teacher asked and its answers stored, channels first and last; what a step consists of; and
several students on one card, as processes side by side, by way of MPS, and on streams of one process. `--tiny` does
every part that a CPU can, with small networks, and names the others.

Besides torch it needs the packages NEEDED; the usual loop needs torchvision, and is left out without.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

NEEDED = {name: name for name in ("numpy", "pydantic", "safetensors", "filelock")} | {"PIL": "pillow"}


def lacking() -> list[str]:
    """Packages that are not installed here."""
    found = []
    for module, package in NEEDED.items():
        try:
            importlib.import_module(module)
        except ImportError:
            found.append(package)
    return found


if __name__ == "__main__" and (lacks := lacking()):
    print(f"missing here: {', '.join(lacks)}; pip install --constraint constraints.txt {' '.join(lacks)}")
    sys.exit(4)

import measuring  # noqa: E402
import sharing  # noqa: E402
import torch  # noqa: E402
from sharing import Size, epoch_of, pair, synchronized  # noqa: E402

STEPS = 200 * 391  # of a student of the paper on CIFAR-10


def card(device: str) -> dict[str, float]:
    """What it can do: products of matrices in 1e12 operations a second, copies in 1e9 bytes a second."""
    side, found = (4096 if device == "cuda" else 512), {}
    for name, kind in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        a = torch.rand(side, side, device=device).to(kind)
        found[f"{name}, TFLOP/s"] = 2 * side**3 / best(lambda a=a: a @ a, device) / 1e12  # type: ignore[misc]
    source = torch.rand(side * side * 4, device=device)
    to = torch.empty_like(source)
    found["copy, GB/s"] = 2 * source.nbytes / best(lambda: to.copy_(source), device) / 1e9
    return found


def best(do: Callable[[], object], device: str, times: int = 5) -> float:
    """Seconds, the shortest of a few."""
    synchronized(do, device)
    found = []
    for _ in range(times):
        began = time.perf_counter()
        synchronized(do, device)
        found.append(time.perf_counter() - began)
    return min(found)


def usual(size: Size, device: str, precision: str) -> Callable[[], None]:
    """Most code's loop: transforms on PIL images in worker processes, everything else on the device."""
    from step import Pictures, distilled
    from torch.utils.data import DataLoader

    images, labels = sharing.drawn(size)
    pictures = Pictures(images.permute(0, 2, 3, 1).numpy(), labels.numpy())
    workers = 8 if device == "cuda" else 0
    loader: Any = DataLoader(pictures, size.batch, shuffle=True, num_workers=workers, pin_memory=device == "cuda")
    student, teacher = (each.to(memory_format=torch.contiguous_format) for each in pair(size, device))
    optimizer = torch.optim.SGD(student.parameters(), 0.1, 0.9, weight_decay=5e-4)
    cast = partial(torch.autocast, device, torch.bfloat16, enabled=precision == "bfloat16")

    def epoch() -> None:
        student.train()
        for images, labels in loader:
            x, y = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            with cast():
                with torch.no_grad():
                    answers = teacher.eval()(x)
                logits = student(x)
            loss = distilled(logits.float(), answers.float(), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def ways(size: Size, device: str) -> dict[str, Callable[[], None]]:
    found: dict[str, Callable[[], None]] = {}
    try:
        for precision in ("float32", "bfloat16"):
            found[f"usual loop, {precision}"] = usual(size, device, precision)
    except ImportError:
        print("left out, for torchvision is missing: the usual loop")
    for precision in ("float32", "bfloat16"):
        for stored in (False, True):
            for captured in (False, True) if device == "cuda" else (False,):
                for last in (False, True) if device == "cuda" else (True,):
                    told = [precision, *(["stored"] * stored), "captured" if captured else "eager"]
                    name = ", ".join([*told, *(["channels last"] * last)])
                    found[name] = epoch_of(size, device, precision, stored=stored, captured=captured, last=last)
    if device != "cuda":
        print("left out, for there is no GPU: captured steps, channels first, MPS, streams, what a step consists of")
    return found


def consists_of(size: Size, seconds: float, found: dict[str, float], precision: str) -> dict[str, float]:
    """Operations, kernels and bytes of a step with stored answers, and what part of the card's limits they are."""
    from torch.profiler import ProfilerActivity, profile
    from torch.utils.flop_counter import FlopCounterMode

    epoch = epoch_of(size, "cuda", precision, stored=True, captured=False, last=False)
    epoch()
    with FlopCounterMode(display=False) as counted:
        epoch()
    with profile(activities=[ProfilerActivity.CUDA], profile_memory=True) as seen:
        epoch()
        torch.cuda.synchronize()
    kernels = [event for event in seen.events() if event.device_type.name == "CUDA"]
    busy = sum(event.self_device_time_total for event in kernels) / 1e6
    operations = counted.get_total_flops() / size.steps
    return {
        "GFLOP": operations / 1e9,
        "kernels": len(kernels) / size.steps,
        "seconds in kernels": busy / size.steps,
        "share of the card's products": operations / seconds / 1e12 / found[f"{precision}, TFLOP/s"],
        "share of the time in kernels": busy / size.steps / seconds,
    }


def attack(device: str, tiny: bool) -> dict[str, float]:
    """PGD on random images: foolbox one by one, and the evaluator; seconds."""
    try:
        importlib.import_module("foolbox")
        importlib.import_module("yaml")
    except ImportError as error:
        print(f"left out, for {error.name} is missing: PGD beside foolbox")
        return {}
    from attack import ours, public, trained

    from kdtune.data.error import DataError
    from kdtune.data.loading import load
    from kdtune.data.sets.published import Digits

    try:
        data = load(Digits(train_size=60) if tiny else Digits(), sharing.NOWHERE, device)
    except DataError as error:
        print(f"left out, PGD beside foolbox: {error}")
        return {}
    network = trained(data, epochs=1 if tiny else 8)
    return {
        "foolbox, one by one": best(public(network, data), device, 1),
        "kdtune, every number": best(ours(network, data, worst=False), device, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="on the CPU, in under a minute")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    if not asked.tiny and not torch.cuda.is_available():
        print("there is no GPU that torch can use here; --tiny tries every part that a CPU can do")
        return 4
    device, size = ("cpu", Size.tiny()) if asked.tiny else ("cuda", Size())
    torch.set_num_threads(1 if asked.tiny else torch.get_num_threads())
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    limits = card(device)
    print("the card: " + ", ".join(f"{value:.1f} {name}" for name, value in limits.items()))
    found = measuring.in_turn(
        {name: partial(synchronized, do, device) for name, do in ways(size, device).items()}, asked.rounds
    )
    first = next(iter(found))
    print(measuring.table(found, first, per=size.steps / 1000, unit="ms", by="wall"))
    fastest = min(found, key=lambda name: min(one.wall for one in found[name]))
    step = min(one.wall for one in found[fastest]) / size.steps
    print(f"{fastest}: a student of 200 epochs would take {STEPS * step:.0f} s; without what stored answers cost once")
    inside = {} if asked.tiny else {kind: consists_of(size, step, limits, kind) for kind in ("float32", "bfloat16")}
    for kind, parts in inside.items():
        print(f"a step in {kind}, stored: " + ", ".join(f"{value:.3g} {name}" for name, value in parts.items()))
    together = sharing.measured(size, device, (1, 2) if asked.tiny else (1, 2, 4, 8))
    for name, told in together.items():
        print(f"{name}: {told['images']:.0f} images a second, {told['memory']:.1f} GB, as alone: {told['alike']}")
    robust = attack(device, asked.tiny)
    print("PGD: " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in robust.items()))
    numbers = {"limits": limits, "seconds": measuring.plain(found), "step": inside, "sharing": together}
    print(f"wrote {measuring.write('gpu-tiny' if asked.tiny else 'gpu', numbers | {'attack': robust})}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
