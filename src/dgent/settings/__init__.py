"""Every path, URL and environment variable, resolved here and nowhere else."""

from __future__ import annotations

from dgent.settings.config_file import ConfigFile, approved, config_path, project_folder
from dgent.settings.model import BackendName, Origins, Settings
from dgent.settings.private import look_at_directory, private_directory, private_file
from dgent.settings.url import checked_path, home, of_libpq, parse_url, shown

__all__ = [
    "BackendName",
    "ConfigFile",
    "Origins",
    "Settings",
    "approved",
    "checked_path",
    "config_path",
    "home",
    "look_at_directory",
    "of_libpq",
    "parse_url",
    "private_directory",
    "private_file",
    "project_folder",
    "shown",
]
