"""A sweep file as it was read: once, for a pipe gives what is in it only once."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdtune.settings import place_name
from kdtune.sweepfile import reader
from kdtune.sweepfile.tree import Problem, SweepFileError, YamlMap
from kdtune.sweepfile.values import grown

MAPPING = "the mapping given, as JSON"
PAPER = "paper"  # the profile of a file as it stands, without an overlay


@dataclass(frozen=True)
class Source:
    name: str  # what errors call it
    folder: str  # what paths in it are relative to: its own folder; of a pipe, where the command was given
    file: str | None  # where it lies; None for a pipe, which lies nowhere
    tree: YamlMap  # profiles included; not to be changed

    @property
    def profiles(self) -> dict[str, YamlMap]:
        """Overlays by the names of the profiles that the file offers; the file as it stands is one without an overlay.

        Raises SweepFileError where there is no such thing, or a name that no folder can have.
        """
        overlays = self.tree.get("profiles", YamlMap())
        if not isinstance(overlays, YamlMap) or not all(isinstance(overlay, YamlMap) for overlay in overlays.values()):
            message = "takes a mapping from profile names to overlays"
            raise SweepFileError([Problem(self.name, self.tree.lines.get("profiles"), ("profiles",), message)])
        problems = []
        for name in overlays:
            try:
                place_name(name)
            except ValueError as error:
                problems.append(Problem(self.name, overlays.lines.get(name), ("profiles", name), str(error)))
        if problems:
            raise SweepFileError(problems)
        return {PAPER: YamlMap(), **overlays}


def read_source(path: str | Path | Mapping[str, Any], folder: str | None = None) -> Source:
    """Reads a sweep file, or with `-` standard input; or takes what one says, as a mapping. `folder` is instead of its
    own.

    Raises SweepFileError with what is wrong with it as YAML.
    """
    if isinstance(path, Mapping):  # by way of its text: the same limits hold, and errors have lines
        text = json.dumps(grown(path), indent=1, default=str)
        return Source(MAPPING, folder or os.getcwd(), None, reader.parse(text, MAPPING))
    if str(path) == "-":
        return Source("standard input", folder or os.getcwd(), None, reader.read(path))
    file = Path(path)
    if not file.is_file():  # a pipe: `<(envsubst < sweep.yaml)` is /dev/fd/63
        return Source(str(path), folder or os.getcwd(), None, reader.read(path))
    here = file.resolve()
    return Source(str(path), folder or str(here.parent), str(here), reader.read(path))
