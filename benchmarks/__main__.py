"""`python -m benchmarks`: measure everything, print a table, write bench.json; `--plot bench.png` draws it."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import (
    agents,
    bridge,
    causal,
    crystals,
    growth,
    listing,
    operations,
    peers,
    postgres_memory,
    sqlite_memory,
    start,
    sync,
)
from benchmarks.measure import REPETITIONS, Case, Result, measure

SUITES: dict[str, Callable[[Path, int], AsyncIterator[Case]]] = {
    "sqlite": sqlite_memory.cases,
    "growth": growth.cases,
    "listing": listing.cases,
    "peers": peers.cases,
    "agents": agents.cases,
    "causal": causal.cases,
    "crystals": crystals.cases,
    "bridge": bridge.cases,
    "postgres": postgres_memory.cases,
    "operations": operations.cases,
    "start": start.cases,
    "sync": sync.cases,
}


async def run(suites: list[str], sizes: list[int], only: str, repetitions: int, console: Console) -> list[Result]:
    results = []
    for suite in suites:
        for size in sizes:
            folder = Path(tempfile.mkdtemp(prefix="dgent-bench-", dir=Path.cwd()))
            try:
                async for case in SUITES[suite](folder, size):
                    if only in case.name:
                        result = await measure(case, repetitions)
                        console.print(f"{suite:>9}  {case.name:<48} {result.ratio:6.2f}  (want {case.budget:g})")
                        results.append(result)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    return results


def show(results: list[Result], console: Console) -> None:
    table = Table(title="throughput, as a ratio to the bare driver in the same run")
    for column in ("operation", "floor", "floor op/s", "ours op/s", "ratio", "quartiles", "wanted"):
        table.add_column(column, justify="left" if column in {"operation", "floor"} else "right")
    for one in results:
        colour = "green" if one.reached else "yellow"
        table.add_row(
            one.name,
            one.floor_name,
            f"{one.floor:,.0f}",
            f"{one.ours:,.0f}",
            f"[{colour}]{one.ratio:.2f}[/]",
            f"{one.low:.2f}-{one.high:.2f}",
            f"{one.budget:g}",
        )
    console.print(table)


def plot(results: list[Result], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 0.3 * len(results) + 1))
    labels = [one.name for one in results]
    axes.barh(labels, [one.ratio / one.budget for one in results], color="tab:blue")
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xlabel("ratio reached / ratio wanted")
    axes.invert_yaxis()
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--suite", action="append", choices=sorted(SUITES), help="only this one")
    parser.add_argument("--size", action="append", type=int, help="bytes of content; 256 and 4096 unless given")
    parser.add_argument("--only", default="", help="only rows with this text in their name")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    parser.add_argument("--json", type=Path, default=Path("bench.json"))
    parser.add_argument("--plot", type=Path, help="draw the ratios; needs matplotlib")
    options = parser.parse_args()
    console = Console()
    suites, sizes = options.suite or list(SUITES), options.size or [256, 4096]
    results = asyncio.run(run(suites, sizes, options.only, options.repetitions, console))
    show(results, console)
    machine = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version, "cores": os.cpu_count()}
    options.json.write_text(json.dumps({"machine": machine, "rows": [one.as_dict() for one in results]}, indent=2))
    if options.plot:
        plot(results, options.plot)


if __name__ == "__main__":
    main()
