"""How the store writes things down: strict JSON, readable YAML, arrays. The same contents always give the same bytes.

JSON here has no NaN and no Infinity: they are written as null (faults 17), and refused when read. Keys are sorted,
floats round-trip exactly. A sealed record carries the SHA-256 of its own contents, so that a flipped digit is noticed.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import zipfile
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import numpy as np

DEPTH = 50  # of YAML; a description has ten levels


def digest(data: bytes) -> str:
    """SHA-256 of `data`, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def plain(value: Any) -> Any:
    """`value` in JSON's own types: NaN and Infinity become None, numpy's and torch's numbers Python's, tuples lists.

    Raises TypeError for anything else, and for keys that are not strings (JSON would turn 1 into "1" silently).
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"key {key!r} is a {type(key).__name__}; a record's keys are strings")
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    raise TypeError(f"{value!r} is a {type(value).__name__}; a record holds numbers, strings, lists and mappings")


def to_json(value: Any, indent: int | None = None) -> bytes:
    """Strict JSON with sorted keys and a final newline."""
    return (json.dumps(plain(value), sort_keys=True, allow_nan=False, indent=indent) + "\n").encode()


def from_json(data: bytes) -> Any:
    """Read strict JSON; ValueError for anything damaged, NaN and Infinity included."""
    try:
        return json.loads(data.decode(), parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not strict JSON")


def seal(record: dict[str, Any]) -> bytes:
    """The record as JSON with a field `sha256` over all its other fields."""
    return to_json({**record, "sha256": digest(to_json(record))}, indent=2)


def unseal(data: bytes) -> dict[str, Any]:
    """The record that `seal` wrote; ValueError where a byte of its contents is not as written."""
    record = from_json(data)
    if not isinstance(record, dict):
        raise ValueError("not a mapping")
    stated = record.pop("sha256", None)
    if stated != digest(to_json(record)):
        raise ValueError("its contents do not fit its digest")
    return record


def to_lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """One JSON record per line."""
    return b"".join(to_json(row) for row in rows)


def from_lines(data: bytes) -> list[dict[str, Any]]:
    """The rows of a JSONL object; ValueError where a line is no record."""
    rows = [from_json(line) for line in data.splitlines()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a line that is no record")
    return rows


def to_yaml(value: Mapping[str, Any]) -> bytes:
    """Readable YAML, the same by YAML 1.1 and 1.2 rules. Keys stay in their order: among knobs it has meaning."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        # An id such as 12345678e901 is a string to PyYAML and a number to YAML 1.2: whatever could be one is quoted.
        # So are the characters that only YAML 1.1 takes for line breaks.
        style = '"' if re.match(r"[-+.]?[0-9.]", value) or not value.isprintable() else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    dumped: str = yaml.dump(plain(value), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)
    return dumped.encode()


def from_yaml(data: bytes) -> dict[str, Any]:
    """Read what `to_yaml` wrote; safe tags only. ValueError where it is damaged, or was never written here.

    Aliases are refused, of which a short text makes a huge value, and great depth, at which libyaml ends the process.
    """
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        text, depth = data.decode(), 0
        for event in yaml.parse(text, Loader=loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEPTH or isinstance(event, yaml.AliasEvent):
                raise ValueError(f"it is nested more than {DEPTH} deep" if depth > DEPTH else "it has aliases")
        value = yaml.load(text, Loader=loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from error
    if not isinstance(value, dict):
        raise ValueError("not a mapping")
    return value


def to_npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    """An .npz file in memory: names sorted, no dates, no pickles (an array of objects raises ValueError)."""
    import numpy as np

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            member = io.BytesIO()
            np.lib.format.write_array(member, np.asarray(arrays[name]), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0)), member.getvalue())
    return buffer.getvalue()


def from_npz(data: bytes) -> dict[str, np.ndarray]:
    """The arrays that `to_npz` wrote. Pickles are never loaded."""
    import numpy as np

    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}
