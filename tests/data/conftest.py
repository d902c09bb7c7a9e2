from __future__ import annotations

from collections.abc import Iterator

import pytest

from kdtune.data import loading


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    """What a process keeps decoded is forgotten, so that tests do not see each other's images."""
    loading._read.cache_clear()
    yield
    loading._read.cache_clear()
