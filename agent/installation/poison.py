"""`trustsoc-agent poison`: what the server refused for ever, and sending it anew or dropping it.

A batch comes here by an answer that no repetition changes, so send it anew when the reason is gone: a limit of the
server was raised, or an older server was upgraded. It is another batch then, with a number and a key of its own, and
the books count it a second time: once as rejected, once as what became of it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from agent.forwarder.poison import Refused, refused
from agent.installation.account import acting_as, owner_of
from agent.installation.overview import local_address
from agent.installation.places import InstallationError, Places
from agent.spool_aside import AsideFolder

_ANSWER_S: Final = 30.0
_MOST_ANSWER: Final = 65_536


def show(places: Places, *, as_json: bool) -> int:
    """Prints what lies in poison/; 0. Raises InstallationError, OSError."""
    found = _listed(places)
    if as_json:
        print(json.dumps([asdict(batch) for batch in found], indent=1))
        return 0
    for batch in found:
        came = datetime.fromtimestamp(batch.since_ms / 1000, UTC).isoformat(timespec="seconds")
        said = " ".join(batch.answer.split())[:200]
        doubt = "; the server may have it all the same" if batch.unsettled else ""
        print(f"{batch.name}  {batch.reason}  {batch.records} records of {came}{doubt}")
        print(f"    {said}")
    print(f"{len(found)} batches, {sum(batch.records for batch in found)} records, were refused")
    return 0


def resend(places: Places, names: Sequence[str], *, everything: bool) -> int:
    """Lets the running forwarder send these batches anew; 1 when one of them stays. Raises InstallationError, OSError.

    Each is durable in the spool before it leaves poison/, and asking again after a crash sends none twice.
    """
    left = 0
    for name in _chosen(places, names, everything):
        refusal = _ask(places, name)
        left += bool(refusal)
        print(f"{name}  {refusal or 'will be sent anew'}")
    return 1 if left else 0


def drop(places: Places, names: Sequence[str], *, everything: bool) -> int:
    """Removes these batches for ever; 0. Raises InstallationError, OSError."""
    chosen = _chosen(places, names, everything)
    with acting_as(owner_of(places.state)):
        for name in chosen:
            AsideFolder(_folder(places), 0).remove(name)
            print(f"{name}  dropped")
    return 0


def _folder(places: Places) -> Path:
    from agent.forwarder.config import ConfigError, read_config

    try:
        return read_config(places.forwarder).spool.folder / "poison"
    except ConfigError as error:
        raise InstallationError(str(error)) from error


def _listed(places: Places) -> list[Refused]:
    folder = _folder(places)
    with acting_as(owner_of(places.state)):
        return list(refused(AsideFolder(folder, 0))) if folder.exists() else []


def _chosen(places: Places, names: Sequence[str], everything: bool) -> list[str]:
    """Only what is listed is touched, so no name leads out of the folder."""
    if bool(names) == everything:
        raise InstallationError("name the batches, as `poison list` shows them, or say --all")
    known = [batch.name for batch in _listed(places)]
    strange = set(names) - set(known)
    if strange:
        raise InstallationError(f"there is no {sorted(strange)[0]} in poison/")
    return known if everything else list(dict.fromkeys(names))


def _ask(places: Places, name: str) -> str:
    """Why the forwarder did not take it back into the spool; empty when it did."""
    from http.client import HTTPConnection, HTTPException

    from agent.forwarder.config import ConfigError, read_config, read_token

    try:
        with acting_as(owner_of(places.state)):
            listen = read_config(places.forwarder).listen
            token = read_token(listen.token)
        connection = HTTPConnection(*local_address(listen), timeout=_ANSWER_S)
        try:
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", "Content-Length": "0"}
            connection.request("POST", f"/poison/{name}", headers=headers)
            answer = connection.getresponse()
            said = answer.read(_MOST_ANSWER)
        finally:
            connection.close()
    except ConfigError as error:
        raise InstallationError(str(error)) from error
    except (OSError, HTTPException) as error:
        raise InstallationError(f"the forwarder does not answer ({error}): start the agent, then ask again") from error
    if answer.status == 200:
        return ""
    try:
        return f"stays: {json.loads(said)['message']}"
    except (ValueError, KeyError, TypeError):
        return f"stays: the forwarder answered {answer.status}"
