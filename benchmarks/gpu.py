"""A student's training on a GPU, in under eight minutes and without Ray: `python benchmarks/gpu.py [--tiny]`.

What is measured, on the wall, each way in turn: what the card can do (a product of matrices, a copy); the usual loop (a
DataLoader, the teacher asked at every step, torch's own switches) in float32 and bfloat16; kdtune's steps, eager and
captured in CUDA graphs, float32 and bfloat16, the teacher asked and its answers stored, channels first and last; what a
step consists of, kernel by kernel; whole runs, eager and captured, and whether they end with the same bits; and several
students on one card, as processes side by side, by way of MPS, and on streams of one process. A part that fails is
named, the others go on, and the status is 1. `--tiny` does every part that a CPU can, with small networks, and names
the others.

Besides torch it needs the packages NEEDED; the usual loop needs torchvision, and is left out without.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

NEEDED = {name: name for name in ("numpy", "pydantic", "safetensors", "filelock")} | {"PIL": "pillow", "yaml": "pyyaml"}


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
import whole  # noqa: E402
from sharing import Size, epoch_of, pair, synchronized  # noqa: E402

from kdtune.training.backends import repeatable  # noqa: E402
from kdtune.training.captured import Capture  # noqa: E402

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


def ways(size: Size, device: str, captures: dict[str, Capture]) -> dict[str, Callable[[], None]]:
    """By name; `captures` gets those of captured steps, which say whether they were captured."""
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
                    capture = captures.setdefault(name, Capture()) if captured else None
                    epoch = epoch_of(size, device, precision, stored=stored, capture=capture, last=last)
                    found[name] = repeatable()(epoch)
    if device != "cuda":
        print("left out, for there is no GPU: captured steps, channels first, MPS, streams, what a step consists of")
    return found


def consists_of(size: Size, seconds: float, limits: dict[str, float], precision: str, *, last: bool) -> dict[str, Any]:
    """Operations and kernels of a step with stored answers, what part of the card's limits they are, and the kernels
    that take longest: microseconds a step, times a step."""
    from torch.profiler import ProfilerActivity, profile
    from torch.utils.flop_counter import FlopCounterMode

    epoch = repeatable()(epoch_of(size, "cuda", precision, stored=True, capture=None, last=last))
    epoch()
    with FlopCounterMode(display=False) as counted:
        epoch()
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        epoch()
        torch.cuda.synchronize()
    kernels = sorted(
        (each for each in seen.key_averages() if each.self_device_time_total),
        key=lambda each: -each.self_device_time_total,
    )
    busy = sum(each.self_device_time_total for each in kernels) / size.steps / 1e6
    operations = counted.get_total_flops() / size.steps
    return {
        "GFLOP": operations / 1e9,
        "kernels": sum(each.count for each in kernels) / size.steps,
        "seconds in kernels": busy,
        "share of the card's products": operations / seconds / 1e12 / limits[f"{precision}, TFLOP/s"],
        "share of the time in kernels": busy / seconds,
        "longest": {
            each.key[:100]: [round(each.self_device_time_total / size.steps, 1), each.count / size.steps]
            for each in kernels[:15]
        },
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
    found = {
        "foolbox, one by one": best(public(network, data), device, 1),
        "kdtune, every number": best(ours(network, data, worst=False), device, 1),
    }
    print("PGD: " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in found.items()))
    return found


def steps(size: Size, device: str, rounds: int, limits: dict[str, float]) -> dict[str, Any]:
    """Each way, and what a step of the fastest in each precision consists of."""
    captures: dict[str, Capture] = {}
    found = measuring.in_turn(
        {name: partial(synchronized, do, device) for name, do in ways(size, device, captures).items()}, rounds
    )
    print(measuring.table(found, next(iter(found)), per=size.steps / 1000, unit="ms", by="wall"))
    refused = {name: capture.refused for name, capture in captures.items() if capture.refused}
    for name, why in refused.items():
        print(f"NOT captured: {name}: {why}")
    told: dict[str, Any] = {"seconds": measuring.plain(found), "refused": refused, "step": {}}
    for precision in ("float32", "bfloat16"):
        seconds = {
            name: min(one.wall for one in each) / size.steps
            for name, each in found.items()
            if name.startswith(f"{precision}, stored")
        }
        name = min(seconds, key=seconds.__getitem__)
        print(f"{name}: 200 epochs would take {STEPS * seconds[name]:.0f} s; without what stored answers cost once")
        if device == "cuda":
            parts = consists_of(size, seconds[name], limits, precision, last="channels last" in name)
            print(f"  {', '.join(f'{value:.3g} {what}' for what, value in parts.items() if what != 'longest')}")
            for kernel, (micro, times) in parts["longest"].items():
                print(f"  {micro:8.1f} us in {times:5.1f} x {kernel}")
            told["step"][precision] = parts
    return told


def together(size: Size, device: str) -> dict[str, Any]:
    found = sharing.measured(size, device, (1, 2) if device == "cpu" else (1, 2, 4, 8))
    for name, told in found.items():
        print(f"{name}: {told['images']:.0f} images a second, as alone: {told['alike']}")
    return found


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
    limits = repeatable()(card)(device)
    print("the card: " + ", ".join(f"{value:.1f} {name}" for name, value in limits.items()))
    numbers: dict[str, Any] = {"limits": limits}
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "steps": lambda: steps(size, device, asked.rounds, limits),
        "whole": lambda: whole.compared(device, epochs=2 if asked.tiny else 10),
        "sharing": lambda: together(size, device),
        "attack": lambda: repeatable()(attack)(device, asked.tiny),
    }
    failed = []
    for name, part in parts.items():
        try:
            numbers[name] = part()
        except Exception:  # a lease of a GPU is short: the other parts are worth having
            traceback.print_exc()
            failed.append(name)
        path = measuring.write("gpu-tiny" if asked.tiny else "gpu", numbers)  # what is known is kept at once
    print(f"wrote {path}" + (f"; FAILED: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
