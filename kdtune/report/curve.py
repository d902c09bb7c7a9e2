"""How a search gets on, as a run `search` of TensorBoard's: a step a proposal.

    <folder>/tensorboard/search/    search/val/accuracy: the mean over a proposal's seeds, of what constraints bound too
                                    search/best/val/accuracy: of one objective the best so far
                                    search/hypervolume: of two objectives what the front so far dominates

A proposal's step is its number. What diverged has no value of its own, what breaks a constraint is never the best. The
hypervolume is over the worst values known by now, so that the whole curve is drawn anew where these change.
"""

from __future__ import annotations

import time
from pathlib import Path

from kdtune.planning.front import hypervolume
from kdtune.planning.searching import Searching
from kdtune.report.eventfolder import EventFolders, holding, standing_for

NAME = "search"


class Curve:
    """It is told by `observer.TensorBoard`. `folder` is the sweep's, a local path."""

    def __init__(self, folder: Path, search: Searching) -> None:
        self.folders, self.search = EventFolders(folder / "tensorboard"), search
        self._drawn = 0  # proposals
        self._draw()

    def tick(self) -> None:
        """What may be known since."""
        if len(self.search.values) > self._drawn:
            self._draw()

    def _draw(self) -> None:
        rows, folder = points(self.search), self.folders.root / NAME
        self._drawn = len(rows)
        contents = standing_for(rows)
        if rows and holding(folder, contents) is None:
            from kdtune.report import eventfile

            now = time.time()
            events = [eventfile.scalars(row, number, now) for number, row in enumerate(rows)]
            self.folders.replace(folder, [eventfile.restart(now), *events], contents)


def points(search: Searching) -> list[dict[str, float]]:
    """What is drawn at each proposal that is known."""
    names, ways, found = [*search.search.objectives], search.directions, []
    counted = search.counted
    for number, value in enumerate(search.values):
        row = dict(zip((f"{NAME}/{name}" for name in search.search.metrics), value or (), strict=False))
        known = [each for each in counted[: number + 1] if each is not None]
        if len(names) > 1:
            row[f"{NAME}/hypervolume"] = hypervolume(counted, ways, range(number + 1))
        elif known:
            row[f"{NAME}/best/{names[0]}"] = (max if ways[0] == "max" else min)(each[0] for each in known)
        found.append(row)
    return found
