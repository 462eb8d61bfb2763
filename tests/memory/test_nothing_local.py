"""A PostgreSQL URL needs nothing of this machine: it works where no folder can be written, or even entered."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dgent.testing.contract_base import patience

HANG = patience(60)

PROGRAM = """
import asyncio, ctypes, sys, warnings

if sys.argv[1] == "another owner's":  # root without its powers, as in a container: modes count
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None).capset(header, none) == 0

from dgent import Datum, StorageProvider
from dgent.warnings import DegradedWarning

async def main():
    async with await StorageProvider.from_config() as storage:
        await storage.run_migrations()
        await storage.memory.put(Datum.create("kept", id="a"))
        await storage.memory.put(Datum.create("kept", id="b"))
        assert (await storage.memory.get("a")).text == "kept"
        assert storage.memory.name == "postgres"
        assert not (await storage.status())["memory"]["degraded"]
        async with storage.transaction() as tx:
            await tx.memory.delete("b")

with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    asyncio.run(main())
for one in told:
    print(one.category.__name__, one.message)
"""


@pytest.mark.parametrize(
    ("home", "tls"),
    [
        ("under a file", ""),
        ("in /proc", ""),
        ("another owner's", ""),
        ("another owner's", "?sslmode=prefer"),
        ("another owner's", "?sslmode=disable"),
    ],
)
def test_a_postgresql_url_works_where_nothing_local_can_be_written(
    home: str, tls: str, postgres_url: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "home").mkdir(mode=0o700)
    if home == "another owner's":
        if os.getuid() != 0:
            pytest.skip("only root can give a folder to somebody else")
        os.chown(tmp_path / "home", 65534, 65534)
    places = {"under a file": tmp_path / "file" / "home", "in /proc": Path("/proc/none")}
    environment = {"HOME": str(places.get(home, tmp_path / "home")), "PATH": os.environ["PATH"]}
    environment["KGENTS_DATABASE_URL"] = f"{postgres_url}{tls}"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, home],
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
        env=environment,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    told = done.stdout.splitlines()
    assert [line.split()[0] for line in told if "config.yaml was passed over" not in line] == ["DegradedWarning"], told
    assert "manifest.json cannot be read or written" in told[-1]
