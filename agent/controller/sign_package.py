"""`python -m agent.controller.sign_package key|sign`: for who publishes packages of the agent, on a machine of theirs.

The private key belongs on no server of the fleet: whoever has it runs programs on every host whose policy names it.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from agent.controller.package import VERSION_FORM, sign_package


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0 when it was done, 2 when it cannot be (the reason is on stderr)."""
    parser = argparse.ArgumentParser(prog="python -m agent.controller.sign_package", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    key = commands.add_parser("key", help="make a key; says what belongs into the policy of the hosts")
    sign = commands.add_parser("sign", help="sign an archive; says where it belongs and the job that installs it")
    for command in (key, sign):
        command.add_argument("key", type=Path, help="the private key (PEM)")
    sign.add_argument("version", help="digits and dots, such as 0.2.0")
    sign.add_argument("archive", type=Path, help="a tar archive of what is to be in versions/VERSION")
    given = parser.parse_args(argv)
    try:
        print(_made(given.key) if given.command == "key" else _signed(given.key, given.version, given.archive))
    except (OSError, ValueError, TypeError) as error:
        print(f"it cannot be done: {error}", file=sys.stderr)
        return 2
    return 0


def _made(path: Path) -> str:
    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    # One that is there already signs what is in use.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(pem)
    public = base64.b64encode(private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()
    return f"policy.yml of each host:\nupgrade: {{key: {public}}}"


def _signed(key: Path, version: str, archive: Path) -> str:
    private = load_pem_private_key(key.read_bytes(), password=None)
    if not isinstance(private, Ed25519PrivateKey):
        raise ValueError(f"{key} is not an Ed25519 key")
    if not VERSION_FORM.fullmatch(version):
        raise ValueError(f"{version!r} is not digits and dots")
    with archive.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        size = stream.tell()
    signature = sign_package(private, version, digest, size)
    words = {"version": version, "digest": digest, "size": size, "signature": signature}
    arguments = " ".join(f"-a {name}={value}" for name, value in words.items())
    return (
        f"on the server:\ncp {archive} DATA-DIR/agent-packages/{digest}\n"
        f"trustsoc job create UPGRADE --agent NAME {arguments}"
    )


if __name__ == "__main__":
    sys.exit(main())
