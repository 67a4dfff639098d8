"""Speed beside plain PyTorch: python -m implicit_bias.bench (or make bench).

Three baselines, one run at a time, float64, one thread, the same data, steps and records:

usual loop
    What one writes at first: ``nn.Linear``, ``CrossEntropyLoss``, autograd, a torch-style optimizer and a learning-rate
    scheduler.
tight loop
    The exact step of this package written out for a single run: closed-form gradient in the log domain, one scale a class row,
    the polar factor truncated in the row space.
leanest loop
    No class, no scheduler, one update in place, and a gradient that is exact at moderate losses alone: softmax less one-hot
    written out, or ``torch.autograd.grad``, whichever is faster.

Before anything is timed, all of them must give the engine's own-norm margin. Loops and batches of a size and an optimizer are
timed in turn, five times each; of each the median counts. Beside them stand the engine with plain PyTorch steps, the steps in C
by themselves (what is left of the time goes into records and set-up), the limit by the machine's rates of multiply-adds and
exponentials, measured right before and after, that of all of a step's arithmetic at rates timed in turn with it, and the peak
memory of the batch's tensors; then mini-batches, networks, and how the cost grows with every size. Where others use the machine
meanwhile, or timings differ, a warning says so, and every row has the numbers.

The whole bench is written to results/bench/ (results_dir=results) as bench.csv, scaling.csv, bench.png and bench.pdf; a part of
it (size=, optimizer=, runs=) is printed only. With device=cuda the batches of linear models run on the GPU and the loops on the
CPU, and the table is gpu.csv.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from implicit_bias.bench.busy import Remarks, Watch
from implicit_bias.bench.linear import BATCHES, GPU_BATCHES, Plan, Size, measure
from implicit_bias.bench.loops import LEARNING_RATES
from implicit_bias.bench.machine import named_device
from implicit_bias.bench.mini_batches import mini_batch_rows
from implicit_bias.bench.networks import network_rows
from implicit_bias.bench.picture import draw
from implicit_bias.bench.scaling import growth_table
from implicit_bias.cli.arguments import Interface, a_folder
from implicit_bias.cli.exit_codes import DONE
from implicit_bias.cli.messages import warn
from implicit_bias.cli.paths import make_folder
from implicit_bias.cli.streams import unharmed_by_output
from implicit_bias.core.errors import BadInput
from implicit_bias.core.registry import hyper
from implicit_bias.runtime.processors import prepare_process, processor
from implicit_bias.storage.files import atomic_write_bytes, csv_bytes

BY_BATCHES, NETWORKS, SCALING = "batches", "networks", "scaling"
SIZES = ("40x4x24", "100x10x25", "750x15x25")
PARTS = (*SIZES, BY_BATCHES, NETWORKS, SCALING)
MOST_RUNS = 10**6
#: The columns of bench.csv and gpu.csv; those of the machine come behind.
COLUMNS = (
    "size", "optimizer", "runs", "device", "threads", "usual_us", "tight_us", "batched_us", "ratio_usual", "ratio_tight",
    "steps_us", "outside", "roofline_us", "of_roofline", "peak_mb", "plain_us", "stepping", "lean_us", "ratio_lean", "lean_by",
    "steps_of_roofline", "gflops", "gexp", "load", "spread", "differs", "least_us", "steps_of_least",
)  # fmt: skip
#: What is printed of a row: its title, its width, and its form.
SHOWN = {
    "runs": ("runs", 6, ""), "threads": ("threads", 8, ""), "batched_us": ("batched", 9, ".2f"), "steps_us": ("steps", 8, ".2f"),
    "plain_us": ("plain", 8, ".1f"), "roofline_us": ("limit", 7, ".2f"), "ratio_usual": ("x usual", 8, ".1f"),
    "ratio_tight": ("x tight", 8, ".1f"), "ratio_lean": ("x lean", 7, ".1f"), "of_roofline": ("of limit", 9, ".0%"),
    "steps_of_roofline": ("its steps", 10, ".0%"), "least_us": ("least", 7, ".2f"), "steps_of_least": ("of least", 9, ".0%"),
    "outside": ("outside", 8, ".0%"), "peak_mb": ("MB", 7, ".1f"),
}  # fmt: skip
#: And before the rows of a size and an optimizer.
LOOPS = {"usual_us": "usual", "tight_us": "tight", "lean_us": "leanest"}


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    size: tuple[str, ...] | None = hyper(
        None, help="linear models of samples x classes x features, or a part; null for all there is"
    )
    optimizer: tuple[str, ...] | None = hyper(None, help="null for all four", choices=tuple(LEARNING_RATES))
    runs: tuple[int, ...] | None = hyper(None, help="of the batches of linear models; null for 1, 8, 64, 512", ge=1, le=MOST_RUNS)
    device: str = hyper(
        "cpu", help="where batches of linear models are computed; loops always on the CPU", choices=("cpu", "cuda")
    )
    results_dir: str = hyper("results", help="where the folder bench/ goes")

    @property
    def whole(self) -> bool:
        """Whether nothing is left out, so that the table is one to be kept."""
        return self.size is None and self.optimizer is None and self.runs is None

    @property
    def parts(self) -> tuple[str, ...]:
        """What is measured; by default what there is to be measured on the device."""
        return self.size or (PARTS if self.device == "cpu" else SIZES)

    @property
    def methods(self) -> tuple[str, ...]:
        """The optimizers."""
        return self.optimizer or tuple(LEARNING_RATES)

    @property
    def batches(self) -> tuple[int, ...]:
        """Runs of each batch of linear models."""
        return self.runs or (BATCHES if self.device == "cpu" else GPU_BATCHES)

    @property
    def table(self) -> str:
        """The name of the table's file."""
        return "bench.csv" if self.device == "cpu" else "gpu.csv"


