"""Every path, URL and environment variable, resolved here and nowhere else."""

from __future__ import annotations

from dgent.settings.model import BackendName, Origins, Settings
from dgent.settings.private import data_directory, private_directory, private_file
from dgent.settings.url import checked_path, parse_url, shown

__all__ = [
    "BackendName",
    "Origins",
    "Settings",
    "checked_path",
    "data_directory",
    "parse_url",
    "private_directory",
    "private_file",
    "shown",
]
