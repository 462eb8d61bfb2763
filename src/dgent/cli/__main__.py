"""`python -m dgent.cli` is `kg`."""

from __future__ import annotations

from dgent.cli import main

main()
