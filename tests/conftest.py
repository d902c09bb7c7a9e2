"""A small sweep that trains in tenths of a second, and threads that do not get into each other's way."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3 import S3, served

from kdtune import extensions

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two cores: tests of tiny networks are fastest on one thread

ROOT = Path(__file__).parent.parent

SMALL = """\
name: small
dataset: {digits: {}, train_size: 100, validation: 0.2}
seeds: 2
grid: {rate: [0.0, 0.2]}
recipe:
  optimizer: {sgd: {lr: 0.1, momentum: 0.9}}
  schedule: {step: {milestones: [0.5], factor: 0.1}}
  precision: float32
  batch_size: 20
  epochs: 3
teacher:
  model: {mlp: {hidden: [8], dropout: $rate}}
  seeds: 3
  select: {rule: best, metric: val/accuracy}
student:
  model: {mlp: {hidden: [8]}}
  distillation: {alpha: 0.9, temperature: 4}
  noise: {teacher: {dropout: {rate: $rate}}}
evaluation: [accuracy]
"""


SEARCH = """\
name: small
dataset: {digits: {}, train_size: 100, validation: 0.2}
search:
  trials: 6
  sampler: {tpe: {startup: 3}}
  lag: 2
  space:
    sigma: {loguniform: [0.01, 0.5]}
    alpha: {uniform: [0.0, 1.0]}
    temperature: {quniform: [1, 10, 0.5]}
    width: {randint: [4, 9]}
    rate: {choice: [0.0, 0.2]}
  seeds: 2
  objectives: {val/accuracy: max}
  confirm: {points: 2, seeds: 3}
grid: {sigma: [0.0, 0.1], alpha: 0.9, temperature: 4, width: 8, rate: 0.0}
recipe:
  optimizer: {sgd: {lr: 0.1, momentum: 0.9}}
  schedule: {step: {milestones: [0.5], factor: 0.1}}
  precision: float32
  batch_size: 20
  epochs: 3
teacher:
  model: {mlp: {hidden: [8], dropout: $rate}}
  seeds: 3
  select: {rule: best, metric: val/accuracy}
student:
  model: {cnn: {width: $width}}
  distillation: {alpha: $alpha, temperature: $temperature}
  noise:
    input: {gaussian: {sigma: $sigma}}
    teacher: {dropout: {rate: $rate}}
evaluation: [accuracy]
"""


@pytest.fixture
def search_sweep() -> str:
    """The text of a search: six proposals of two students, the first two listed; a pool of three for each of two
    teachers."""
    return SEARCH


@pytest.fixture
def small_sweep() -> str:
    """The text of a sweep of 6 teachers and 4 students, a two-layer network on the digits."""
    return SMALL


@pytest.fixture
def write_sweep(tmp_path):
    """Writes a sweep file and returns its path."""

    def write(text: str = SMALL, name: str = "small.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.fixture(scope="session")
def service() -> Iterator[S3]:
    """A simulated S3, begun once a session."""
    with served() as s3:
        yield s3


@pytest.fixture
def s3(service: S3) -> S3:
    """The same with its door open."""
    service.door.open_again()
    return service


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images beside the project; tests that need it are skipped where there is none."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real images at {folder}")
    return folder


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--with", action="append", default=[], metavar="FILE.py", help="kinds of your own, held to contracts"
    )


def pytest_configure(config: pytest.Config) -> None:
    extensions.use(extensions.read(config.getoption("--with")))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start Ray first: each takes minutes, mostly of waiting, and would else be all that is left to do."""
    items.sort(key=lambda item: "launch" not in item.path.parts)
