"""Who a writer is: the hash of a public key. After `agent-store`, whose fingerprints are the same bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from blake3 import blake3

from dgent.exceptions import InvalidInput

SIZE: Final = 32
"""Bytes of a fingerprint, and of an ed25519 public key."""
_HEX: Final = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True, slots=True, repr=False)
class Fingerprint:
    """The BLAKE3 hash of an ed25519 public key, 32 bytes; as text it is the `writer` of a log.

    Raises:
        InvalidInput: `digest` is not 32 bytes.
    """

    digest: bytes

    def __post_init__(self) -> None:
        _check(self.digest, "a fingerprint")

    @classmethod
    def from_bytes(cls, digest: bytes) -> Self:
        """Take 32 bytes that are a fingerprint already."""
        return cls(digest)

    @classmethod
    def from_ed25519_pubkey(cls, key: bytes) -> Self:
        """Derive it from the 32 raw bytes of a public key, else raise InvalidInput."""
        return cls(blake3(_check(key, "an ed25519 public key")).digest())

    @classmethod
    def from_hex(cls, text: str) -> Self | None:
        """Read 64 hex digits; None for anything else."""
        return cls(bytes.fromhex(text)) if isinstance(text, str) and _HEX.fullmatch(text) else None

    def to_hex(self) -> str:
        """Return 64 lower-case hex digits."""
        return self.digest.hex()

    __str__ = to_hex

    def __repr__(self) -> str:
        return f"Fingerprint({self})"


def _check(value: bytes, what: str) -> bytes:
    if type(value) is not bytes or len(value) != SIZE:
        raise InvalidInput(f"{what} is {SIZE} bytes, not {type(value).__name__} of another size")
    return value