def _parts_named(text: str) -> tuple[str, ...] | None:
    """Parts of the bench, and sizes of any numbers."""
    if text == "null":
        return None
    for part in text.split(","):
        if part not in PARTS and size_of(part) is None:
            raise BadInput(
                f"size={' '.join(part.split())}: must be samples x classes x features, such as {SIZES[1]}, with as many samples a"
                f" class, or one of {BY_BATCHES}, {NETWORKS}, {SCALING}"
            )
    return tuple(dict.fromkeys(text.split(",")))


def size_of(part: str) -> Size | None:
    """The size that n x k x d stands for, k >= 2 dividing n; None where it is none."""
    numbers = [int(word) if word.isascii() and word.isdigit() else 0 for word in part.split("x")]
    if len(numbers) != 3 or min(numbers) < 1 or numbers[1] < 2 or numbers[0] % numbers[1]:
        return None
    n, k, d = numbers
    return Size(k, n // k, d)


INTERFACE = Interface(
    Request,
    "python -m implicit_bias.bench [key=value ...]",
    "Measures the speed beside plain PyTorch, for some minutes, and how the cost grows with every size; writes bench.csv, "
    "scaling.csv, bench.png and bench.pdf. With size=, optimizer= or runs= only a part is measured, and printed. With "
    "device=cuda the batches of linear models run on the GPU, and gpu.csv is written.",
    readers={"results_dir": a_folder("results_dir", "bench"), "size": _parts_named},
    homes=("optimizer", "size", "runs", "device"),
)


@unharmed_by_output
def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; every foreseeable mistake is one line on stderr. Returns the exit code."""
    prepare_process()
    return INTERFACE.answer(argv, lambda typed: bench(_checked(Request(**INTERFACE.read(typed).keys))))


def _checked(request: Request) -> Request:
    """The request, where there is a GPU if it asks for one. Raises BadInput."""
    if request.device == "cuda" and not torch.cuda.is_available():
        raise BadInput("device=cuda: no CUDA GPU is available here; allowed: cpu")
    for part in request.parts:
        if request.device == "cuda" and size_of(part) is None:
            raise BadInput(f"size={part}: is measured on the CPU alone; with device=cuda must be samples x classes x features")
    return request


def bench(request: Request) -> int:
    """Measure, print the ratios, write the folder bench/ if it is the whole bench. Returns the exit code."""
    if request.whole:
        make_folder(Path(request.results_dir))
    began, threads = time.monotonic(), torch.get_num_threads()
    print(f"{processor()}, {os.cpu_count()} cores, torch {torch.__version__}; us an update and run, medians of timings in turn")
    print("steps: updates alone, without records; outside: share of the rest; limit: the arithmetic at the machine's rates;")
    print("least: the same with all that the rule does, at rates timed in turn with the steps, of least: least / steps")
    print("of limit: limit / batched, its steps: limit / steps; x usual, tight, lean: times as fast as that loop")
    print("".join(f"{title:>{width}}" for title, width, _ in SHOWN.values()), flush=True)
    remarks, rows = Remarks(), list[dict[str, Any]]()
    for row in _rows(request, threads):
        if not rows or loops_of(rows[-1]) != loops_of(row):
            print(loops_of(row))
        rows.append(row)
        print(printed(row) + ("  busy" if remarks.take(row) else ""), flush=True)
    table, growth = pd.DataFrame(rows), _growth(request, threads)
    if remarks.warning:
        warn(remarks.warning)
    minutes = f"{(time.monotonic() - began) / 60:.1f} minutes"
    if request.whole:
        folder = _write(request, table, growth)
        print(f"written to {folder} after {minutes}")
    else:
        print(f"a part of the bench: not written; {minutes}")
    return DONE


def _rows(request: Request, threads: int) -> Iterator[dict[str, Any]]:
    for part in request.parts:
        size = size_of(part)
        if size is not None:
            for name in request.methods:
                yield from measure(size, name, Plan(threads, request.device, request.batches))
        elif part == BY_BATCHES:
            yield from mini_batch_rows(threads, request.methods)
        elif part == NETWORKS:
            yield from _watched(network_rows(threads, request.methods))


def _watched(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows with what others did while each was measured."""
    watch = Watch()
    for row in rows:
        yield {"device": "cpu", "load": watch.load()} | row
        watch = Watch()


def loops_of(row: dict[str, Any]) -> str:
    """The line over the rows of a size and an optimizer: how long the loops take."""
    times = ", ".join(f"{called} {row[key]:.1f}" for key, called in LOOPS.items() if key in row)
    by = f" ({row['lean_by']})" if "lean_by" in row else ""
    return f"{row['size']}, {row['optimizer']}: {times}{by}"


def printed(row: dict[str, Any]) -> str:
    """A row of the table on the terminal, empty where there is no number."""
    shown = "".join(f"{row[key]:{width}{form}}" if key in row else " " * width for key, (_, width, form) in SHOWN.items())
    return f"{shown}  {row.get('stepping', '')}".rstrip()


def _growth(request: Request, threads: int) -> pd.DataFrame:
    """Seconds of batches along each of their sizes, on one thread, with their slopes; empty where that is not asked for."""
    if SCALING not in request.parts:
        return pd.DataFrame()
    print("growth of a batch's time (exponent of the last points)", flush=True)
    growth = growth_table(request.methods)
    torch.set_num_threads(threads)
    for (name, axis), part in growth.groupby(["optimizer", "axis"], sort=False):
        print(f"  {name:8}{axis:6}{part['slope'].iloc[0]:6.2f}")
    return growth


def _write(request: Request, table: pd.DataFrame, growth: pd.DataFrame) -> Path:
    """The files of the folder bench/; returns it."""
    folder = Path(request.results_dir) / "bench"
    machine = {"machine": processor(), "cores": os.cpu_count(), "torch": torch.__version__}
    if request.device != "cpu":
        machine["gpu"] = named_device(request.device)
    table = table.reindex(columns=[column for column in COLUMNS if column in table])
    atomic_write_bytes(folder / request.table, csv_bytes(_short(table).assign(**machine)))
    if growth.empty:
        return folder
    atomic_write_bytes(folder / "scaling.csv", csv_bytes(_short(growth).assign(**machine)))
    for kind, content in draw(table, growth).items():
        atomic_write_bytes(folder / f"bench.{kind}", content)
    return folder


def _short(table: pd.DataFrame) -> pd.DataFrame:
    """Every float to four digits."""
    numeric = table.select_dtypes("float").columns
    return table.assign(**{c: table[c].map(lambda v: float(f"{v:.4g}")) for c in numeric})
