"""What the paper states, paper.yaml, and for whom it holds: its own data set alone has its levels drawn."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    import pandas as pd
    from panels import Panel

PAPER = Path(__file__).with_name("paper.yaml")


@cache
def paper() -> dict[str, Any]:
    return dict(yaml.safe_load(PAPER.read_text(encoding="utf-8")))


def departures(table: pd.DataFrame) -> list[str]:
    """In what the runs of a table are not trained as the paper's: `students: recipe.batch_size 32, not 128`."""
    found = []
    kinds = {"students": table["role"] == "student", "teachers": table["role"] == "teacher"}
    kinds["students that learn"] = table["taught"]
    for role, asked in paper()["protocol"].items():
        rows = table[kinds[role]]
        for column, value in asked.items() if len(rows) else ():
            here = (
                _models(rows) if column == "model" else sorted(rows[column].dropna().unique()) if column in rows else []
            )
            partly = column in rows and rows[column].isna().any()  # other runs have another kind: another schedule
            if not here or partly or not all(_agrees(each, value) for each in here):
                found.append(f"{role}: {column} {', '.join(map(str, here)) or 'unknown'}, not {value}")
    if _part_of_the_images(table):
        found.append("a part of the training images")
    return found


def _part_of_the_images(table: pd.DataFrame) -> bool:
    parts = [name for name in ("dataset.train_size", "dataset.validation") if name in table]
    return bool(table[parts].notna().any(axis=None))


def speaks_of(table: pd.DataFrame) -> bool:
    """Whether a table is on the data set whose levels paper.yaml states."""
    texts = [text["sweeps"] for text in paper()["texts"].values() if table.attrs.get("sweep") in text["sweeps"]]
    asked = texts[0][table.attrs["sweep"]] if texts else paper()["dataset"]
    return bool(table.attrs.get("dataset") == asked)


def _agrees(value: Any, asked: Any) -> bool:
    least = str(asked).removeprefix("at least ")
    return bool(float(value) >= float(least)) if least != str(asked) else bool(value == asked)


def _models(rows: pd.DataFrame) -> list[str]:
    """The networks of some rows, by the names of their columns: `model.wrn-16-2.dropout` and `model.wrn-16-2`."""
    columns = [name for name in map(str, rows.columns) if name.startswith("model.") and rows[name].notna().any()]
    return sorted({name.split(".")[1] for name in columns})


def scope(table: pd.DataFrame) -> tuple[str, str]:
    """What a table's numbers speak of, `paper`, `replication` or `direction`, and that in words."""
    dataset, sweep = str(table.attrs.get("dataset")), str(table.attrs.get("sweep"))
    if any(sweep in text["sweeps"] for text in paper()["texts"].values()):
        if speaks_of(table) and not _part_of_the_images(table):
            return "replication", "a replication on the text's data; its networks and recipe are not known"
        return "direction", f"direction on {dataset}; no verdict on the text comes from it"
    others = departures(table)
    if dataset == paper()["dataset"] and not others:
        return "paper", "the paper's networks, recipe and data"
    if dataset == paper()["replication"] and not others:
        return "replication", f"a replication on {dataset}, whose levels are not the paper's"
    return "direction", f"direction on {dataset}; no verdict on the paper comes from it"


def stated(table: pd.DataFrame, panel: Panel) -> Iterator[tuple[str, float]]:
    """The stated values that a panel names, with their words; none on another data set than the paper's."""
    if not speaks_of(table):
        return
    for name in panel.paper:
        value = paper()["values"][name]
        if value["metric"] == panel.metric:
            yield f"paper, {value['label']}", float(value["value"])
