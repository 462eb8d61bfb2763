"""Every path, URL and environment variable, resolved here and nowhere else."""

from __future__ import annotations

from dgent.settings.config_file import ConfigFile, approved, config_path, project_folder
from dgent.settings.database_url import checked_path, home, of_libpq, parse_url, shown
from dgent.settings.settings import BackendName, Origins, Settings

__all__ = [
    "BackendName",
    "ConfigFile",
    "Origins",
    "Settings",
    "approved",
    "checked_path",
    "config_path",
    "home",
    "of_libpq",
    "parse_url",
    "project_folder",
    "shown",
]
