"""The masking key of a tenant: 32 secret bytes, from which every kind of token has a key of its own.

Tokens of one key can be compared with each other and with nothing else: another tenant's key, or this tenant's next
one, gives others. Whoever holds the key can find out which name a token stands for by trying names, and turn
addresses back, so it is kept like a password.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

KEY_BYTES: Final = 32
_TEXT = re.compile(r"tsm_([1-9][0-9]{0,5})_([A-Za-z0-9_-]{43})")

KeyPurpose = Literal["address v4", "address v6", "token", "letter case", "fingerprint"]


class MaskingKeyError(Exception):
    """There is no usable masking key: it is missing, damaged, or others can read it."""


@dataclass(frozen=True, slots=True)
class MaskingKey:
    """A masking key; repr() hides the secret. `number` counts the tenant's keys: tokens of two do not compare."""

    secret: bytes
    number: int = 1

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_BYTES:
            raise MaskingKeyError(f"a masking key has {KEY_BYTES} bytes, not {len(self.secret)}")

    @classmethod
    def parse(cls, text: str) -> MaskingKey:
        """The key in its text form, `tsm_NUMBER_` and 43 characters of base64url. Raises MaskingKeyError."""
        found = _TEXT.fullmatch(text.strip())
        if found is None:
            raise MaskingKeyError("a masking key is tsm_, its number, _ and 43 characters: check that it is whole")
        try:
            secret = base64.b64decode(found[2] + "=", altchars=b"-_", validate=True)
        except binascii.Error as error:
            raise MaskingKeyError("the masking key is damaged: enrol again") from error
        return cls(secret, int(found[1]))

    @property
    def text(self) -> str:
        """What `parse` reads: what a host keeps in a file of mode 0600."""
        return f"tsm_{self.number}_{base64.urlsafe_b64encode(self.secret).decode('ascii').rstrip('=')}"

    @property
    def fingerprint(self) -> str:
        """16 hex digits by which two sides find out whether they hold the same key; they tell nothing else."""
        return self.derived("fingerprint").hex()[:16]

    def derived(self, purpose: KeyPurpose) -> bytes:
        """The key for one purpose: HMAC-SHA256 of its name, so that no two purposes share outputs."""
        return hmac.digest(self.secret, f"trustsoc masking v1\n{purpose}".encode(), "sha256")

    def __repr__(self) -> str:
        return f"MaskingKey(number={self.number}, fingerprint={self.fingerprint!r})"


def read_key(path: Path) -> MaskingKey:
    """The key in a file. Raises MaskingKeyError when there is none, or when others than its owner can read it."""
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise MaskingKeyError(f"{path} is a masking key and can be read by others: run `chmod 600 {path}`")
        return MaskingKey.parse(path.read_text(encoding="ascii"))
    except (OSError, UnicodeDecodeError) as error:
        raise MaskingKeyError(f"cannot read the masking key {path} ({error})") from error
