"""A teacher's answers in the store: whole or not there, the first who publishes wins."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdtune.store import responses
from kdtune.store.claims import new_attempt
from kdtune.store.standing import Standing
from kdtune.store.store import Store

KEY = "0123456789abcdef"


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> responses.Responses:
    monkeypatch.setattr(responses, "PART", 4)
    return Store(tmp_path / "results").responses(KEY)


@pytest.mark.parametrize("content", [b"", b"four", b"something longer"])
def test_what_is_fetched_is_what_was_published(kept: responses.Responses, tmp_path: Path, content: bytes) -> None:
    file, fetched = tmp_path / "file", tmp_path / "fetched"
    file.write_bytes(content)
    assert not kept.fetch(fetched) and not fetched.exists()
    kept.publish(file, new_attempt())
    assert kept.fetch(fetched) and fetched.read_bytes() == content


def test_the_first_wins(kept: responses.Responses, tmp_path: Path) -> None:
    file, fetched = tmp_path / "file", tmp_path / "fetched"
    for content, counts in {b"first answers": True, b"second answers": False}.items():
        file.write_bytes(content)
        assert kept.publish(file, new_attempt()) == counts
    assert kept.fetch(fetched) and fetched.read_bytes() == b"first answers"


@pytest.mark.parametrize("damage", ["no json", '{"attempt": 1, "parts": []}', "another attempt", "a part", "no part"])
def test_damaged_ones_are_none_and_are_told(
    damage: str, kept: responses.Responses, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, fetched = tmp_path / "file", tmp_path / "fetched"
    file.write_bytes(b"answers of a teacher")
    kept.publish(file, new_attempt())
    folder = tmp_path / "results/runs/responses" / KEY
    (part,) = folder.glob("*/001")
    if damage == "another attempt":
        part.parent.rename(folder / new_attempt())
    elif damage == "a part":
        part.write_bytes(b"ers!")
    elif damage == "no part":
        part.unlink()
    else:
        (folder / "about").write_text(damage)
    assert not kept.fetch(fetched)
    assert "about is damaged" in caplog.text and (folder / "about.damaged").exists()
    kept.publish(file, new_attempt())
    assert kept.fetch(fetched) and fetched.read_bytes() == b"answers of a teacher"


def test_a_key_leads_nowhere_else_and_runs_are_counted_without_them(kept: responses.Responses, tmp_path: Path) -> None:
    store = Store(tmp_path / "results")
    for key in ("..", "a/b", "", "UPPER123"):
        with pytest.raises(ValueError, match="not a key of answers"):
            store.responses(key)
    (tmp_path / "file").write_bytes(b"answers")
    kept.publish(tmp_path / "file", new_attempt())
    assert Standing(store).states(["0" * 12])["0" * 12] == "new"
