"""The request of a report's command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from implicit_bias.core.registry import hyper

#: As in figures.base, which takes long to import.
Preset = Literal["smoke", "default", "paper"]


def table_ending(preset: Preset) -> str:
    """How a figure's table ends: those of the papers' sizes are compressed, to a fourth, and pandas reads them as they are."""
    return "csv.gz" if preset == "paper" else "csv"


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    preset: Preset = hyper(
        "default",
        help="sizes of the runs; smoke: two or three minutes, default: minutes on two cores, paper: the paper's sizes, hours;"
        " figures that have the same sizes at default are made there alone, unless only= names them",
    )
    only: tuple[str, ...] | None = hyper(None, help="figures to draw, as in only=fan_fig1,rates; null for all")
    results_dir: str = hyper(
        "results",
        help="where runs/, figures/, claims.csv, REPORT.md and report.html go; presets other than default to a folder of theirs"
        " in it",
    )
    runs: tuple[str, ...] | None = hyper(
        None,
        help="no figures but a page of your own runs, to filter and overlay: run folders, sweeps or tables, as in"
        " runs='results/runs/*muon*'",
    )
    out: str | None = hyper(None, help="with runs=: the page; null for results_dir/report-runs.html")
    redraw: bool = hyper(False, help="true: draw and judge the tables that are there, without any run")
    verify: bool = hyper(
        False,
        help="true: make the tables again from nothing in results_dir/verify, and print how far each is from the one in"
        " results_dir; exit code 1 if one is beyond its tolerance",
    )
    estimate: bool = hyper(
        False,
        help="true: no figure is made; of every kind of batch the first hundredth of the steps, at most 10 seconds, and a record"
        " are, on one thread, and the hours are printed that all of them would take",
    )
    force: bool = hyper(False, help="true: compute again what is finished, and draw what has not changed")
    workers: int = hyper(
        1,
        help="processes that compute the runs; with several, all figures' runs are one pool of batches, and a figure is drawn as"
        " soon as its own are there",
        ge=1,
    )

    @property
    def folder(self) -> Path:
        """Where this preset's files go."""
        base = Path(self.results_dir)
        return base if self.preset == "default" else base / self.preset
