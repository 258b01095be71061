"""`trustsoc-agent signing-key`: puts a new signing key in place, which the running programs use from then on."""

from __future__ import annotations

import re
from typing import Final

from agent.contract import SigningKey
from agent.controller.identity import IdentityError, IdentityFolder
from agent.controller.reload import reload_all
from agent.controller.settings import ReloadSettings
from agent.installation.account import acting_as, owner_of
from agent.installation.places import InstallationError, Places, is_running

_SECRET: Final = re.compile(r"tss_([A-Za-z0-9-]{1,64})_[A-Za-z0-9_-]{43}")


def use_signing_key(places: Places, secret: str) -> tuple[str, list[str]]:
    """Keeps the key of that secret; returns its id, and whom it could not tell. Raises InstallationError, OSError.

    The secret is what `trustsoc signing-key rotate` shows. The controller reads it with its next poll.
    """
    found = _SECRET.fullmatch(secret)
    if found is None:
        raise InstallationError("that is no secret of a signing key: `trustsoc signing-key rotate NAME` shows one")
    with acting_as(owner_of(places.state)):
        folder = IdentityFolder(places.state)
        try:
            folder.read()
        except IdentityError as error:
            raise InstallationError(str(error)) from error
        folder.use_signing_key(SigningKey(found[1], secret))
        told = reload_all(ReloadSettings(pid_files=(str(places.forwarder_pid),))) if is_running(places) else []
    return found[1], told
