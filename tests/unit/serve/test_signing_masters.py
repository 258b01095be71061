"""Master keys: secrets are a function of master, tenant and key id, and the files are nobody else's."""

from __future__ import annotations

import stat
from pathlib import Path
from uuid import UUID

import pytest

from detect.record import TenantId
from serve.signing_masters import MasterKeyError, add_master, ensure_master, load_masters

ONE = TenantId(UUID("11111111-1111-4111-8111-111111111111"))
OTHER = TenantId(UUID("22222222-2222-4222-8222-222222222222"))


def test_a_secret_is_the_same_after_every_start_and_another_for_every_key(tmp_path: Path) -> None:
    add_master(tmp_path)
    add_master(tmp_path)
    masters = load_masters(tmp_path)
    secret = masters.secret_text(1, ONE, "a1b2c3d4e5f6")
    assert load_masters(tmp_path).secret_text(1, ONE, "a1b2c3d4e5f6") == secret
    assert secret.startswith("tss_a1b2c3d4e5f6_")
    assert len(secret) == len("tss_a1b2c3d4e5f6_") + 43
    others = {
        masters.secret_text(2, ONE, "a1b2c3d4e5f6"),
        masters.secret_text(1, OTHER, "a1b2c3d4e5f6"),
        masters.secret_text(1, ONE, "a1b2c3d4e5f7"),
    }
    assert len(others | {secret}) == 4


def test_derivation_is_pinned(tmp_path: Path) -> None:
    """Another result would end every signing key there is."""
    path = tmp_path / "1.key"
    path.write_text("00" * 32)
    path.chmod(0o600)
    found = load_masters(tmp_path).secret_text(1, ONE, "a1b2c3d4e5f6")
    assert found == "tss_a1b2c3d4e5f6_WxDAWFw4ZASIa1FBEXoXJ7dv5Yn-frms3djwo1qnEVo"


def test_the_newest_master_makes_new_keys_and_the_old_one_may_go(tmp_path: Path) -> None:
    ensure_master(tmp_path / "signing")
    ensure_master(tmp_path / "signing")
    assert load_masters(tmp_path / "signing").newest == 1
    assert add_master(tmp_path / "signing") == 2
    assert load_masters(tmp_path / "signing").newest == 2
    (tmp_path / "signing" / "1.key").unlink()
    with pytest.raises(MasterKeyError, match=r"1\.key"):
        load_masters(tmp_path / "signing").secret_text(1, ONE, "a")
    assert add_master(tmp_path / "signing") == 3, "a number is never given twice while a newer one is there"


def test_masters_are_private(tmp_path: Path) -> None:
    add_master(tmp_path / "signing")
    path = tmp_path / "signing" / "1.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path.read_text().strip() not in repr(load_masters(path.parent))
    path.chmod(0o604)
    with pytest.raises(MasterKeyError, match="chmod 600"):
        load_masters(path.parent)


@pytest.mark.parametrize("content", ["", "00" * 31, "00" * 33, "zz" * 32])
def test_damaged_and_missing_masters_say_so(tmp_path: Path, content: str) -> None:
    with pytest.raises(MasterKeyError, match="new-master"):
        load_masters(tmp_path)
    with pytest.raises(MasterKeyError, match="cannot read"):
        load_masters(tmp_path / "nothing")
    path = tmp_path / "7.key"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(MasterKeyError, match="damaged"):
        load_masters(tmp_path)
