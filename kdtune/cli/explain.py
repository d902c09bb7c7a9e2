"""`kdtune explain student.distillation`: what a sweep file may say there; and the whole of it as a document."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence

import click

from kdtune import extensions
from kdtune.cli.refused import status_of
from kdtune.sweepfile.reference import Explained, Key, NoSuchKey, explained, places, sample
from kdtune.sweepfile.schema import Schema

WIDTH = 100
HEADING = """\
# Reference

What a sweep file may say, made from the models that check it: `kdtune explain --reference`. A part of it, with the
same words: `kdtune explain student.distillation`. Every value may be a `$name` of the grid. A kind with no required
key may be written as its bare name.
"""
ROOTS = ("", "recipe", "teacher", "source", "student", "teacher.select", "search", "search.confirm")  # then families
FAMILIES = {
    "Data sets": "dataset",
    "Models": "student.model",
    "Optimizers": "recipe.optimizer",
    "Schedules": "recipe.schedule",
    "Losses": "student.loss",
    "Knobs at `input`": "student.noise.input",
    "Knobs at `teacher`": "student.noise.teacher",
    "Knobs at `target`": "student.noise.target",
    "Knobs at `labels`": "dataset.labels",
    "Evaluators": "evaluation",
    "Distributions": "search.space",
    "Samplers": "search.sampler",
}


def explain(path: str, own: Sequence[str] = ()) -> int:
    """Prints what stands at a dotted path; the exit status. `own`: files of the user's own, as `--with` names them."""

    def said() -> int:
        extensions.use(extensions.read(own))
        try:
            found = explained(path)
        except NoSuchKey as error:
            stand = places(path)
            click.echo("\n".join([f"{path} stands at:", *stand]) if stand else str(error), err=True)
            return 2
        for line in told(found):
            click.echo(line)
        return 0

    return status_of(said)


def print_schema(own: Sequence[str]) -> int:
    """Prints the JSON Schema of sweep files; the exit status."""

    def said() -> int:
        extensions.use(extensions.read(own))
        click.echo(schema())
        return 0

    return status_of(said)


def told(found: Explained) -> Iterator[str]:
    """For a terminal."""
    yield " ".join(filter(None, (found.path, f"({found.source})" if found.source else "")))
    if found.title not in (found.path, ""):
        yield found.title
    for paragraph in filter(None, found.about.split("\n\n")):
        yield ""
        yield from textwrap.wrap(" ".join(paragraph.split()), WIDTH)
    if found.keys:
        yield ""
    width = max((len(key.name) for key in found.keys), default=0)
    for key in found.keys:
        first = f"  {key.name:{width}}  {key.type}; {key.default}"
        yield f"{first}  # {key.note}" if key.note else first
    if found.kinds:
        yield ""
    width = max(map(len, found.kinds), default=0)
    for name, first in found.kinds.items():
        yield f"  {name:{width}}  {first}"


def schema() -> str:
    """The JSON Schema."""
    return json.dumps(Schema().document(), indent=1)


def reference() -> Iterator[str]:
    """docs/reference.md, line by line."""
    yield from HEADING.splitlines()
    for path in ROOTS:
        found = explained(path)
        yield from ["", f"## {f'`{path}`' if path else 'A sweep file'}", "", *_about(found), "", *_table(found.keys)]
    for title, path in FAMILIES.items():
        found = explained(path)
        yield from ["", f"## {title}", "", f"`{path}`: {found.title}.", "", *_about(found)]
        if found.keys:
            yield from ["", "Beside the name:", "", *_table(found.keys)]
        for name in found.kinds:
            kind = explained(f"{path}.{sample(name)}")
            if not kind.source.startswith("kdtune."):
                continue  # somebody's own
            yield from ["", f"### `{name}`", "", f"{kind.source}", "", *_about(kind)]
            if kind.keys:
                yield from ["", *_table(kind.keys)]


def _about(found: Explained) -> Iterator[str]:
    """Paragraphs, each in one line."""
    for number, paragraph in enumerate(filter(None, found.about.split("\n\n"))):
        if number:
            yield ""
        yield " ".join(paragraph.split()).replace("|", "\\|")


def _table(keys: Sequence[Key]) -> Iterator[str]:
    yield "| key | type | | |"
    yield "|---|---|---|---|"
    for key in keys:
        cells = (f"`{key.name}`", key.type, key.default, key.note)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
