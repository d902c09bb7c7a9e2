"""`kdtune report results/fickle`: report.html beside the table."""

from __future__ import annotations

from pathlib import Path

import click

from kdtune.cli.refused import status_of
from kdtune.report.page import page
from kdtune.report.summary import near
from kdtune.report.table import profile_folder


def write_report(folder: str, profile: str | None, output: Path | None) -> int:
    """Writes the page and says where; the exit status."""

    def written() -> int:
        place = profile_folder(folder, profile)
        path = output or place / "report.html"
        path.write_text(page(place), encoding="utf-8")
        click.echo(f"wrote {near(path.absolute())}")
        return 0

    return status_of(written, OSError)
