"""Comparison of any runs: ``python -m implicit_bias.compare RUN RUN ... [key=value]`` overlays any runs.

Writes comparison.png, comparison.pdf and comparison.csv, and prints where each run ended.

Exit codes: 0 done, 1 something could not be written, 2 bad input (nothing was written), 130 Ctrl-C.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from implicit_bias.analysis.sources import sources_of
from implicit_bias.cli.arguments import Interface, Reader, a_folder
from implicit_bias.cli.exit_codes import DONE
from implicit_bias.cli.messages import loading
from implicit_bias.cli.paths import MOST_LETTERS, exists, is_path, make_folder, named_path
from implicit_bias.cli.streams import unharmed_by_output
from implicit_bias.core.errors import BadInput
from implicit_bias.core.registry import hyper, hyper_fields
from implicit_bias.core.words import suggestion
from implicit_bias.runtime.processors import prepare_process

if TYPE_CHECKING:
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
AXES = ("step", "epoch", "log_loss")
MOST_CURVES = 20
MOST_FACETS = 6


@dataclass(frozen=True)
class Request:
    """What the command line asks for; ``runs`` are pairs of a name (or nothing) and a path or pattern."""

    runs: tuple[tuple[str, str], ...] = ()
    norms: tuple[str, ...] = hyper((), help="norms to show, as in norms=linf,l2; without it those that every run has, at most 6")
    quantity: str = hyper(
        "auto", help="what to draw; auto: relative_gap where every run has an optimum, else margin", choices=QUANTITIES
    )
    x: str = hyper("step", help="the horizontal axis; epoch: passes through the samples, step b / n", choices=AXES)
    color: str = hyper(
        "", help="a key whose values are colours, as in color=lr; the optimizer, where only style= or facet= is given"
    )
    style: str = hyper("", help="a key whose values are dashes, as in style=optimizer.beta")
    facet: str = hyper("", help="a key whose values are panels beside each other, at most 6")
    like: str = hyper("", help="run folder on the same data, or several: their optima are those of tables of your own, too")
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
    return Request(tuple(map(named_path, words)), **keys)


def _is_run(word: str) -> bool:
    """Whether a word names runs: a path or pattern, or ``name=`` and one."""
    key, equals, path = word.partition("=")
    return not equals or exists(word) or (key not in ("", *OPTIONS) and "/" not in key and is_path(path, ".csv"))


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
    sources = [source for called, path in request.runs for source in sources_of(called, path)]
    with loading():
        from implicit_bias.analysis.comparison import (
            at_the_end,
            common_norms,
            comparison_table,
            different_problems,
            different_seeds,
            lacking,
            quantity_of,
            with_optima,
        )
        from implicit_bias.cli.tables import COMPARISON_LEGEND, print_table
        from implicit_bias.cli.tables import comparison_table as printed
        from implicit_bias.plotting.overlay import overlay
        from implicit_bias.plotting.style import NORM_LOOKS, drawing, header, saved
        from implicit_bias.storage.files import atomic_write_bytes, csv_bytes

    if request.like:
        sources = with_optima(sources, _runs_like(request.like))
    keys = {column: key for column in ("color", "style", "facet") if (key := getattr(request, column))}
    table = comparison_table(sources, epochs=request.x == "epoch", keys=keys)
    if request.facet and table["facet"].nunique() > MOST_FACETS:
        raise BadInput(f"facet={request.facet}: {table['facet'].nunique()} values; must be at most {MOST_FACETS}, as many panels")
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
    make_folder(Path(request.out or "results"), "out")
    with drawing():
        words = {column: key.rsplit(".", 1)[-1] for column, key in keys.items()}
        picture = overlay(rows, norms, quantity, request.x, words)
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


def _runs_like(path: str) -> list[Source]:
    """The runs whose optima are taken over. Raises BadInput: there are none, or one is a table."""
    runs = list(sources_of("", path))
    for run in runs:
        if run.config is None:
            raise BadInput(f"like={path}: {run.name} is no run folder; must be one such as results/runs/<name>-<hash>")
    return runs


def _digest(request: Request, table: bytes) -> str:
    """What the picture's folder is called: a name that its contents determine."""
    keys = [key for key in (request.color, request.style, request.facet) if key]
    text = json.dumps([request.norms, request.quantity, request.x, request.title, *keys])
    return hashlib.sha256(text.encode() + table).hexdigest()[:12]
