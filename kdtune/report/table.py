"""The table of a sweep, a row a place: made of its runs, written into the sweep's folder, read from there.

    results/fickle/<profile>/   sweep.yaml  plan.json  results.csv  results.parquet  tensorboard/  figures/  log

`read` is what analysis uses; nothing in it needs the package that made the results.
"""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdtune.evaluation.flags import flags_of as flags_of  # analysis asks here which numbers to mark
from kdtune.paths import absolute
from kdtune.planning.place import Place
from kdtune.planning.plan import Plan
from kdtune.report.mirror import fetched, origin_of
from kdtune.store.layout import HASH, RUN_ID
from kdtune.store.objects import StorageError as StorageError  # so do commands of analysis
from kdtune.store.standing import Standing
from kdtune.store.state import State
from kdtune.sweepfile.values import word

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

FIRST = ("id", "role", "seed", "state")
EXACT = 2**53  # up to here every whole number is a float
CONFIRMS = "search.confirms"  # whether a run has chosen nothing: see `searched`


class TableError(Exception):
    """There is no table where one was looked for, or several and none was named."""


def rows(
    plan: Plan, standing: Standing, states: Mapping[str, State], late: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Every place of a plan, with the metrics of its run and what that was made of; what is not known is left out.

    A run that is asked for at several places has a row at each: an id may stand twice. `late`: hashes of further
    evaluators, whose results stand there too.
    """
    return [_row(place, standing, states[place.id], late) for place in plan.places]


def _row(place: Place, standing: Standing, state: State, late: Collection[str]) -> dict[str, Any]:
    if (done := standing.look(place.id).done) is not None:  # whatever an evaluation that is new to it came to
        state = State(done.outcome)
    row: dict[str, Any] = {"id": place.id, "role": place.role, "seed": place.run.seed, "state": str(state)}
    row |= {axis: axis_cell(value) for axis, value in place.parameters.items()}
    row |= {f"teacher.{axis}": axis_cell(value) for axis, value in place.teacher_parameters.items()}
    if state == State.DONE:
        origin = standing.look(place.id).provenance
        chosen = origin.get("teacher", {})
        row |= {"kept.epoch": origin["kept"]["epoch"]} if "kept" in origin else {}
        row |= {f"teacher.{key}": chosen[key] for key in ("id", "weights_sha256", "metric") if key in chosen}
        row |= {f"source.{key}": origin["source"][key] for key in ("id", "weights_sha256") if "source" in origin}
        row |= {f"calibrated.{key}": value for key, value in chosen.get("calibrated", {}).items()}
        row |= {name: value for name, value in standing.measured(place.id, late).items() if value is not None}
    row |= {"taught": place.run.teacher is not None}
    made_of = {key: value for key, value in place.run.description.items() if key not in ("seed", "teacher", "source")}
    return row | {name: value for name, value in flat(made_of).items() if name not in row}


def axis_cell(value: Any) -> Any:
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


def to_csv(table: Sequence[Mapping[str, Any]], first: Sequence[str] = FIRST) -> bytes:
    """Columns in order of first appearance; what is missing is empty, text that a spreadsheet would run quoted."""
    columns = list(dict.fromkeys([*first, *(name for row in table for name in row)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writerow({name: inert(name) for name in columns})
    writer.writerows({name: inert(value) for name, value in row.items()} for row in table)
    return text.getvalue().encode()


def inert(value: Any) -> Any:
    """A cell of a CSV: text that a spreadsheet would run is quoted."""
    if not isinstance(value, str):
        return value
    lines = value.replace("\r\n", "\n").replace("\r", "\n")  # a bare return would end the row for some readers
    return f"'{lines}" if _is_formula(lines) else lines


def _is_formula(text: str) -> bool:
    """Whether a spreadsheet may run it: some pass over blanks, controls and marks first, some know full-width signs."""
    for character in text:
        if not character.isspace() and not unicodedata.category(character).startswith("C"):
            return unicodedata.normalize("NFKC", character).startswith(("=", "+", "-", "@"))
    return False


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
    """The table of `results/fickle` (or of one profile's folder); `.attrs`: sweep, profile, dataset, axes, headlines.

    Raises TableError where there is none, or a damaged one, or where several profiles lie and none is named.
    """
    import pandas as pd
    import pyarrow.parquet as parquet

    path = profile_folder(folder, profile) / "results.parquet"
    try:
        data = parquet.read_table(path)
        frame = data.to_pandas()
        for name in _beyond_floats(data):  # pandas' floats would make one seed of two
            frame[name] = pd.Series(data[name].to_pylist(), dtype=object)
    except (OSError, ValueError) as error:  # Arrow's errors are these
        why = str(error).strip().splitlines()[0]
        raise TableError(f"{path} cannot be read ({why}); delete it, the sweep's own command writes it anew") from error
    about = data.schema.metadata or {}
    frame.attrs = {key.decode(): value.decode() for key, value in about.items() if key != b"pandas"}
    return frame if isinstance(frame, pd.DataFrame) else pd.DataFrame(frame)


def _beyond_floats(data: pa.Table) -> list[str]:
    """Columns of whole numbers that pandas reads as floats, for some are missing, and that no float holds."""
    import pyarrow as pa

    gaps = [field.name for field in data.schema if pa.types.is_integer(field.type) and data[field.name].null_count]
    return [name for name in gaps if any(abs(value or 0) > EXACT for value in data[name].to_pylist())]


def plan_of(place: Path) -> dict[str, Any]:
    """What plan.json in a profile's folder says. Raises TableError where it is missing, damaged or another's."""
    path = place / "plan.json"
    try:
        plan = json.loads(path.read_bytes())
        texts = [plan[name] for name in ("sweep", "profile", "dataset", "folder")]
        texts += [run["role"] for run in plan["runs"]]
        hashes = [*plan["evaluators"]]
        if not all(isinstance(text, str) for text in texts) or not all(isinstance(run, dict) for run in plan["runs"]):
            raise ValueError("not as kdtune writes it")
        if not all(RUN_ID.fullmatch(run["id"]) for run in plan["runs"]) or not all(map(HASH.fullmatch, hashes)):
            raise ValueError("an id or a hash is none")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise TableError(f"{path} cannot be used ({why}); the sweep's own command writes it anew") from error
    return dict(plan)


def axes(table: pd.DataFrame) -> list[str]:
    """What the sweep's grid varies, in its order; of a search also whether a run confirms: no mean is over both."""
    return [name for name in (*json.loads(table.attrs.get("axes", "[]")), CONFIRMS) if name in table]


def headlines(table: pd.DataFrame) -> list[str]:
    """The metrics that stand for a sweep: those of its closing table, in order, as far as they were measured."""
    return [name for name in json.loads(table.attrs.get("headlines", "[]")) if name in table]


def opened(folder: str | Path) -> Path:
    """The folder itself; of a URI, a copy of the tables there. TableError where it has none, StorageError where it does
    not answer."""
    uri = str(folder) if "://" in str(folder) else origin_of(Path(folder))  # a copy may be old
    if uri is None:
        return Path(folder)
    try:
        return fetched(uri)
    except LookupError as error:
        raise TableError(str(error)) from error


def profile_folder(folder: str | Path, profile: str | None = None) -> Path:
    """The folder of one profile below a sweep's folder; the folder itself where it is one. Of a URI, a copy."""
    root = Path(absolute(opened(folder)))
    if (root / "results.parquet").is_file():
        if profile is not None and root.name != profile:
            raise TableError(f"{root}: this is the folder of profile {root.name!r}, not of {profile!r}")
        return root
    found = sorted(path.parent.name for path in root.glob("*/results.parquet"))
    if not found:
        if below := sorted({path.parent.parent.name for path in root.glob("*/*/results.parquet")}):
            raise TableError(f"{root}: results of several sweeps; name the folder of one: {', '.join(below)}")
        file = Path("sweeps", f"{root.name}.yaml")
        raise TableError(
            f"{root}: no results here; `python -m kdtune.sweep {file if file.is_file() else 'FILE'}` makes them"
        )
    if profile is None and len(found) > 1:
        raise TableError(f"{root}: several profiles lie here; name the folder of one: {', '.join(found)}")
    if profile is not None and profile not in found:
        raise TableError(f"{root}: no profile {profile!r} here; there is {', '.join(found)}")
    return root / (profile or found[0])
