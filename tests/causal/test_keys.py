"""Keys lie in files that only their owner reads, and nothing else ever shows them; who a writer is, in fixed bytes."""

from __future__ import annotations

import base64
import copy
import os
import pickle
import stat
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from hypothesis import given
from hypothesis import strategies as st

from dgent.causal import Fingerprint, SigningKey
from dgent.causal.keys import generate, is_signed, load, load_public, public_path
from dgent.exceptions import InvalidInput, InvalidKey, ReadOnly
from dgent.testing.contract_base import patience

HEX = "0123456789abcdef"


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o277], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def pem(key: Any, encryption: Any = None) -> bytes:
    content: bytes = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, encryption or form.NoEncryption())
    return content


def write(path: Path, content: bytes, permissions: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(permissions)
    return path


# Fingerprints


def test_a_fingerprint_is_blake3_of_the_public_key() -> None:
    found = Fingerprint.from_ed25519_pubkey(bytes(range(32)))
    assert found.to_hex() == "e528e95798037df410543d9f31e396ecdd458d71b157d6014398bae32fb56c65"
    assert found.digest == blake3(bytes(range(32))).digest()
    assert (str(found), repr(found)) == (found.to_hex(), f"Fingerprint({found.to_hex()})")


@given(st.binary(min_size=32, max_size=32))
def test_a_fingerprint_comes_back_from_its_text(digest: bytes) -> None:
    found = Fingerprint.from_bytes(digest)
    assert Fingerprint.from_hex(str(found)) == found
    assert Fingerprint.from_hex(str(found).upper()) == found
    assert str(found) == str(found).lower()
    assert len(str(found)) == 64


@given(st.text(HEX + "ABCDEFg ٣x\n", max_size=70) | st.text(HEX, min_size=60, max_size=68))
def test_what_is_no_fingerprint_is_none(text: str) -> None:
    good = len(text) == 64 and set(text) <= set(HEX + "ABCDEF")
    assert (Fingerprint.from_hex(text) is not None) == good


@pytest.mark.parametrize("text", ["", "0" * 63, "0" * 65, "0" * 64 + "\n", " " * 64, "٣" * 64, "0x" + "0" * 62])
def test_garbage_is_no_fingerprint(text: str) -> None:
    assert Fingerprint.from_hex(text) is None


@pytest.mark.parametrize("value", [b"", bytes(31), bytes(33), "0" * 32, bytearray(32), None])
def test_a_fingerprint_and_a_public_key_are_32_bytes(value: Any) -> None:
    for make in (Fingerprint.from_bytes, Fingerprint.from_ed25519_pubkey):
        with pytest.raises(InvalidInput, match="32 bytes"):
            make(value)


# Files


@pytest.mark.usefixtures("umask")
def test_a_key_is_private_whatever_the_umask(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    made = generate(folder / "writer")
    names = {path.name: mode(path) for path in folder.iterdir()}
    assert names == {"writer": 0o600, "writer.pub": 0o644}
    assert not mode(folder) & 0o077
    assert load(folder / "writer").fingerprint == made.fingerprint


def test_a_key_comes_back_and_its_signature_holds(tmp_path: Path) -> None:
    made = generate(tmp_path / "key")
    again = load(str(tmp_path / "key"))
    assert again.public == made.public
    assert again.fingerprint == made.fingerprint == load_public(tmp_path / "key.pub")
    assert public_path(tmp_path / "key") == tmp_path / "key.pub"
    signature = made.sign(b"message")
    assert signature == again.sign(b"message")
    assert is_signed(made.public, signature, b"message")
    assert not is_signed(made.public, signature, b"massage")
    assert not is_signed(generate(tmp_path / "other").public, signature, b"message")
    assert not is_signed(b"\xff" * 32, signature, b"message")
    assert not is_signed(made.public, b"short", b"message")


@pytest.mark.parametrize("there", ["key", "key.pub"])
@pytest.mark.parametrize("kind", ["file", "link", "dangling", "directory"])
def test_nothing_is_overwritten(tmp_path: Path, there: str, kind: str) -> None:
    path = tmp_path / there
    match kind:
        case "file":
            path.write_bytes(b"mine")
        case "link":
            (tmp_path / "target").write_bytes(b"mine")
            path.symlink_to(tmp_path / "target")
        case "dangling":
            path.symlink_to(tmp_path / "nowhere")
        case "directory":
            path.mkdir()
    before = {each.name: each.lstat().st_ino for each in tmp_path.iterdir()}
    with pytest.raises(InvalidKey, match="never overwritten"):
        generate(tmp_path / "key")
    assert {each.name: each.lstat().st_ino for each in tmp_path.iterdir()} == before
    if kind in {"file", "link"}:
        assert path.read_bytes() == b"mine"


@pytest.mark.parametrize("path", ["", ".", "/"])
def test_a_path_that_names_no_file_is_refused(path: str) -> None:
    with pytest.raises(InvalidKey, match="names no file"):
        generate(path)


def test_a_folder_that_cannot_be_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ReadOnly):
        generate(tmp_path / "file" / "key")
    for name in ("a\0b", "n" * 300):
        with pytest.raises((InvalidKey, ReadOnly, OSError)) as caught:
            generate(tmp_path / name)
        assert type(caught.value).__module__.startswith("dgent")
        with pytest.raises(InvalidKey):
            load(tmp_path / name)


@pytest.mark.parametrize("permissions", [0o644, 0o640, 0o604, 0o620, 0o602, 0o610, 0o777])
def test_a_key_that_others_reach_is_refused_with_the_command_to_type(tmp_path: Path, permissions: int) -> None:
    generate(tmp_path / "key")
    (tmp_path / "key").chmod(permissions)
    with pytest.raises(InvalidKey, match=f"chmod 600 {tmp_path}/key"):
        load(tmp_path / "key")
    (tmp_path / "key").chmod(0o400)
    assert load(tmp_path / "key").public


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_key_of_another_user_is_refused(tmp_path: Path) -> None:
    generate(tmp_path / "key")
    os.chown(tmp_path / "key", 65534, -1)
    with pytest.raises(InvalidKey, match="another user"):
        load(tmp_path / "key")


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    generate(tmp_path / "key")
    (tmp_path / "link").symlink_to(tmp_path / "key")
    with pytest.raises(InvalidKey, match="link"):
        load(tmp_path / "link")


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    (tmp_path / "folder").mkdir(0o700)
    for name in ("fifo", "folder"):
        with pytest.raises(InvalidKey, match="regular"):
            load(tmp_path / name)
    with pytest.raises(InvalidKey, match="keygen"):
        load(tmp_path / "nothing")


PASSWORD = form.BestAvailableEncryption(b"geheim")
OTHERS = {
    "empty": b"",
    "garbage": b"\xff\x00garbage",
    "no key in it": b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    "x25519": pem(x25519.X25519PrivateKey.generate()),
    "rsa": pem(rsa.generate_private_key(public_exponent=65537, key_size=2048)),
    "elliptic": pem(ec.generate_private_key(ec.SECP256R1())),
    "with a password": pem(ed25519.Ed25519PrivateKey.generate(), PASSWORD),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_key_of_ours_is_refused(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "key", OTHERS[name])
    for read in (load, load_public):
        with pytest.raises(InvalidKey) as caught:
            read(path)
        shown = "".join(traceback.format_exception(caught.value))
        assert not [line for line in OTHERS[name].splitlines()[1:-1] if line and line.decode("latin-1") in shown]


def test_a_public_key_is_no_private_one(tmp_path: Path) -> None:
    generate(tmp_path / "key")
    public_path(tmp_path / "key").chmod(0o600)
    with pytest.raises(InvalidKey):
        load(tmp_path / "key.pub")
    with pytest.raises(InvalidKey):
        load_public(tmp_path / "key")


# Secrets


def secrets_of(path: Path) -> list[str]:
    """Return the ways in which a secret could be written: raw, hex, base64."""
    key = form.load_pem_private_key(path.read_bytes(), password=None)
    assert isinstance(key, ed25519.Ed25519PrivateKey)
    raw = key.private_bytes_raw()
    body = path.read_text().splitlines()[1]
    return [raw.hex(), base64.b64encode(raw).decode(), repr(raw)[2:-1], raw.decode("latin-1"), body]


def test_nothing_shows_a_key(tmp_path: Path) -> None:
    key = generate(tmp_path / "key")
    texts = [repr(key), str(key), f"{key}", repr([key]), repr(vars(type(key))), (tmp_path / "key.pub").read_text()]
    for attempt in (
        lambda: pickle.dumps(key),
        lambda: pickle.dumps(key, 0),
        lambda: copy.copy(key),
        lambda: copy.deepcopy(key),
    ):
        with pytest.raises(TypeError, match="not pickled") as caught:
            attempt()
        texts.append("".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format()))
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(InvalidKey) as refused:
        load(tmp_path / "key")
    texts.append("".join(traceback.TracebackException.from_exception(refused.value, capture_locals=True).format()))
    secrets = secrets_of(tmp_path / "key")
    assert [text for text in texts if any(secret in text for secret in secrets)] == []
    assert key.fingerprint.to_hex() in repr(key)
    assert isinstance(key, SigningKey)
    assert not hasattr(key, "__dict__")


def test_without_cryptography_an_error_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from dgent.causal import Checkpoint, Fingerprint\n"
        "from dgent.causal.keys import generate, is_signed, load\n"
        "for call in (lambda: generate(sys.argv[1]), lambda: load(sys.argv[1]), lambda: is_signed(b'', b'', b'')):\n"
        "    try:\n        call()\n"
        "    except Exception as error:\n        print(type(error).__name__, error)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "key")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=patience(60), check=True)
    assert (
        done.stdout.splitlines()
        == ["CapabilityMissing checkpoints need cryptography: run `pip install dgent[signing]`"] * 3
    )
    assert not (tmp_path / "key").exists()
