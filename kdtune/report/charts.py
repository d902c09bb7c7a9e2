"""What TensorBoard shows first, where it can be told: the charts of its Custom Scalars tab, and the order of metrics.

Its Time Series and Scalars tabs sort tags by name and open the first two groups: `corruption` and `lr`, `test` and
`train` far below (tensorboard 2.21). Metrics keep their names, so these charts are how accuracy comes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from kdtune.planning.plan import Plan

Charts = Mapping[str, list[str]]  # names of values by the title of their category

OPENING = "#custom_scalars&regexInput=means"  # behind TensorBoard's address: these charts, of means alone, all ticked
CATEGORIES = {
    "Accuracy": ("test", "val", "shift", "train"),
    "Loss": (),
    "Robustness": ("robust", "distance", "corruption"),
}
OTHERS = "Other metrics"
# Groups of final metrics, in the order of their columns.
FIRST = ("test", "val", "robust", "distance", "corruption", "shift")


def charts(plan: Plan, finals: Iterable[str]) -> Charts:
    """A chart for each value that a run is judged by: its curves and its final metrics."""
    curves = ["test/accuracy", "train/accuracy"]
    if any(place.run.dataset.validation for place in plan.runs.values()):
        curves.insert(1, "val/accuracy")
    found: dict[str, list[str]] = {title: [] for title in (*CATEGORIES, OTHERS)}
    found["Loss"].append("train/loss")
    for name in dict.fromkeys([*finals, *curves]):
        group = name.partition("/")[0]
        found[next((title for title, groups in CATEGORIES.items() if group in groups), OTHERS)].append(name)
    return {title: _ranked(names, CATEGORIES.get(title, ())) for title, names in found.items() if names}


def columns(finals: Iterable[str]) -> list[str]:
    """Final metrics with accuracy and robustness in front, else as they come."""
    return _ranked(finals, FIRST)


def _ranked(names: Iterable[str], groups: Sequence[str]) -> list[str]:
    rank = {group: number for number, group in enumerate(groups)}
    return sorted(names, key=lambda name: rank.get(name.partition("/")[0], len(rank)))
