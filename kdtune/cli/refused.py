"""What commands refuse, and what exit status that is."""

from __future__ import annotations

from collections.abc import Callable

import click

from kdtune.data.error import DataError
from kdtune.evaluation.evaluator import EvaluationError
from kdtune.extensions import ExtensionError
from kdtune.planning.watching import CannotGrow
from kdtune.report.folder import OtherSweep
from kdtune.report.table import TableError
from kdtune.store.objects import StorageError
from kdtune.sweepfile.tree import SweepFileError


class Refused(Exception):
    """The sweep is not started: data, storage, cluster or cost. Exit status 4."""


def status_of(command: Callable[[], int], *more: type[Exception]) -> int:
    """The exit status of a command; what its user can mend is told in place of a traceback: 2, or 4 (`cli.sweep`).

    `more`: further refusals of a command that has begun nothing. In the midst of a sweep an OSError is no refusal.
    """
    refusals: tuple[type[Exception], ...] = (CannotGrow, DataError, EvaluationError, OtherSweep, Refused, StorageError)
    try:
        return command()
    except (SweepFileError, ExtensionError) as error:
        click.echo(str(error), err=True)
        return 2
    except TableError as error:
        click.echo(f"refused: {error}", err=True)
        return 2
    except (*refusals, *more) as error:
        click.echo(f"refused: {error}", err=True)
        return 4
