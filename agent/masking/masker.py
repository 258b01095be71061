"""The one object that a forwarder needs: an OTLP request in, the same request masked out."""

from __future__ import annotations

from typing import Literal

from agent.masking.key import MaskingKey
from agent.masking.otlp_json import JsonMasker
from agent.masking.otlp_protobuf import ProtobufMasker
from agent.masking.policy import MaskingPolicy, default_policy
from agent.masking.tally import MaskingTally
from agent.masking.tokens import Tokens
from agent.masking.values import ValueMasker

RequestKind = Literal["otlp_protobuf", "otlp_json"]


class Masker:
    """Masks requests by one policy and one key. Its memory is bounded; not for use by two threads.

    `tally` counts since the masker was made.
    """

    def __init__(self, key: MaskingKey, policy: MaskingPolicy | None = None) -> None:
        self.policy = policy or default_policy()
        self.fingerprint = key.fingerprint
        self.tokens = Tokens(key, self.policy.keep_users)
        self.values = ValueMasker(self.policy, self.tokens)
        self.tally = MaskingTally()
        closed, redact = self.policy.fail == "closed", self.policy.binary == "redact"
        self._protobuf = ProtobufMasker(self.values, closed=closed, redact_binary=redact)
        self._json = JsonMasker(self.values, closed=closed, redact_binary=redact)

    def transform(self, body: bytes, kind: RequestKind) -> bytes:
        """A request after decompression, masked, in the same encoding and with the same records in the same order.

        Raises Undecodable for what is no OTLP logs request: it must not be stored, and the answer is 400.
        """
        own = MaskingTally()
        masked = (self._protobuf if kind == "otlp_protobuf" else self._json).mask(body, own)
        self.tally.add(own)
        return masked
