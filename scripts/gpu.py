"""All that is to be found out on a GPU, by one command: ``make gpu``, or ``python scripts/gpu.py [PART ...]``.

Parts, all but the last by default:

tests
    Those that need a GPU (``pytest -m cuda``): agreement with the CPU in float64, a step of every rule and whole runs, networks,
    mini-batches, runs that are gone on with, recorded and compiled steps.
bench
    ``python -m implicit_bias.bench device=cuda``: batches of 1 to 4,096 runs beside the CPU's loops, written to
    results/bench/gpu.csv, and whether the aims are reached.
smoke
    The figures of networks in small, in a folder that is removed.
paper
    The figures of networks at their papers' sizes, for hours, into results/paper; what is finished is kept, and gone on with.

Exit codes: 0 all was done and every number is right, 1 something failed or is not, 2 there is no GPU, or no such part.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import torch

ROOT = Path(__file__).resolve().parent.parent
TABLE = Path("results") / "bench" / "gpu.csv"
#: The figures whose runs are networks, of which a GPU gains.
FIGURES = ("gv_fig1", "gv_fig2", "margin_matrix_networks", "lyu_li_schedule", "modular_addition", "neural_collapse")
#: Times as fast a run as the CPU's usual loop, in batches of so many.
AIM, RUNS = 1000, 4096
#: How far own-norm margins after 100 updates may be from the CPU's.
MOST_DIFFERENCE = 1e-9


def run(*command: str) -> int:
    """The exit code of a command of this environment's Python, in the checkout, after saying what and how long it took."""
    print(f"$ python {' '.join(command)}", flush=True)
    began = time.monotonic()
    code = subprocess.run([sys.executable, *command], cwd=ROOT, check=False).returncode
    print(f"exit code {code} after {(time.monotonic() - began) / 60:.1f} minutes", flush=True)
    return code


def tests() -> int:
    """The tests that need a GPU."""
    return run("-m", "pytest", "-q", "-m", "cuda", "tests/engine/test_devices.py")


def bench() -> int:
    """The table of speeds, and what it says of the aims."""
    code = run("-m", "implicit_bias.bench", "device=cuda")
    if code:
        return code
    lines, right = judged(pd.read_csv(ROOT / TABLE))
    print("\n".join(lines), flush=True)
    return 0 if right else 1


def judged(table: pd.DataFrame) -> tuple[list[str], bool]:
    """What gpu.csv says of the aims, in lines, and whether all numbers are the CPU's; speed is told and not judged."""
    lines = []
    for _, row in table[table["runs"] == RUNS].iterrows():
        verdict = "reached" if row["ratio_usual"] >= AIM else "not reached"
        lines.append(
            f"{row['size']}, {row['optimizer']}, {RUNS} runs: {row['batched_us']:.3g} us an update and run,"
            f" {row['ratio_usual']:.0f} times the usual loop ({AIM} {verdict}), by {row['stepping']}"
        )
    wrong = table[~(table["differs"] <= MOST_DIFFERENCE)].drop_duplicates(["size", "optimizer"])
    lines += [
        f"{row['size']}, {row['optimizer']}: margins differ from the CPU's by {row['differs']:.1e} after 100 updates, allowed"
        f" {MOST_DIFFERENCE:.0e}"
        for _, row in wrong.iterrows()
    ]
    return lines, wrong.empty


def smoke() -> int:
    """The figures of networks, in small."""
    with tempfile.TemporaryDirectory() as folder:
        return run("-m", "implicit_bias.report", "preset=smoke", f"only={','.join(FIGURES)}", f"results_dir={folder}")


def paper() -> int:
    """The figures of networks, at their papers' sizes, one after the other, so that each has its time told."""
    codes = [run("-m", "implicit_bias.report", "preset=paper", f"only={figure}") for figure in FIGURES]
    return int(any(codes))  # that of a process which was killed is below zero


PARTS: dict[str, Callable[[], int]] = {"tests": tests, "bench": bench, "smoke": smoke, "paper": paper}


def main(arguments: Sequence[str]) -> int:
    """Do the parts that are named, all of them whatever becomes of the others; the exit code."""
    for name in arguments:
        if name not in PARTS:
            print(f"error: {name}: no such part; allowed: {', '.join(PARTS)}", file=sys.stderr)
            return 2
    if not torch.cuda.is_available():
        print("error: no CUDA GPU is available here, or this PyTorch is not built for one", file=sys.stderr)
        return 2
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}", flush=True)
    codes = {name: PARTS[name]() for name in arguments or list(PARTS)[:-1]}
    failed = [name for name, code in codes.items() if code]
    print(f"failed: {', '.join(failed)}" if failed else f"done: {', '.join(codes)}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
