"""Every warning of D-gent, in one tree.

    DgentWarning (UserWarning)
    ├── DegradedWarning                     a later backend of the chain serves; reads see only what is written since
    ├── SettingsWarning                     a config file was skipped or a value ignored
    ├── DamagedWarning                      a page left out a datum that is not what was written
    └── PrivacyWarning                      a file of ours can be read by other users

Work goes on after each of them, and the filters of Python's `warnings` apply.
"""

from __future__ import annotations


class DgentWarning(UserWarning):
    """Base of every warning of this library."""


class DegradedWarning(DgentWarning):
    """A later backend of the chain serves; after a late start reads see only what was written since, or nothing."""


class SettingsWarning(DgentWarning):
    """A config file was skipped or a value ignored."""


class DamagedWarning(DgentWarning):
    """A page left out a datum that is not what was written; `Page.damaged` names it."""


class PrivacyWarning(DgentWarning):
    """A file of ours can be read by other users."""
