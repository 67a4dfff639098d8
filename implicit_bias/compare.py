"""Your optimizer against ours: ``python -m implicit_bias.compare RUN RUN ... [key=value]`` overlays any runs.

Writes comparison.png, comparison.pdf and comparison.csv, and prints where each run ended.

Exit codes: 0 done, 1 something could not be written, 2 bad input (nothing was written), 130 Ctrl-C.
"""

from __future__ import annotations

import glob
import hashlib
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from implicit_bias.cli.arguments import Interface, Reader, a_folder
from implicit_bias.cli.exit_codes import DONE
from implicit_bias.cli.streams import unharmed_by_output
from implicit_bias.core.errors import BadInput
from implicit_bias.core.registry import hyper, hyper_fields
from implicit_bias.core.words import suggestion
from implicit_bias.runtime.processors import prepare_process

if TYPE_CHECKING:
    import pandas as pd

    from implicit_bias.analysis.comparison import Source

USAGE = "python -m implicit_bias.compare RUN [RUN ...] [key=value ...]"
ABOUT = """\
Overlays runs in the same plots and the same table: one panel a norm, one curve a configuration, runs that differ only in the \
seed as their mean and range.

RUN is one of
  results/runs/<name>-<hash>       a run folder; or several, 'results/runs/*muon*'
  results/sweeps/<name>-<hash>     a sweep: all of its runs
  path/to/trajectory.csv           a table of your own code, a row a step and norm, with the columns seed, step, norm, margin; \
log_loss, max_margin, alignment and kkt_ratio are used where they are there
  mine=RUN                         any of these, called "mine"; without a name a table goes by its folder or file"""
QUANTITIES = ("auto", "margin", "relative_gap", "ratio", "log_loss", "alignment", "kkt_ratio")
AXES = ("step", "log_loss")
MOST_CURVES = 20
#: In a title or a name.
MOST_LETTERS = 200
#: Numbers of a table are drawn, and averaged: larger ones overflow on the way, and integers are exact up to here.
LARGEST_NUMBER, LARGEST_INTEGER = 1e150, 2**53
KINDS = {"seed": "an integer", "step": "an integer >= 0"}
TRAJECTORY = "trajectory.csv"
WILD = "*?["


@dataclass(frozen=True)
class Request:
    """What the command line asks for; ``runs`` are pairs of a name (or nothing) and a path or pattern."""

    runs: tuple[tuple[str, str], ...] = ()
    norms: tuple[str, ...] = hyper((), help="norms to show, as in norms=linf,l2; without it those that every run has, at most 6")
    quantity: str = hyper(
        "auto", help="what to draw; auto: relative_gap where every run has an optimum, else margin", choices=QUANTITIES
    )
    x: str = hyper("step", help="the horizontal axis", choices=AXES)
    out: str = hyper("", help="where comparison.png, .pdf and .csv go; without it results/compare/<hash of the inputs>")
    title: str = hyper("", help=f"over the picture, at most {MOST_LETTERS} letters")


OPTIONS = tuple(hyper_fields(Request))


