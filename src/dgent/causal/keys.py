"""The keys that checkpoints are signed with: ed25519, in files that only their owner can read, never in a database."""

from __future__ import annotations

import os
import secrets
import stat
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from dgent.causal.fingerprint import Fingerprint
from dgent.exceptions import CapabilityMissing, InvalidKey
from dgent.runtime.durable_files import os_errors, sync_directory, write_private
from dgent.runtime.private_files import private_directory

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_LARGEST: Final = 16 * 1024
"""Bytes of a file that can be a key: one of ed25519 has 119."""


class SigningKey:
    """A private key. Nothing shows it: it has no text, and is not pickled.

    Attributes:
        public: the 32 raw bytes of the public key.
        fingerprint: what the owner goes by.
    """

    __slots__ = ("_key", "fingerprint", "public")

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key().public_bytes_raw()
        self.fingerprint = Fingerprint.from_ed25519_pubkey(self.public)

    def sign(self, message: bytes) -> bytes:
        """Return the signature of a message, 64 bytes: the same for the same message."""
        return self._key.sign(message)

    def __repr__(self) -> str:
        return f"SigningKey(of {self.fingerprint})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a signing key is not pickled: pass the path of its file")


def generate(path: str | Path) -> SigningKey:
    """Write a new private key to a file (0600) and its public key beside it (`<name>.pub`), and return it.

    The directory is made (0700) if it is not there; an interrupted run leaves no half of a key.

    Raises:
        InvalidKey: one of the two files is there already, or the path names none.
        CapabilityMissing: `cryptography` is not installed.
        ReadOnly: they cannot be written.
        DiskFull: they cannot be written.
    """
    path = Path(path)
    if not path.name:
        raise InvalidKey(f"{str(path)!r} names no file for a key")
    form = _load("serialization")
    key: Ed25519PrivateKey = _load("asymmetric.ed25519").Ed25519PrivateKey.generate()
    pem = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    public = key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    private_directory(path.parent)
    _write_new(path, pem, 0o600)
    try:
        _write_new(public_path(path), public, 0o644)
    except BaseException:
        path.unlink()  # nobody has it yet
        raise
    return SigningKey(key)


def load(path: str | Path) -> SigningKey:
    """Read a private key: PEM, PKCS8, without a password.

    Raises:
        InvalidKey: it is not there, no regular file, of another user, readable by others, or no ed25519 key.
        CapabilityMissing: `cryptography` is not installed.
    """
    path = Path(path)
    read = _load("serialization").load_pem_private_key
    kind = _load("asymmetric.ed25519").Ed25519PrivateKey
    return SigningKey(_parse(path, lambda pem: read(pem, password=None), kind, _read(path, private=True)))


def load_public(path: str | Path) -> Fingerprint:
    """Return whom a public key belongs to: a `.pub` file beside a key, or any ed25519 public key in PEM.

    Raises:
        InvalidKey: as for `load`.
        CapabilityMissing: as for `load`.
    """
    path = Path(path)
    kind = _load("asymmetric.ed25519").Ed25519PublicKey
    key = _parse(path, _load("serialization").load_pem_public_key, kind, _read(path, private=False))
    return Fingerprint.from_ed25519_pubkey(key.public_bytes_raw())


def public_path(path: Path) -> Path:
    """Return where the public key of a private one lies."""
    return path.with_name(f"{path.name}.pub")


def is_signed(public: bytes, signature: bytes, message: bytes) -> bool:
    """Tell whether the owner of a public key signed a message; CapabilityMissing without `cryptography`."""
    kind = _load("asymmetric.ed25519").Ed25519PublicKey
    try:
        kind.from_public_bytes(public).verify(signature, message)
    except (_load("exceptions", of="cryptography").InvalidSignature, ValueError):  # ValueError: no point of the curve
        return False
    return True


def _load(name: str, of: str = "cryptography.hazmat.primitives") -> Any:
    """Import a part of `cryptography`, an optional dependency."""
    try:
        return import_module(f"{of}.{name}")
    except ModuleNotFoundError:
        raise CapabilityMissing("checkpoints need cryptography: run `pip install dgent[signing]`") from None


def _write_new(path: Path, data: bytes, mode: int) -> None:
    """Make a file at once when it is whole; one that is there stays as it is."""
    beside = path.with_name(f".{secrets.token_hex(8)}.new")
    with os_errors(path):
        try:
            write_private(beside, iter([data]))
            beside.chmod(mode)  # whatever the umask took away
            os.link(beside, path)
        except FileExistsError:
            raise InvalidKey(f"{path} is there already, and a key is never overwritten: name another file") from None
        except ValueError:
            raise InvalidKey(f"{str(path)!r} is no name of a file") from None
        finally:
            beside.unlink(missing_ok=True)
        sync_directory(path.parent)


def _read(path: Path, *, private: bool) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise InvalidKey(f"there is no key at {path}: make one with `kg log keygen`") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or "no name of a file"
        raise InvalidKey(f"the key {str(path)!r} cannot be read ({reason}); a link is not followed") from None
    try:
        found = os.fstat(fd)  # what is looked at is what is read
        if not stat.S_ISREG(found.st_mode):
            raise InvalidKey(f"{path} is not a regular file, so it is no key")
        if private and found.st_uid != os.geteuid():
            raise InvalidKey(f"the key {path} belongs to another user, who can read it: make one of your own")
        if private and found.st_mode & 0o077:
            raise InvalidKey(f"the key {path} can be read by other users: run `chmod 600 {path}`, or make a new one")
        return os.read(fd, _LARGEST)
    finally:
        os.close(fd)


def _parse(path: Path, read: Any, kind: Any, pem: bytes) -> Any:
    """Return the key that a file holds. What the parser says of it is not shown."""
    unsupported = _load("exceptions", of="cryptography").UnsupportedAlgorithm
    try:
        key = read(pem)
    except (ValueError, TypeError, unsupported):  # TypeError: it has a password
        raise InvalidKey(f"{path} holds no key that can be read: PEM without a password is what it should be") from None
    if not isinstance(key, kind):
        raise InvalidKey(f"{path} holds a key of another kind than ed25519: make one with `kg log keygen`")
    return key
