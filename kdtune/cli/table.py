"""`kdtune table results/fickle`: the whole table as CSV, or means over seeds to read and print; and `kdtune diff`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from kdtune.cli.console import stdout_failed
from kdtune.cli.refused import status_of
from kdtune.cli.run import parts
from kdtune.report.best import ranked
from kdtune.report.comparison import Asked, compared, written
from kdtune.report.difference import between, told
from kdtune.report.table import TableError, profile_folder, read
from kdtune.sweepfile.reader import parse_value
from kdtune.sweepfile.tree import COMMAND_LINE


def print_rows(folders: Sequence[str], profile: str | None, form: str | None, asked: Mapping[str, str | None]) -> int:
    """results.csv of one sweep; the exit status."""

    def printed() -> int:
        if given := [name for name, value in asked.items() if value is not None]:
            raise TableError(f"--{given[0]} is of means over seeds: say with --rows which axes stand down the side")
        if len(folders) > 1 or form not in (None, "csv"):
            raise TableError("a whole table is CSV, of one sweep; with --rows AXES means of several, in other formats")
        path = profile_folder(folders[0], profile) / "results.csv"
        try:
            click.echo(path.read_text(), nl=False)
        except (OSError, UnicodeDecodeError) as error:
            raise TableError(f"{path} cannot be read ({error}); the sweep's own command writes it anew") from error
        return _told()

    return status_of(printed)


def print_means(folders: Sequence[str], profile: str | None, form: str, asked: Mapping[str, str | None]) -> int:
    """Means over seeds; the exit status."""

    def printed() -> int:
        wanted = Asked(
            rows=_names(asked["rows"]),
            columns=_names(asked["columns"]),
            across=asked["across"],
            baseline=_values(asked["baseline"], "baseline"),
            only=_values(asked["only"], "only"),
        )
        comparison = compared([read(folder, profile) for folder in folders], wanted)
        click.echo(written(comparison, form), nl=False)
        return _told()

    return status_of(printed)


def print_difference(first: str, second: str, columns: str | None) -> int:
    """Two sweeps side by side; the exit status."""

    def printed() -> int:
        for line in told(between(read(first), read(second), _names(columns))):
            click.echo(line)
        return _told()

    return status_of(printed)


def print_best(folder: str, profile: str | None, metric: str, only: str | None) -> int:
    """Settings by one metric; the exit status."""

    def printed() -> int:
        for line in ranked(read(folder, profile), metric, _values(only, "only")):
            click.echo(line)
        return _told()

    return status_of(printed)


def _told() -> int:
    """Half a table may be taken for one."""
    return 1 if stdout_failed() else 0


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",")) if text else ()


def _values(text: str | None, flag: str) -> dict[str, Any]:
    """`dropout=0.2,epochs=30` as values. Raises TableError."""
    values = {}
    for part in parts(text) if text else ():
        axis, equals, value = part.strip().partition("=")
        if not equals:
            raise TableError(f"--{flag}: came {part.strip()!r}; write axis=value")
        values[axis] = parse_value(value, COMMAND_LINE)
    return values
