"""Speed beside plain PyTorch: python -m implicit_bias.bench (or make bench).

Two baselines, one run at a time, float64, one thread, the same data, steps and records:

usual loop
    What one writes at first: ``nn.Linear``, ``CrossEntropyLoss``, autograd, a torch-style optimizer and a learning-rate
    scheduler.
tight loop
    The exact step of this package written out for a single run: closed-form gradient in the log domain, one scale a class row,
    the polar factor truncated in the row space.

Before anything is timed, all three must give the same own-norm margin. Times are the least of several repetitions. Of steps by
mini-batches (64 runs at 10 of 100 samples, reshuffled) they are medians, the engine, the usual loop and the leanest one that
indexes tensors (softmax less one-hot, no autograd; in the columns of the tight loop) being timed in turn. Beside them stand the
engine with plain PyTorch steps, the steps in C by themselves (what is left of the time goes into the records), the roofline of
the machine's measured rates, and the peak memory of the batch's tensors; then how the cost grows with every size. Written to
results/bench/ (results_dir=results) as bench.csv, scaling.csv, bench.png and bench.pdf. On a GPU the batches run there, up to
4,096 runs, and the loops on the CPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from implicit_bias.bench.baselines import REPEATS
from implicit_bias.bench.linear import LEARNING_RATES, SIZES, Size, measure, step_seconds
from implicit_bias.bench.machine import Rates, measured_rates, processor
from implicit_bias.bench.mini_batches import mini_batch_rows
from implicit_bias.bench.networks import network_rows
from implicit_bias.bench.picture import draw
from implicit_bias.bench.scaling import Shape, scaling_table
from implicit_bias.cli.arguments import Interface, a_folder
from implicit_bias.cli.exit_codes import DONE
from implicit_bias.cli.streams import unharmed_by_output
from implicit_bias.core.registry import hyper
from implicit_bias.runtime.processors import prepare_process
from implicit_bias.storage.files import atomic_write_bytes, csv_bytes


def scaling() -> pd.DataFrame:
    """Seconds of batches along each of their sizes, on one thread."""

    def seconds(name: str, shape: Shape) -> float:
        data = Size(shape.k, shape.per_class, shape.d).data(shape.runs)
        return step_seconds(name, data, shape.steps, 1)[0] * shape.steps

    return scaling_table(seconds)


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    results_dir: str = hyper("results", help="where the folder bench/ goes")


INTERFACE = Interface(
    Request,
    "python -m implicit_bias.bench [key=value ...]",
    "Measures the speed beside plain PyTorch, for many minutes, and how the cost grows with every size; writes bench.csv, "
    "scaling.csv, bench.png and bench.pdf.",
    readers={"results_dir": a_folder("results_dir", "bench")},
)


@unharmed_by_output
def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; every foreseeable mistake is one line on stderr. Returns the exit code."""
    prepare_process()
    return INTERFACE.answer(argv, lambda typed: bench(Request(**INTERFACE.read(typed).keys)))


def bench(request: Request) -> int:
    """Measure, print the ratios, write the folder bench/. Returns the exit code."""
    threads = torch.get_num_threads()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rates = {}
    for count in sorted({1, threads}):
        torch.set_num_threads(count)
        rates[count] = measured_rates(device)
    print(f"{processor()}, {os.cpu_count()} cores, torch {torch.__version__}; us a step and run, least of {REPEATS}")
    for count, rate in rates.items():
        print(f"{count} thread(s): {rate.matrix / 1e9:.0f} GFLOP/s in products, {rate.exponential / 1e9:.2f} G exponentials/s")
    print("steps: updates alone, without records; outside: share of the rest; roofline: bound / batched")
    columns = ("usual", "tight", "plain", "batched", "steps", "x usual", "x tight", "outside", "roofline", "peak MB")
    print(f"{'':28}{'':8}{'runs':>5}{'threads':>8}" + "".join(f"{column:>9}" for column in columns), flush=True)
    rows = []
    for row in _rows(threads, rates, device):
        rows.append(row)
        print(_printed(row), flush=True)
    machine = {"machine": processor(), "cores": os.cpu_count(), "torch": torch.__version__}
    table = pd.DataFrame(rows)
    folder = Path(request.results_dir) / "bench"
    atomic_write_bytes(folder / "bench.csv", csv_bytes(_short(table).assign(**machine)))
    print("growth of the cost (exponent of the last points)", flush=True)
    growth = scaling()
    for (name, axis), part in growth.groupby(["optimizer", "axis"], sort=False):
        print(f"  {name:8}{axis:6}{part['slope'].iloc[0]:6.2f}")
    atomic_write_bytes(folder / "scaling.csv", csv_bytes(_short(growth).assign(**machine)))
    for kind, content in draw(table, growth).items():
        atomic_write_bytes(folder / f"bench.{kind}", content)
    print(f"written to {folder}")
    return DONE


def _rows(threads: int, rates: dict[int, Rates], device: str) -> Iterator[dict[str, Any]]:
    for size in SIZES:
        for name in LEARNING_RATES:
            yield from measure(size, name, threads, rates, device)
    yield from mini_batch_rows(threads)
    yield from network_rows(threads)


def _printed(row: dict[str, Any]) -> str:
    """A row of the table on the terminal, empty where there is no number."""
    numbers = (
        "usual_us",
        "tight_us",
        "plain_us",
        "batched_us",
        "steps_us",
        "ratio_usual",
        "ratio_tight",
        "outside",
        "of_roofline",
        "peak_mb",
    )
    shown = "".join(f"{row[key]:9.2f}" if key in row else f"{'':9}" for key in numbers)
    return f"{row['size']:28}{row['optimizer']:8}{row['runs']:5}{row['threads']:8}{shown}  {row.get('stepping', '')}".rstrip()


def _short(table: pd.DataFrame) -> pd.DataFrame:
    """Every float to four digits."""
    numeric = table.select_dtypes("float").columns
    return table.assign(**{c: table[c].map(lambda v: float(f"{v:.4g}")) for c in numeric})
