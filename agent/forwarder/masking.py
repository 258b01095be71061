"""The masking stage (agent/masking) before the disk, read anew on SIGHUP; imported only where it is configured."""

from __future__ import annotations

import logging

from agent.forwarder.batch import BodyKind
from agent.forwarder.config import ConfigError, MaskingConfig
from agent.forwarder.otlp_check import Undecodable
from agent.masking import (
    Masker,
    MaskingKeyError,
    PolicyError,
    default_policy,
    parse_policy,
    read_key,
)
from agent.masking import Undecodable as Unmaskable

logger = logging.getLogger("agent.forwarder.masking")


class MaskingStage:
    """A Transform. Called by one thread; any other may `reload`."""

    def __init__(self, config: MaskingConfig) -> None:
        """Raises ConfigError: with a policy that cannot be read nothing may be stored, so nothing starts."""
        self._config = config
        self._masker = _masker(config)

    def __call__(self, body: bytes, kind: BodyKind) -> bytes:
        """The masked body; raises Undecodable."""
        try:
            return self._masker.transform(body, "otlp_protobuf" if kind == "protobuf" else "otlp_json")
        except Unmaskable as error:
            raise Undecodable(str(error)) from error

    def reload(self) -> None:
        """Takes over a changed policy or key. Raises ConfigError, and goes on with the old ones."""
        made = _masker(self._config)
        made.tally.add(self._masker.tally)
        self._masker = made
        logger.info("the masking policy was read anew")

    def names(self) -> dict[str, str]:
        """By what policy (its SHA-256 in hex) and key (its fingerprint) this masks: how others tell whether they do."""
        return {"policy": self._masker.policy.digest, "key": self._masker.fingerprint}

    def counts(self) -> dict[str, int]:
        """What was masked since the start, by rule."""
        return self._masker.tally.counts()


def _masker(config: MaskingConfig) -> Masker:
    try:
        policy = default_policy() if config.policy is None else parse_policy(config.policy.read_text(encoding="utf-8"))
        return Masker(read_key(config.key), policy)
    except (MaskingKeyError, PolicyError, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"masking cannot be set up: {error}") from error
