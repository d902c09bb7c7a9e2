"""A sweep's folder on disk: what its last command saw, derived anew from the runs. Deleting it loses nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdtune.paths import data_folder
from kdtune.planning.plan import Plan
from kdtune.report import table
from kdtune.store.encoding import to_json, to_yaml
from kdtune.store.standing import Standing
from kdtune.store.state import State
from kdtune.sweepfile.load import SweepFile


class View:
    """`results/<sweep>/<profile>/`; with overrides `<profile>+<4 hex>`, so that two variants do not share a folder."""

    def __init__(self, standing: Standing, plan: Plan, overrides: Sequence[str] = (), label: str | None = None) -> None:
        self.standing = standing
        self.plan = plan
        variant = f"+{hashlib.sha256(chr(0).join(overrides).encode()).hexdigest()[:4]}" if overrides else ""
        self.key = f"{plan.name}/{label or plan.profile + variant}"

    @property
    def place(self) -> str:
        """Folder or URI, as a person would open it."""
        return self.standing.store.objects.path(self.key)

    @property
    def local(self) -> Path:
        """Where files that need a real folder lie, such as TensorBoard's: the folder itself, or a mirror of it."""
        root = self.standing.store.objects.local
        return (root if root is not None else data_folder() / "mirror") / self.key

    def write(self, file: SweepFile, states: Mapping[str, State]) -> list[dict[str, Any]]:
        """The sweep as it was resolved, its plan, and the table of its runs; returns the table."""
        rows = table.rows(self.plan, self.standing, states)
        about = {"sweep": self.plan.name, "profile": self.plan.profile, "dataset": self.plan.dataset}
        for each in self.plan.evaluation:
            if each.writes_under == "pgd":  # a number of robustness means nothing without what it was attacked with
                about["attack"] = f"eps {each.eps[0]:g}, step {each.step[0]:g}, {each.restarts} restarts"
        runs, evaluators = described(self.plan, states), self.plan.evaluators
        files = {
            "sweep.yaml": to_yaml(file.tree),
            "plan.json": to_json({**about, "folder": file.folder, "evaluators": evaluators, "runs": runs}, indent=1),
            "results.csv": table.to_csv(rows),
        }
        objects, parquet = self.standing.store.objects, f"{self.key}/results.parquet"
        changed = {name: data for name, data in files.items() if objects.get(f"{self.key}/{name}") != data}
        # Arrow loads pandas, which is slow: not for what is there already. Parquet first: if that is cut
        # short, the others still differ, and the next command writes all again.
        if changed or not objects.exists(parquet):
            objects.put(parquet, table.to_parquet(rows, about))
        for name, data in changed.items():
            objects.put(f"{self.key}/{name}", data)
        return rows


def described(plan: Plan, states: Mapping[str, State]) -> list[dict[str, Any]]:
    """The runs of a plan as plain values: what `--dry-run --json` prints and plan.json keeps."""
    return [
        {
            "id": id,
            "role": planned.role,
            "seed": planned.run.seed,
            "parameters": planned.parameters,
            "waits_for": list(planned.waits_for),
            "state": str(states[id]),
        }
        for id, planned in plan.runs.items()
    ]
