"""A sweep's folder: a view of its last command, derived anew from the runs. And the table, a row a run.

    results/fickle/<profile>/   sweep.yaml  plan.json  results.csv  results.parquet  tensorboard/  figures/  log

`read` is what analysis uses; nothing in it needs the package that made the results.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdtune.evaluation.flags import flags_of as flags_of  # analysis asks here which numbers to mark
from kdtune.planning.plan import Plan, word
from kdtune.store.standing import Standing
from kdtune.store.state import State

if TYPE_CHECKING:
    import pandas as pd

FIRST = ("id", "role", "seed", "state")


class TableError(Exception):
    """There is no table where one was looked for, or several and none was named."""


def rows(plan: Plan, standing: Standing, states: Mapping[str, State]) -> list[dict[str, Any]]:
    """Every run of a plan with its parameters, its metrics and what it was made of; what is not known is left out."""
    return [_row(plan, standing, id, states[id]) for id in plan.runs]


def _row(plan: Plan, standing: Standing, id: str, state: State) -> dict[str, Any]:
    planned = plan.runs[id]
    row: dict[str, Any] = {"id": id, "role": planned.role, "seed": planned.run.seed, "state": str(state)}
    row |= {axis: _axis(value) for axis, value in planned.parameters.items()}
    row |= {f"teacher.{axis}": _axis(value) for axis, value in planned.teacher_parameters.items()}
    if state == State.DONE:
        origin = standing.look(id).provenance
        chosen = origin.get("teacher", {})
        row |= {"kept.epoch": origin["kept"]["epoch"]} if "kept" in origin else {}
        row |= {f"teacher.{key}": chosen[key] for key in ("id", "weights_sha256", "metric") if key in chosen}
        row |= {name: value for name, value in standing.measured(id).items() if value is not None}
    made_of = {key: value for key, value in planned.run.description.items() if key not in ("seed", "teacher")}
    return row | {name: value for name, value in flat(made_of).items() if name not in row}


def _axis(value: Any) -> Any:
    """An axis value as one cell. What it sets has columns of its own: `distillation.alpha` beside `distillation`."""
    return word(value) if isinstance(value, dict | list) else value


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as columns: `noise.input.gaussian.sigma`. A kind without settings, `{flip: {}}`, is True."""
    columns: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            columns |= flat(value, f"{name}.")
        else:
            columns[name] = True if value == {} else json.dumps(value) if isinstance(value, list | tuple) else value
    return columns


def to_csv(table: list[dict[str, Any]]) -> bytes:
    """Columns in order of first appearance; what is missing is empty, text that a spreadsheet would run quoted."""
    columns = list(dict.fromkeys([*FIRST, *(name for row in table for name in row)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writerow({name: _inert(name) for name in columns})
    writer.writerows({name: _inert(value) for name, value in row.items()} for row in table)
    return text.getvalue().encode()


def _inert(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    lines = value.replace("\r\n", "\n").replace("\r", "\n")  # a bare return would end the row for some readers
    return f"'{lines}" if lines.startswith(("=", "+", "-", "@")) else lines


def to_parquet(table: list[dict[str, Any]], about: Mapping[str, str]) -> bytes:
    """The same table, typed. `about` (sweep, profile, data set) travels in the file's metadata."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    columns = list(dict.fromkeys([*FIRST, *(name for row in table for name in row)]))
    arrays = {name: _column([row.get(name) for row in table]) for name in columns}
    data = pa.table(arrays).replace_schema_metadata(dict(about))
    buffer = io.BytesIO()
    parquet.write_table(data, buffer)
    return buffer.getvalue()


def _column(values: list[Any]) -> list[Any]:
    """Values of one type: whole numbers beside fractions become fractions, anything else that is mixed text."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) <= 1:
        return values
    if kinds <= {int, float}:
        return [None if value is None else float(value) for value in values]
    return [None if value is None else str(value) for value in values]


def read(folder: str | Path, profile: str | None = None) -> pd.DataFrame:
    """The table of `results/fickle` (or of one profile's folder), with `.attrs` sweep, profile, dataset.

    Raises TableError where there is none, or where several profiles lie and none is named.
    """
    import pandas as pd
    import pyarrow.parquet as parquet

    path = profile_folder(folder, profile) / "results.parquet"
    data = parquet.read_table(path)
    frame = data.to_pandas()
    about = data.schema.metadata or {}
    frame.attrs = {key.decode(): value.decode() for key, value in about.items() if key != b"pandas"}
    return frame if isinstance(frame, pd.DataFrame) else pd.DataFrame(frame)


def profile_folder(folder: str | Path, profile: str | None = None) -> Path:
    """The folder of one profile below a sweep's folder; the folder itself where it is one."""
    root = Path(folder).resolve()
    if (root / "results.parquet").is_file():
        if profile is not None and root.name != profile:
            raise TableError(f"{root}: this is the folder of profile {root.name!r}, not of {profile!r}")
        return root
    found = sorted(path.parent.name for path in root.glob("*/results.parquet"))
    if not found:
        raise TableError(f"{root}: no results here; `python -m kdtune.sweep sweeps/{root.name}.yaml` makes them")
    if profile is None and len(found) > 1:
        raise TableError(f"{root}: several profiles lie here; name one with --profile: {', '.join(found)}")
    if profile is not None and profile not in found:
        raise TableError(f"{root}: no profile {profile!r} here; there is {', '.join(found)}")
    return root / (profile or found[0])
