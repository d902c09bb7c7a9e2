"""Which setting, and which run, came out best by one metric."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from kdtune.report.settings import by_setting, done, label, measured, plain, those
from kdtune.report.table import TableError, axes
from kdtune.statistics import mean_interval
from kdtune.sweepfile.values import word

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 10  # settings


def ranked(table: pd.DataFrame, metric: str, only: Mapping[str, Any]) -> Iterator[str]:
    """Settings by their mean over seeds, the best first; then the best run of all. For a terminal.

    Students, unless `only` names another role. Raises TableError where nothing was measured by this metric.
    """
    kept = those(table, only)
    values = {told: measured(runs, metric) for told, runs in by_setting(kept, axes(table)).items()}
    means = {told: mean_interval([*each.values()]) for told, each in values.items() if each}
    if not means:
        near = [str(name) for name in table.columns if str(name).startswith(metric.split("/")[0] + "/")]
        told = f"sweep {table.attrs.get('sweep')}: nothing has {metric}"
        raise TableError(f"{told}; there is {', '.join(near) or 'none of that kind'}")
    lowest = metric in json.loads(table.attrs.get("lower", "[]"))
    order = sorted(means, key=lambda told: means[told].mean, reverse=not lowest)
    width = max(map(len, order[:SHOWN]))
    yield f"by {metric}, {'lowest' if lowest else 'highest'} mean over seeds first"
    for setting in order[:SHOWN]:
        mean = means[setting]
        digits = _digits(mean.mean)
        half = f" +- {mean.high - mean.mean:{digits}}" if mean.high is not None else ""
        yield f"  {setting:{width}}  {mean.mean:{digits}}{half}  n = {mean.n}"
    if len(order) > SHOWN:
        yield f"  and {len(order) - SHOWN} more"
    finished = done(kept, metric)
    run = finished.loc[finished[metric].idxmin() if lowest else finished[metric].idxmax()]
    value = run[metric]
    yield f"best run: {label(run, axes(table))} seed={word(plain(run['seed']))}  {value:{_digits(value)}}  {run['id']}"
    if not metric.startswith("val/"):
        yield "chosen by test data: nothing that is reported may rest on this choice; val/accuracy is for that"
    elif len(_labels(finished)) > 1:
        yield "their held-out images have other labels (dataset.labels): these numbers are not to be compared"


def _labels(runs: pd.DataFrame) -> set[tuple[str, ...]]:
    """What is known of the labels of each run, which those of its held-out images are, too."""
    names = [name for name in runs if str(name).startswith("dataset.labels") or name == "dataset.seed"]
    return {tuple(map(str, row)) for row in runs[names].itertuples(index=False, name=None)}


def _digits(value: float) -> str:
    """Rates are percent; what is small is another unit, as a distance in pixel units."""
    return ".2f" if abs(value) >= 2 else ".4f"
