"""What is set aside is kept whole with its note, within a bound, while its owner looks at it and takes it away."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from agent.spool_aside import AsideFolder, AsideFull


def test_what_is_put_is_got_and_removed(tmp_path: Path) -> None:
    folder = AsideFolder(tmp_path / "aside", 1000)
    folder.put("one", b"bytes", {"why": "because"})
    assert folder.get("one") == (b"bytes", {"why": "because"})
    assert (folder.count(), folder.used() > 5) == (1, True)
    for _ in range(2):
        folder.remove("one")
    assert (folder.count(), folder.used(), list(folder.folder.iterdir())) == (0, 0, [])
    with pytest.raises(FileNotFoundError):
        folder.get("one")


def test_the_bound_holds_and_room_is_found_again(tmp_path: Path) -> None:
    folder = AsideFolder(tmp_path / "aside", 300)
    folder.put("one", b"x" * 200, {})
    with pytest.raises(AsideFull, match="300 bytes"):
        folder.put("two", b"x" * 200, {})
    assert not folder.keep("two", b"x" * 200, {})
    folder.remove("one")
    assert folder.keep("two", b"x" * 200, {})


def test_who_takes_things_away_meanwhile_disturbs_nobody(tmp_path: Path) -> None:
    folder = AsideFolder(tmp_path / "aside", 1 << 20)
    ended = threading.Event()

    def take_away() -> None:
        while not ended.is_set():
            for number in range(20):
                (folder.folder / f"{number}.bin").write_bytes(b"x")
            for number in range(20):
                (folder.folder / f"{number}.bin").unlink()

    owner = threading.Thread(target=take_away)
    owner.start()
    try:
        assert all(folder.used() <= 20 for _ in range(5000))
    finally:
        ended.set()
        owner.join()


def test_the_folder_itself_may_be_moved_away(tmp_path: Path) -> None:
    """Which is what people do who are told to move things away; the status page counts what lies here."""
    folder = AsideFolder(tmp_path / "aside", 1 << 20)
    folder.put("one", b"x", {})
    folder.folder.rename(tmp_path / "looked-at")
    assert (folder.count(), folder.used()) == (0, 0)
    folder.put("two", b"x", {})
    assert folder.count() == 1
