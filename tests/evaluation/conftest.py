from __future__ import annotations

import pytest

from kdtune.evaluation.evaluator import Evaluator


@pytest.fixture(autouse=True)
def own_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluators that a test defines are forgotten after it."""
    monkeypatch.setattr(Evaluator, "registered", dict(Evaluator.kinds()))
