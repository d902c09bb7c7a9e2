"""Where results and data lie: flag, then environment, then a default; and for a user who has no home."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import SMALL

from kdtune import paths
from kdtune.paths import data_folder, ensure_user, results_folder
from kdtune.store.objects import Objects, StorageError

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A user without settings, in an empty folder."""
    for name in ("KDTUNE_RESULTS", "KDTUNE_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_results_lie_where_the_command_is_given(bare: Path) -> None:
    assert results_folder() == str(bare / "results")


def test_the_flag_goes_before_the_environment(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDTUNE_RESULTS", "elsewhere")
    monkeypatch.setenv("KDTUNE_DATA", "sets")
    assert results_folder() == str(bare / "elsewhere")
    assert results_folder("mine") == str(bare / "mine")
    assert data_folder() == bare / "sets"
    assert data_folder("mine") == bare / "mine"


def test_an_empty_variable_says_nothing(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KDTUNE_RESULTS", "KDTUNE_DATA", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "")
    assert results_folder() == str(bare / "results")
    assert data_folder() == bare / "user" / ".cache" / "kdtune"


def test_a_folder_is_absolute_because_other_processes_work_elsewhere(bare: Path) -> None:
    assert results_folder("a/../b/.") == str(bare / "b")
    assert results_folder("~/r") == str(bare / "user" / "r")
    assert data_folder("~/d") == bare / "user" / "d"


def test_a_uri_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert results_folder("s3://bucket/prefix//x") == "s3://bucket/prefix//x"
    monkeypatch.setenv("KDTUNE_RESULTS", "s3://bucket/other")
    assert results_folder() == "s3://bucket/other"


def test_data_lie_in_the_cache_folder_of_the_user(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert data_folder() == bare / "user" / ".cache" / "kdtune"
    monkeypatch.setenv("XDG_CACHE_HOME", str(bare / "cache"))
    assert data_folder() == bare / "cache" / "kdtune"


def test_asking_makes_nothing(bare: Path) -> None:
    results_folder()
    data_folder()
    assert list(bare.iterdir()) == []


@pytest.fixture
def nameless(bare: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without passwd entry; temporary folders lie in the folder that is returned."""
    monkeypatch.setattr(paths.pwd, "getpwuid", lambda uid: {}[uid])
    monkeypatch.setattr(tempfile, "tempdir", str(bare))
    monkeypatch.delenv("USER", raising=False)
    return bare


def test_a_user_without_passwd_entry_gets_a_name_and_a_private_home(nameless, monkeypatch: pytest.MonkeyPatch) -> None:
    for home in (None, str(nameless / "nowhere")):
        monkeypatch.setenv("HOME", home) if home else monkeypatch.delenv("HOME", raising=False)
        assert data_folder() == nameless / f"kdtune-{os.getuid()}" / ".cache" / "kdtune"
        assert os.environ["USER"] == str(os.getuid()) and Path.home().stat().st_mode & 0o777 == 0o700


def test_what_such_a_user_has_is_kept(nameless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (nameless / "user").mkdir()
    monkeypatch.setenv("USER", "somebody")
    ensure_user()
    assert (os.environ["HOME"], os.environ["USER"]) == (str(nameless / "user"), "somebody")


def test_a_home_that_somebody_else_prepared_is_not_taken(nameless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch and Ray keep there is run: a folder that others may write, or a link, is left alone."""
    (nameless / "planted").mkdir()
    private = nameless / f"kdtune-{os.getuid()}"
    for plant in (lambda: private.symlink_to(nameless / "planted"), lambda: (private.mkdir(), private.chmod(0o777))):
        plant()
        monkeypatch.setenv("HOME", "/nonexistent")
        ensure_user()
        home = Path.home()
        assert home != private and home.parent == nameless and home.stat().st_mode & 0o777 == 0o700
        private.unlink() if private.is_symlink() else private.rmdir()


def test_others_keep_what_they_have(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths.pwd, "getpwuid", lambda uid: object())
    monkeypatch.setenv("HOME", "/nonexistent")
    ensure_user()
    assert os.environ["HOME"] == "/nonexistent"


UID = "54321"


def as_nobody(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command of a uid that no passwd file has, with nothing in its environment. It may read everything."""
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("taking another uid needs root and setpriv (Debian's util-linux)")
    if any(str(entry.pw_uid) == UID for entry in pwd.getpwall()):
        pytest.skip(f"uid {UID} has a passwd entry here")
    reads = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]  # this Python may lie in a home
    person = ["setpriv", "--reuid", UID, "--regid", UID, "--clear-groups", *reads]
    bare = {"PATH": os.defpath, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [*person, "env", "-i", *(f"{name}={value}" for name, value in bare.items()), sys.executable, *words],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
        timeout=250,
    )


@pytest.fixture
def foreign_folder():
    """A folder of that uid, with a sweep file in it."""
    folder = Path(tempfile.mkdtemp(prefix="kdtune-test-", dir="/tmp"))
    (folder / "small.yaml").write_text(SMALL.replace("[0.0, 0.2]", "[0.2]").replace("seeds: 3", "seeds: 1"))
    if os.getuid() == 0:
        os.chown(folder, int(UID), int(UID))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("how", ["--here", pytest.param("--quiet", marks=pytest.mark.faults, id="through Ray")])
def test_a_sweep_of_a_uid_without_passwd_entry(foreign_folder: Path, how: str) -> None:
    """row C8, `docker run -u 54321`: every run failed in `getpwuid`."""
    done = as_nobody(foreign_folder, "-m", "kdtune.sweep", "small.yaml", how, HOME="/")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((foreign_folder / "results/runs/done").iterdir())) == 3


def test_ray_can_be_imported_by_a_uid_without_home(foreign_folder: Path) -> None:
    program = "from kdtune import paths; paths.ensure_user(); from ray import tune; import matplotlib.pyplot"
    done = as_nobody(foreign_folder, "-c", program)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("given", "said"), [("s3:/mine", "two slashes"), ("", "--results is empty")])
def test_what_is_nearly_a_bucket_or_nothing_is_refused(bare: Path, given: str, said: str) -> None:
    with pytest.raises(StorageError, match=said):
        Objects(results_folder(given))


def test_nobodys_home_and_a_link_to_itself_are_paths_like_others(bare: Path) -> None:
    (bare / "loop").symlink_to("loop")
    assert results_folder("~nosuchuser/x").endswith("/~nosuchuser/x")
    assert str(data_folder("loop/x")).endswith("/loop/x")
