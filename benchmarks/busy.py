"""Training beside busy programs: threads that spin or sleep while they wait or do both, and one thread or several.

    python benchmarks/busy.py                    # three minutes or so
    python benchmarks/busy.py --rounds 15 --json busy.json

Every contender trains the notebook's network without an end in a process of its own. In a round each of them is timed
for a second, one after the other, while no other program runs, then beside one that does nothing but compute, then
beside two. A ratio is that of neighbours in one round, so what else the machine may do meanwhile falls on both.

The fair share of a process is what an even hand would give its threads: on P processors t of them beside c others get
P t / (t + c) processors, at most t. Below, each rate is divided by that share of the same contender's rate when alone.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from bench import prepare
from harness import OURS, Server, summary
from sentinode.artefacts import write_json
from sentinode.runs.environment import describe_environment

WAITING = {
    "spinning": {"OMP_WAIT_POLICY": "", "GOMP_SPINCOUNT": "", "KMP_BLOCKTIME": ""},
    "sleeping": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"},
    "as sentinode": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "5000", "KMP_BLOCKTIME": "0"},
}
WANTED_SHARE = 0.6


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that only compute, meanwhile."""
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def fair_share(threads: int, others: int, processors: int) -> float:
    """Of a process's rate when alone, the part that an even hand leaves it beside so many busy threads."""
    alone = min(threads, processors)
    return min(alone, processors * threads / (threads + others)) / alone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--patches", type=int, default=600, help="of the phantom, its test part included")
    parser.add_argument("--most-threads", type=int, default=2)
    parser.add_argument("--others", type=int, nargs="+", default=[0, 1, 2], help="busy programs beside")
    parser.add_argument("--json", type=Path, help="file to write everything to that was measured")
    args = parser.parse_args()
    if 0 not in args.others:
        parser.error("--others: what is measured beside others is compared with 0")
    names = [(waits, threads) for threads in sorted({1, args.most_threads}) for waits in WAITING]
    rates: dict[tuple[str, int, int], list[float]] = {(*name, others): [] for name in names for others in args.others}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as alive:
        prepare(Path(folder), None, args.patches, args.most_threads)
        contenders = {
            (waits, threads): alive.enter_context(
                Server(OURS, "ours/fit.py", "--data", folder, threads=threads, variables=WAITING[waits])
            )
            for waits, threads in names
        }
        for _ in range(args.rounds):
            for others in args.others:
                with busy(others):
                    for (waits, threads), contender in contenders.items():
                        rates[waits, threads, others].append(contender.measure())
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shares = {
        (waits, threads, others): [
            beside / alone / fair_share(threads, others, processors)
            for beside, alone in zip(of_these, rates[waits, threads, 0], strict=True)
        ]
        for (waits, threads, others), of_these in rates.items()
    }
    print(f"{processors} processors, {args.rounds} rounds, load average {os.getloadavg()[0]:.1f} at the end")
    print("Patches a second, and that as a part of the fair share: medians (least to most).\n")
    print(table(names, args.others, rates, shares))
    for threads in sorted({threads for _, threads in names}):
        ratio = [a / b for a, b in zip(rates["as sentinode", threads, 0], rates["spinning", threads, 0], strict=True)]
        print(f"alone, {threads} thread(s): as sentinode waits is {cell(ratio, '.2f')} times as fast as spinning")
    least = min(statistics.median(shares["as sentinode", args.most_threads, others]) for others in args.others)
    print(f"as sentinode, {args.most_threads} threads: at least {least:.2f} of the fair share (wanted: {WANTED_SHARE})")
    if args.json:
        keyed = {
            f"{waits}, {threads} threads, {others} others": key for key in rates for waits, threads, others in [key]
        }
        measured: dict[str, Any] = {
            name: {"patches_per_s": summary(rates[key]), "of_fair_share": summary(shares[key])}
            for name, key in keyed.items()
        }
        write_json(args.json, {"machine": describe_environment(torch.device("cpu")), "measured": measured})


def table(
    names: list[tuple[str, int]],
    others: list[int],
    rates: dict[tuple[str, int, int], list[float]],
    shares: dict[tuple[str, int, int], list[float]],
) -> str:
    """Rows of contenders, columns of busy programs, in Markdown."""
    heads = ["threads wait by", "threads", *(f"{count} busy programs" for count in others)]
    rows = [heads, ["---"] * len(heads)]
    for waits, threads in names:
        keys = [(waits, threads, count) for count in others]
        cells = [f"{cell(rates[key], ',.0f')}; {statistics.median(shares[key]):.2f}" for key in keys]
        rows.append([waits, str(threads), *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def cell(values: list[float], digits: str) -> str:
    return f"{statistics.median(values):{digits}} ({min(values):{digits}} to {max(values):{digits}})"


if __name__ == "__main__":
    main()