@unharmed_by_output
def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; every foreseeable mistake is one line on stderr. Returns the exit code."""
    prepare_process()
    return INTERFACE.answer(argv, lambda typed: compare(request_from(typed)))


def request_from(arguments: Sequence[str]) -> Request:
    """The request that the arguments make. Raises BadInput: an unknown key, or a value that is not allowed."""
    words, keys = INTERFACE.read(arguments)
    if not words:
        raise BadInput("RUN: no run is named; must be a run folder, a sweep's folder or a trajectory.csv (see --help)")
    return Request(tuple(map(_run, words)), **keys)


def _is_run(word: str) -> bool:
    """Whether a word names runs: a path or pattern, or ``name=`` and one."""
    key, equals, path = word.partition("=")
    return not equals or _exists(word) or (key not in ("", *OPTIONS) and "/" not in key and _is_path(path))


def _run(word: str) -> tuple[str, str]:
    """The name that a word gives to runs (or nothing), and their path or pattern. Raises BadInput: the name is too long."""
    key, equals, path = word.partition("=")
    if not equals or _exists(word):
        return "", word
    if len(key) > MOST_LETTERS:
        raise BadInput(f"{key[:20]}...=: a name of {len(key)} letters; must have at most {MOST_LETTERS}")
    return key, path


def _is_path(value: str) -> bool:
    return bool(value) and ("/" in value or value.endswith(".csv") or _exists(value) or bool(glob.glob(value)))


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except OSError:  # no such name can be
        return False


def _one_of(key: str, choices: Sequence[str]) -> Reader:
    """A reader of a word out of several, which offers the one that was meant."""

    def read(text: str) -> str:
        if text not in choices:
            meant = suggestion(text, choices) or ";"
            raise BadInput(f"{key}={text}: no such {key}{meant} must be one of {', '.join(choices)}")
        return text

    return read


def _norms(text: str) -> tuple[str, ...]:
    norms = tuple(dict.fromkeys(text.split(",")))
    if not all(norms):
        raise BadInput(f"norms={text}: must be names of norms with commas between them")
    return norms


def _title(text: str) -> str:
    if len(text) > MOST_LETTERS:
        raise BadInput(f"title={text[:20]}...: {len(text)} letters; must be at most {MOST_LETTERS}")
    return text


INTERFACE = Interface(
    Request,
    USAGE,
    ABOUT,
    readers={
        "norms": _norms,
        "quantity": _one_of("quantity", QUANTITIES),
        "x": _one_of("x", AXES),
        "out": a_folder("out", "comparison.csv"),
        "title": _title,
    },
    is_operand=_is_run,
    operand="name=path of a run",
    place="out",
)


def compare(request: Request) -> int:
    """Read, draw, write and print. Returns the exit code."""
    sources = [source for called, path in request.runs for source in _sources(called, path)]
    from implicit_bias.analysis.comparison import (
        at_the_end,
        common_norms,
        comparison_table,
        different_problems,
        different_seeds,
        lacking,
        quantity_of,
    )
    from implicit_bias.cli.tables import COMPARISON_LEGEND, print_table
    from implicit_bias.cli.tables import comparison_table as printed
    from implicit_bias.plotting.overlay import overlay
    from implicit_bias.plotting.style import NORM_LOOKS, drawing, header, saved
    from implicit_bias.storage.files import atomic_write_bytes, csv_bytes

    table = comparison_table(sources)
    curves = table["label"].nunique()
    if curves > MOST_CURVES:
        raise BadInput(f"RUN: {curves} configurations; must be at most {MOST_CURVES}, more cannot be told apart")
    norms = common_norms(table, request.norms, tuple(NORM_LOOKS))
    rows = table[table["norm"].isin(norms)]
    rows = rows.assign(place=rows["norm"].map(norms.index)).sort_values("place", kind="stable").drop(columns="place")
    quantity = quantity_of(rows, request.quantity)
    without = lacking(rows, request.x) if request.x != "step" else []
    if without:
        raise BadInput(f"x={request.x}: {without[0]} has none; allowed here: step")
    with drawing():
        picture = overlay(rows, norms, quantity, request.x)
        if request.title:
            header(picture, request.title)
        files = {f"comparison.{kind}": saved(picture, kind) for kind in ("png", "pdf")}
    files["comparison.csv"] = csv_bytes(rows)
    folder = Path(request.out or Path("results") / "compare" / _digest(request, files["comparison.csv"]))
    for name, content in files.items():
        atomic_write_bytes(folder / name, content)
    notes = ["the runs are on different data, models or losses: their margins do not compare"] * different_problems(sources)
    notes += ["the curves are of different seeds"] * different_seeds(rows)
    print_table(printed(at_the_end(rows)), [*notes, *(str(folder / name) for name in files)], COMPARISON_LEGEND)
    return DONE


def _digest(request: Request, table: bytes) -> str:
    """What the picture's folder is called: a name that its contents determine."""
    text = json.dumps([request.norms, request.quantity, request.x, request.title])
    return hashlib.sha256(text.encode() + table).hexdigest()[:12]


def _sources(called: str, path: str) -> Iterator[Source]:
    """The runs that one argument names. Raises BadInput: there are none, or one is damaged."""
    if any(sign in path for sign in WILD) and not _exists(path):
        matches = sorted(glob.glob(path))
        if not matches:
            raise BadInput(f"{path}: no run matches")
    else:
        matches = [path]
    for match in matches:
        yield from _found(called, Path(match))


def _found(called: str, path: Path) -> Iterator[Source]:
    if not _exists(str(path)):
        raise BadInput(f"{path}: no such run; must be a run folder, a sweep's folder or a {TRAJECTORY}")
    if (path / "table.csv").is_file():
        for folder in _folders_of_sweep(path):
            yield _run_folder(called, folder)
    elif path.is_dir():
        yield _run_folder(called, path)
    elif path.name == TRAJECTORY and (path.parent / "config.yaml").is_file():
        yield _run_folder(called, path.parent)
    else:
        yield _own_table(called, path)


def _folders_of_sweep(path: Path) -> list[Path]:
    from implicit_bias.storage.files import read_table

    try:
        names = list(dict.fromkeys(read_table(path / "table.csv")["folder"]))
    except (ValueError, KeyError) as error:
        raise BadInput(f"{path / 'table.csv'}: no table of a sweep ({error}); must have a column folder") from None
    return [path.parent.parent / "runs" / str(name) for name in names]


