"""Which files of a project its user has read and trusts: known by path and digest, so that a changed one is not.

The record is a file of the user's own (0600), beside the user's config file. Whatever in a project says where data
goes, or what code runs, asks here first.
"""

from __future__ import annotations

import fcntl
import json
import os
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from blake3 import blake3

from dgent.exceptions import ReadOnly
from dgent.runtime.private_files import private_directory, read_regular, replace_private
from dgent.warnings import SettingsWarning

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FORMAT: Final = 1
LARGEST: Final = 2**24


class Trust:
    """The record of trusted files, which is there once something is trusted."""

    def __init__(self, record: Path) -> None:
        self.record = record

    def holds(self, file: Path, content: bytes) -> bool:
        """Tell whether this content of a file is trusted; links in its path are followed."""
        return self.files().get(str(file.resolve())) == _digest(content)

    def files(self) -> dict[str, str]:
        """Return the trusted files, each with the digest of what was trusted."""
        try:
            content, status = read_regular(self.record, LARGEST, links=False)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            return self._disbelieved(error.strerror or "it cannot be read")
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            return self._disbelieved("others could have written it")
        try:
            return _parsed(content)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return self._disbelieved("it is damaged")

    def add(self, file: Path, content: bytes) -> None:
        """Trust a file for as long as it has this content.

        Raises:
            ReadOnly: the record cannot be written.
        """
        with self._changing() as files:
            files[str(file.resolve())] = _digest(content)

    def drop(self, file: Path) -> bool:
        """Trust a file no longer; tell whether it was.

        Raises:
            ReadOnly: the record cannot be written.
        """
        name = str(file.resolve())
        if name not in self.files():
            return False
        with self._changing() as files:
            return files.pop(name, None) is not None

    @contextmanager
    def _changing(self) -> Iterator[dict[str, str]]:
        """Write what the block makes of the record, in turn with other processes."""
        folder = private_directory(self.record.parent)
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)  # the next one waits for a few milliseconds
                files = self.files()
                yield files
                replace_private(self.record, json.dumps({"format": FORMAT, "trusted": files}, indent=2).encode())
            finally:
                os.close(lock)
        except OSError as error:
            if isinstance(error, ReadOnly):
                raise
            raise ReadOnly(f"{self.record} cannot be written ({error.strerror or error}): nothing changed") from None

    def _disbelieved(self, why: str) -> dict[str, str]:
        warnings.warn(f"{self.record}: {why}, so no project is trusted: remove it", SettingsWarning, stacklevel=5)
        return {}


def _digest(content: bytes) -> str:
    return blake3(content).hexdigest()


def _parsed(text: bytes) -> dict[str, str]:
    record = json.loads(text)
    if record["format"] != FORMAT:
        raise ValueError(record["format"])
    return {str(path): str(digest) for path, digest in record["trusted"].items()}
