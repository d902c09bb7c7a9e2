"""Tune's private cache of processes: made patient where it is as it was tested, left alone where it is not."""

from __future__ import annotations

import logging

import pytest
from ray.tune.execution import tune_controller

from kdtune.launch import searcher
from kdtune.launch.searcher import patience

OWN = tune_controller._ObjectCache


@pytest.fixture(autouse=True)
def unsaid():
    searcher._warn_once.cache_clear()


def kept(cache, shapes) -> list:
    for shape in shapes:
        cache.cache_object(shape, f"process {shape}")
    return list(cache.flush_cached_objects())


def test_processes_are_kept_while_nothing_waits_and_go_when_something_does(caplog):
    with patience():
        cache = tune_controller._ObjectCache(may_keep_one=True)
        assert kept(cache, ["a", "a", "b"]) == [] and cache.num_cached_objects == 3
        cache.increase_max("b")
        assert list(cache.flush_cached_objects()) == ["process a"] * 2
    assert tune_controller._ObjectCache is OWN
    assert caplog.text == ""


class Other(OWN):
    """A cache that counts under another name."""

    def __init__(self, may_keep_one: bool = True) -> None:
        super().__init__(may_keep_one)
        del self._max_num_objects


@pytest.mark.parametrize("other", [Other, None, object])
def test_another_tune_keeps_its_own_cache_and_that_is_said_once(monkeypatch, caplog, other):
    if other is None:
        monkeypatch.delattr(tune_controller, "_ObjectCache")
    else:
        monkeypatch.setattr(tune_controller, "_ObjectCache", other)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            with patience():
                assert getattr(tune_controller, "_ObjectCache", None) is other
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "2.60" in caplog.text