def _run_folder(called: str, path: Path) -> Source:
    from implicit_bias.analysis.comparison import Source
    from implicit_bias.storage.runs import damage, read_config, read_run

    if not path.is_dir():
        raise BadInput(f"{path}: no such run; the sweep's runs must be in {path.parent}")
    if not (path / TRAJECTORY).is_file():
        raise BadInput(f"{path}: no run folder, it has no {TRAJECTORY}; must be one such as results/runs/<name>-<hash>")
    found = damage(path)
    if found:
        raise BadInput(f"{path}: damaged, {found}; must be as the run left it, compute it again")
    try:
        trajectory, summary = read_run(path)
        config = read_config(path)
        if not isinstance(config, dict):
            raise ValueError("config.yaml is no mapping")
        own = summary.loc[summary["own"].astype(bool), "norm"].astype(str)
        sections = [value for value in config.values() if isinstance(value, dict)]
        plain = all(isinstance(key, str) for section in (config, *sections) for key in section)
        if not (plain and isinstance(config["optimizer"]["name"], str)):
            raise ValueError("config.yaml names no optimizer")
    except Exception as error:  # files that no run wrote surface as almost anything
        reason = " ".join(str(error).split())[:MOST_LETTERS] or type(error).__name__
        raise BadInput(f"{path}: not what a run writes ({reason}); must be as the run left it, compute it again") from None
    return Source(path.name, _checked(path / TRAJECTORY, trajectory), called, config, own.iloc[0] if len(own) else None)


def _own_table(called: str, path: Path) -> Source:
    from implicit_bias.analysis.comparison import Source
    from implicit_bias.storage.files import read_table

    try:
        table = read_table(path)
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read as CSV ({' '.join(str(error).split())[:MOST_LETTERS]})") from None
    name = called or (path.resolve().parent.name if path.name == TRAJECTORY else path.stem)
    return Source(str(path), _checked(path, table), name)


def _checked(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """A table that may be from elsewhere; what is infinite, or relative to an optimum of 0, counts as not measured.

    Raises:
        BadInput: It lacks a column, or has values that make no sense.
    """
    import numpy as np
    import pandas as pd

    from implicit_bias.analysis.comparison import NEEDED, USED

    if not isinstance(table.index, pd.RangeIndex):  # pandas took the first columns as names of rows
        raise BadInput(f"{path}: rows have more values than there are columns; must be as many")
    missing = [column for column in NEEDED if column not in table]
    if missing:
        raise BadInput(f"{path}: no column {', '.join(missing)}; must have {', '.join(NEEDED)}")
    if table.empty:
        raise BadInput(f"{path}: empty; must have a row a step and norm")
    for column in [c for c in ("seed", "step", "margin", *USED) if c in table]:
        numbers = pd.to_numeric(table[column], errors="coerce")
        if numbers.dtype.kind not in "iuf":  # complex, or truth values
            numbers = numbers.astype(str).map(lambda _: math.nan)
        whole = column in ("seed", "step")
        largest = LARGEST_INTEGER if whole else LARGEST_NUMBER
        wrong = numbers.isna() & (table[column].notna() | whole) | (whole & (numbers % 1 != 0))
        wrong |= (column == "step") & (numbers < 0)
        large = numbers.abs().gt(largest) & (np.isfinite(numbers) | whole)
        if (wrong | large).any():
            row = int((wrong | large).to_numpy().argmax())
            kind = f"{KINDS.get(column, 'a number or empty')}{f', at most {largest:g} in size' if large.any() else ''}"
            raise BadInput(f"{path}: {column}={str(table[column].iloc[row])[:MOST_LETTERS]} in row {row + 1}; must be {kind}")
        table[column] = numbers.astype("int64") if whole else numbers.astype(float).where(np.isfinite(numbers))
    if not np.isfinite(table["margin"]).any():
        raise BadInput(f"{path}: margin has no number; must have one in some row")
    table["norm"] = table["norm"].astype(str)
    if table["norm"].str.len().max() > MOST_LETTERS:
        raise BadInput(f"{path}: a norm with a name of {table['norm'].str.len().max()} letters; must have at most {MOST_LETTERS}")
    twice = table.duplicated(["seed", "step", "norm"])
    if twice.any():
        seed, step, norm = table.loc[twice, ["seed", "step", "norm"]].iloc[0]
        raise BadInput(f"{path}: seed {seed}, step {step}, norm {norm} is there twice; must be one row")
    return table


if __name__ == "__main__":
    sys.exit(main())
