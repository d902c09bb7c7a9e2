"""This machine, before anything is spent on it: packages, GPU, the store, room, the token, open ports. Loads no torch.

What takes milliseconds is `cheap`, and runs before every sweep.
"""

from __future__ import annotations

import http.client
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from kdtune.doctor.finding import Finding, Level, failure, ok, warning
from kdtune.launch import door
from kdtune.planning.devices import has_usable_gpu
from kdtune.store.objects import StorageError
from kdtune.store.store import Store

INSTALL = "pip install --constraint constraints.txt --editable ."
LEAST_BYTES = 1e9  # free, where a sweep's own needs are not known
LISTENING = "0A"  # in /proc/net/tcp
LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
HEAD, DASHBOARD, CLIENT, TENSORBOARD = 6379, 8265, 10001, 6006  # the ports that Ray and TensorBoard take by themselves
ANSWER_S = 2.0


def cheap(unused: Collection[str] = ()) -> Iterator[Finding]:
    """What is asked before every sweep. `unused`: packages that this one can do without."""
    yield from packages(unused)
    yield from token()


def packages(unused: Collection[str] = ()) -> Iterator[Finding]:
    """What kdtune needs, as installed here."""
    try:
        needed = [Requirement(text) for text in requires("kdtune") or ()]
    except PackageNotFoundError:
        yield warning(f"kdtune itself is not installed, so its packages were not checked: {INSTALL}")
        return
    wanted = [each for each in needed if each.marker is None or each.marker.evaluate({"extra": ""})]
    wanted = [each for each in wanted if each.name not in unused]
    wrong = [problem for each in wanted if (problem := _package(each))]
    if wrong:
        yield failure(f"{'; '.join(wrong)}: {INSTALL}")
    else:
        known = [f"{name} {version(name)}" for name in ("torch", "ray") if name not in unused]
        more = f"and {len(wanted) - len(known)} more packages are as kdtune needs them"
        yield ok(f"Python {platform.python_version()}, {', '.join(known)}, {more}")


def _package(needed: Requirement) -> str:
    try:
        found = version(needed.name)
    except PackageNotFoundError:
        return f"{needed.name} is not installed"
    fits = needed.specifier.contains(found, prereleases=True)
    return "" if fits else f"{needed.name} {found} is installed, kdtune needs {needed.specifier}"


def vision() -> Iterator[Finding]:
    """Whether torch and torchvision are of one build: a pair from two places fails when images are first read."""
    asked = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True, check=False)
    if asked.returncode:
        last = asked.stderr.strip().rpartition("\n")[2]
        yield failure(f"torch and torchvision do not fit together ({last}): reinstall both, {INSTALL}")
    else:
        yield ok(f"torch {version('torch')} and torchvision {version('torchvision')} fit together")


def gpu() -> Iterator[Finding]:
    """The cards, the driver, and whether torch can use them."""
    cards = sorted(Path("/dev").glob("nvidia[0-9]*"))
    if not cards:
        yield ok("no NVIDIA card here: runs of this machine train on its CPUs")
        return
    known = _driver() or f"{len(cards)} cards; nvidia-smi does not answer"
    if has_usable_gpu():
        yield ok(f"torch can use the GPU: {known}")
    else:
        yield failure(
            f"torch {version('torch')} cannot use the GPU ({known}): its build needs a newer driver, or is for CPUs"
        )


def _driver() -> str:
    asked = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return ""
    return "; ".join(said.stdout.strip().splitlines())


def storage(store: Store) -> Iterator[Finding]:
    """Whether the store can be written, read and tidied from here."""
    began = time.monotonic()
    try:
        store.objects.probe()
    except StorageError as error:
        yield failure(str(error))
        return
    yield ok(f"{store.objects.path('')} can be written, read and tidied ({1000 * (time.monotonic() - began):.0f} ms)")


def room(folders: Iterable[Path]) -> Iterator[Finding]:
    """Free bytes where results, data and Ray's own files lie."""
    for folder in dict.fromkeys(folders):
        there = next(each for each in (folder, *folder.parents) if each.exists())
        free = shutil.disk_usage(there).free
        said = f"{folder}: {free / 1e9:,.1f} GB are free"
        yield ok(said) if free >= LEAST_BYTES else warning(f"{said}, which is little")


def token() -> Iterator[Finding]:
    """Whether others on this machine can read the token that lets its bearer run code on a cluster."""
    found, origin = door.own_token()
    file = Path(origin)
    if not found:
        yield ok(f"no token of a cluster here ({origin})")
    elif file.is_file() and file.stat().st_mode & 0o077:
        yield warning(f"others on this machine can read {file}, and run code on the cluster with it: chmod 600 {file}")
    else:
        yield ok(f"the token of {origin} is this user's alone")


def ports(insecure: bool = False) -> Iterator[Finding]:
    """What of Ray and TensorBoard other machines could reach here, at their own ports, without a token."""
    reached = open_ports()
    if HEAD in reached:
        told = door.answer(f"127.0.0.1:{HEAD}", "")
        if told == "OK":
            yield _open(insecure, f"a Ray without a token listens on port {HEAD} of all addresses")
        elif told == "UNAUTHENTICATED":
            yield ok(f"the Ray on port {HEAD} asks for a token")
    if DASHBOARD in reached and _dashboard_asks_nothing():
        yield _open(insecure, f"Ray's dashboard, which takes jobs, answers all addresses on port {DASHBOARD}")
    if CLIENT in reached:
        yield warning(f"a Ray Client server listens on port {CLIENT} of all addresses; kdtune needs none")
    if TENSORBOARD in reached:
        yield warning(
            f"port {TENSORBOARD}, TensorBoard's, is open on all addresses: it has no password, leave out --bind_all"
        )
    if not reached & {HEAD, DASHBOARD, CLIENT, TENSORBOARD}:
        yield ok("no port of Ray or TensorBoard is open to other machines here")


def _open(insecure: bool, what: str) -> Finding:
    told = (
        f"{what}: whoever reaches it runs code here; start it with RAY_AUTH_MODE=token and --dashboard-host=127.0.0.1"
    )
    return Finding(Level.WARNING, told) if insecure else Finding(Level.FAILURE, f"{told}, or accept it: --insecure")


def _dashboard_asks_nothing() -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", DASHBOARD, timeout=ANSWER_S)
    try:
        connection.request("GET", "/api/jobs/")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def open_ports() -> set[int]:
    """TCP ports that something listens on, but for those that only this machine itself reaches."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            _, local, _, state, *_ = line.split()
            address, _, port = local.rpartition(":")
            if state == LISTENING and address not in LOOPBACK:
                found.add(int(port, 16))
    return found
