"""The example notebook runs, cell by cell, in a process of its own and in a folder of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_cell_runs(tmp_path: Path) -> None:
    notebook = json.loads((ROOT / "docs/example.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) == 5 and all(not cell.get("outputs") for cell in notebook["cells"]), "outputs are not kept"
    (tmp_path / "sweeps").symlink_to(ROOT / "sweeps")
    words = [sys.executable, "-c", "\n".join(cells)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    said = done.stdout.splitlines()
    assert (
        said[0].startswith("fickle laptop")
        and "points, 95 % interval" in said[-2]
        and said[-1] == "torch.Size([2, 10])"
    )
