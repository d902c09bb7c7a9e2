"""What test_fuzz.py found, made small: what ended in a traceback, never, or in words that help nobody.

Rows: (what is written instead of what in the small sweep, overrides, what is said).
"""

from __future__ import annotations

import pytest

from kdtune.data.error import DataError
from kdtune.planning.plan import build_plan
from kdtune.sweepfile.load import load_sweep
from kdtune.sweepfile.tree import SweepFileError

LONG = "a" * 300
POOL = "  seeds: 3\n  select: {rule: best, metric: val/accuracy}\n"

REFUSED = {
    "~ is nobody's home": (
        {POOL: "  checkpoint: ~nobody9/own.pt\n"}, (), "~nobody9/own.pt: the teacher's checkpoint cannot be read"),
    "a link to itself": ({POOL: "  checkpoint: loop\n"}, (), "/loop: the teacher's checkpoint cannot be read"),
    "below a link to itself": ({POOL: "  checkpoint: loop/own.pt\n"}, (), "/loop/own.pt: the teacher's checkpoint"),
    "a folder of images that is one": (
        {"{digits: {}, train_size: 100,": "{folder: {path: loop, name: x},"}, (), "/loop/train: cannot list this"),
    "a folder with a link to itself": (
        {"{digits: {}, train_size: 100,": "{folder: {path: ., name: x},"}, (), "/train: cannot list this"),
    "a folder of too long a name": (
        {"{digits: {}, train_size: 100,": "{folder: {path: " + LONG + ", name: x},"}, (), "/train: cannot list"),
    "no seeds": ({"seeds: 2\n": "seeds: 0\n"}, (), "seeds: came 0; a count of seeds is at least 1"),
    "a device without end": ({POOL: "  checkpoint: /dev/zero\n"}, (), "(that is no file)"),
    "a folder": ({POOL: "  checkpoint: .\n"}, (), "(that is no file)"),
    "profiles in a profile": (
        {"seeds: 2\n": "seeds: 2\nprofiles: {paper: {profiles: {quick: {}}}}\n"}, (), "profiles: stand at the top"),
    "profiles of the command line": ({}, ("profiles={quick: {}}",), "command line: profiles: stand at the top"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "overrides", "said"), REFUSED.values(), ids=REFUSED)
def test_what_a_file_may_not_say(changes, overrides, said, write_sweep, small_sweep, tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for old, new in changes.items():
        assert old in small_sweep
        small_sweep = small_sweep.replace(old, new)
    with pytest.raises((SweepFileError, DataError)) as caught:
        build_plan(load_sweep(write_sweep(small_sweep), overrides=overrides), tmp_path / "data")
    assert said in str(caught.value)
