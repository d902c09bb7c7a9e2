"""A file of weights from elsewhere, as the mappings from names to tensors that it holds. It may be wrong or hostile."""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from kdtune import archive

DEPTH = 4  # of mappings in one another: {"state_dict": {"model": ...}} is two


def state_dicts(path: str, digest: str | None = None) -> dict[str, dict[str, Tensor]]:
    """Everything in the file that may be a state_dict, by the keys that lead to it: `state_dict.model`, "" for itself.

    Safetensors or torch.save, told apart by what is in the file; what is no tensor is passed over. No code in it runs.
    `digest` is the SHA-256 that the file had when a run was planned. Raises ValueError where the file cannot be read,
    has changed, or holds no tensors under names.
    """
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise ValueError(f"{path}: cannot be read as weights: {getattr(error, 'strerror', None) or error}") from error
    if digest is not None and hashlib.sha256(data).hexdigest() != digest:
        raise ValueError(
            f"{path}: has changed since the run was planned; the same command again plans with what it is now"
        )
    content = _content(path, data)
    found = {".".join(keys): tensors for keys, tensors in _mappings(content, ())}
    if not found:
        raise ValueError(f"{path}: holds no state_dict (a mapping from names to tensors), but {_described(content)}")
    return found


def _content(path: str, data: bytes) -> Any:
    """Any exception is the file's fault: a damaged one makes torch raise nearly everything there is."""
    try:
        if _is_safetensors(path, data):
            return safetensors.torch.load(data)
        archive.check(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path}: {_refused(path, data, str(error))}") from error


def _is_safetensors(path: str, data: bytes) -> bool:
    if data.startswith((archive.ZIP, b"\x80")) and data[8:9] != b"{":  # a zip archive, a pickle
        return False
    return Path(path).suffix == ".safetensors" or data[8:9] == b"{"


def _refused(path: str, data: bytes, told: str) -> str:
    """Why a file cannot be read, in our words: torch's own are many, and recommend to run its code."""
    if "Unsupported" in told and (named := re.search(r"(?:GLOBAL|class|type) (\S+)", told)):
        return (
            f"cannot be read as weights: it holds more than tensors and plain values ({shown(named[1])}), and loading "
            "that can run code. Save the weights alone where the network was made: "
            "torch.save(model.state_dict(), 'clean.pt') or "
            "safetensors.torch.save_file(model.state_dict(), 'clean.safetensors'). Or, if you trust this file: "
            f"x = torch.load({Path(path).name!r}, weights_only=False), then torch.save(x.state_dict(), 'clean.pt') "
            "for a whole network, torch.save(x['model'], 'clean.pt') or the like for a checkpoint"
        )
    if "TorchScript" in told:
        return (
            "cannot be read as weights: a TorchScript program, which is code. Save its weights alone: "
            f"torch.save(torch.jit.load({Path(path).name!r}).state_dict(), 'clean.pt')"
        )
    known = _is_safetensors(path, data) or data.startswith((archive.ZIP, b"\x80"))
    if not known:
        return "cannot be read as weights: neither safetensors nor a file of torch.save"
    return f"cannot be read as weights: damaged or cut short ({len(data)} bytes; {_first_line(told)})"


def _first_line(told: str) -> str:
    return shown(next((line.strip() for line in told.splitlines() if line.strip()), "no reason given"))


def shown(text: str) -> str:
    """Text out of a file that may be hostile, fit for a terminal."""
    return text[:150] if text.isprintable() else repr(text)[:150]


def _mappings(content: Any, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    if not isinstance(content, dict) or len(keys) > DEPTH:
        return
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if tensors:
        yield keys, tensors
    for name, value in content.items():
        if isinstance(name, str):
            yield from _mappings(value, (*keys, name))


def _described(content: Any) -> str:
    if not isinstance(content, dict):
        return f"one {type(content).__name__}"
    shown = [f"{name!r:.60}: {type(value).__name__}" for name, value in content.items()]
    more = f" and {len(shown) - 6} more" if len(shown) > 6 else ""
    return f"a mapping of {', '.join(shown[:6])}{more}" if shown else "nothing"
