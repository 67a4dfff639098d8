"""From figures to their files: runs computed or found, table, verdicts, picture."""

from __future__ import annotations

import json
import math
import os
import time
import traceback
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

from implicit_bias.cli.arguments import TRACEBACK
from implicit_bias.config.overrides import compose
from implicit_bias.config.spec import RunSpec
from implicit_bias.core.errors import NoData
from implicit_bias.core.work import Work
from implicit_bias.figures import FIGURES, Claim, Figure, Run
from implicit_bias.report import uptodate
from implicit_bias.report.agreement import kept_beside
from implicit_bias.report.expected import TABLE, FigureWork
from implicit_bias.report.files import draw_and_judge, table_path, write_table
from implicit_bias.report.minutes import Minutes, keep_minutes
from implicit_bias.report.request import Request
from implicit_bias.report.uptodate import write_stamp
from implicit_bias.storage.runs import is_finished
from implicit_bias.sweep import Outcome, Progress, execute
from implicit_bias.sweep.clusters.launch import launch, local_launcher
from implicit_bias.sweep.loading import located
from implicit_bias.sweep.plan import Cell


def keep_unchanged(figure: Figure, request: Request, progress: Progress, changed: list[Figure]) -> list[Claim]:
    """The claims of a figure that is up to date; one that is not is added to ``changed``."""
    claims = None
    if not (request.force or request.redraw):
        module = type(figure).__module__
        claims = uptodate.unchanged(request.folder, figure.name, request.preset)
        # Naming the runs takes a while: not where it could not help.
        if claims is None and uptodate.drawn_alike(request.folder, figure.name, module, request.preset):
            progress.status(f"{figure.name}: looking for what has changed")
            folders = _finished_folders(specs_of(figure, request))
            if folders is not None:
                claims = uptodate.same_runs(request.folder, figure.name, module, request.preset, folders)
    if claims is None:
        changed.append(figure)
    return claims or []


def _finished_folders(specs: Sequence[RunSpec]) -> list[Path] | None:
    """The folders of runs, or None where one is not finished or its data are not there."""
    cells = list(located(list(dict.fromkeys(specs))))
    folders = [cell.directory for cell in cells if isinstance(cell, Cell) and is_finished(cell.directory)]
    return folders if len(folders) == len(cells) else None


@dataclass(frozen=True)
class _Computed:
    """A figure's runs in the order of its sweeps, the seconds that computing them took, now or before, and their folders."""

    runs: list[Run]
    seconds: float
    folders: list[Path]


@dataclass
class Making:
    """The results of making figures: claims, and the reasons why some could not be made."""

    claims: list[Claim] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def attempt(self, figure: Figure, make: Callable[[], list[Claim]]) -> None:
        """Make a figure; its failure does not affect the others. Raises OSError: nothing can be written."""
        try:
            self.claims += make()
        except OSError:
            raise
        except NoData as error:
            self.missing[figure.name] = str(error)
        except Exception as error:  # noqa: BLE001 - one figure's error is reported, and the others are made
            self.failures[figure.name] = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            if os.environ.get(TRACEBACK):
                traceback.print_exc()


def make_pooled(figures: Sequence[Figure], request: Request, progress: Progress, made: Making) -> None:
    """All figures, their runs computed by workers as one pool of batches, longest first; each drawn when its runs are there."""
    wanted: dict[str, list[RunSpec]] = {}
    for figure in figures:
        made.attempt(figure, partial(_compose_into, wanted, figure, request))
    unique = list(dict.fromkeys(spec for specs in wanted.values() for spec in specs))
    expected = FigureWork(progress.work, request, [figure for figure in figures if figure.name in wanted])
    outcomes: dict[RunSpec, Outcome] = {}
    waiting = {name: set(specs) for name, specs in wanted.items()}

    def draw(figure: Figure) -> None:
        own = {spec: outcomes[spec] for spec in wanted[figure.name]}
        with expected.begun(figure):
            made.attempt(
                figure, partial(make, figure, request, Titled(progress, figure.name), partial(_read, wanted[figure.name], own))
            )

    # Those of no run at all, then those whose runs are there; the others are drawn as theirs arrive.
    there = [figure for figure in figures if figure.name in wanted and not wanted[figure.name]]
    take = there.append

    def arrived(index: int, outcome: Outcome) -> None:
        outcomes[unique[index]] = outcome
        for figure in figures:
            lacking = waiting.get(figure.name)
            if lacking and unique[index] in lacking:
                lacking.remove(unique[index])
                if not lacking:
                    take(figure)

    def planned(pieces: Mapping[Hashable, Sequence[int]]) -> None:
        nonlocal take
        take = draw
        expected.plan(unique, wanted, pieces)
        for figure in there:
            draw(figure)

    launch(
        unique,
        local_launcher(request.workers),
        command=_command(request),
        progress=progress,
        on_outcome=arrived,
        on_plan=planned,
    )


def make_in_turn(figures: Sequence[Figure], request: Request, progress: Progress, made: Making) -> None:
    """All figures, one after the other, each with its own runs."""
    expected = FigureWork(progress.work, request, figures)
    expected.plan_alone()
    for i, figure in enumerate(figures):
        with expected.begun_alone(figure) as inside:
            title = Titled(progress, f"[{i + 1}/{len(figures)}] {figure.name}", inside)
            made.attempt(figure, partial(make, figure, request, title))


def _compose_into(wanted: dict[str, list[RunSpec]], figure: Figure, request: Request) -> list[Claim]:
    wanted[figure.name] = specs_of(figure, request)
    return []


def chosen(only: Sequence[str]) -> list[Figure]:
    """The figures to make, in the order of the report."""
    figures: list[Figure] = [FIGURES.get(name)() for name in only or FIGURES.names()]
    return sorted(figures, key=lambda figure: (figure.order, figure.name))


def made_at(request: Request) -> list[Figure]:
    """The figures that a request makes, in the order of the report: those that it names, or all but those that have the same
    runs at the default preset, where they are drawn."""
    figures = chosen(request.only or ())
    if request.only or request.preset == "default":
        return figures
    return [figure for figure in figures if not figure.alike(request.preset, "default")]


class Titled:
    """Progress of one figure's runs on the display that all figures share.

    Attributes:
        work: The pieces of this figure's work.
    """

    def __init__(self, progress: Progress, title: str, work: Work | None = None) -> None:
        self.work = work or Work()
        self._progress = progress
        self._title = title
        self.status("")

    def status(self, text: str) -> None:
        self._progress.status(f"{self._title}: {text}" if text else self._title)

    def tell(self, own_ratio: float = math.nan, steps: int | None = None) -> None:
        self._progress.tell(own_ratio, steps)

    def cells(self, done: int, total: int) -> None:
        self._progress.cells(done, total)


#: Gives a figure's runs.
RunsOf = Callable[[], _Computed]


def make(figure: Figure, request: Request, progress: Titled, runs_of: RunsOf | None = None) -> list[Claim]:
    """One figure: runs, table, verdicts, picture; each file written whole or not at all.

    A table that agrees with the one that is there leaves it as it is, and so are the picture and the verdicts.

    Args:
        runs_of: Gives runs that have been computed already; without it they are computed here.
    """
    target = request.folder / "figures" / figure.name
    path = table_path(target, request.preset)
    if request.redraw:
        if not path.exists():
            raise RuntimeError(f"redraw=true: {path} does not exist; draw it without redraw first")
        return draw_and_judge(figure, target, request.preset)
    computed = runs_of() if runs_of else _runs(figure, request, progress)
    progress.status("measuring and drawing")
    progress.work.begin(TABLE)
    began = time.perf_counter()
    table = figure.kept(figure.table(computed.runs, request.preset), request.preset)
    apart = kept_beside(figure, path, table)
    moved = apart is None or not apart.within
    if moved:
        write_table(table, path)
    claims = draw_and_judge(figure, target, request.preset)
    keep_minutes(request.folder, figure.name, Minutes.of(computed.seconds, time.perf_counter() - began), moved=moved)
    write_stamp(request.folder, figure.name, type(figure).__module__, request.preset, computed.folders, claims)
    return claims


def _runs(figure: Figure, request: Request, progress: Titled) -> _Computed:
    """Compute the figure's runs, unless they are there; what :func:`_read` makes of them."""
    specs = specs_of(figure, request)
    unique = list(dict.fromkeys(specs))
    outcomes = execute(unique, command=_command(request), progress=progress)
    return _read(specs, dict(zip(unique, outcomes, strict=True)))


def _read(specs: Sequence[RunSpec], outcomes: Mapping[RunSpec, Outcome]) -> _Computed:
    """The figure's runs, read from their outcomes.

    Raises:
        NoData: data that a run needs could not be downloaded.
        RuntimeError: a run failed.
    """
    for outcome in outcomes.values():
        if outcome.status == "failed":
            kind = NoData if outcome.error_kind == "no_data" else RuntimeError
            raise kind(f"a run failed: {outcome.error}")
    runs = []
    for spec in specs:
        outcome = outcomes[spec]
        assert outcome.trajectory is not None
        runs.append(Run(spec, outcome.trajectory, outcome.directory))
    folders = [cast(Path, outcome.directory) for outcome in outcomes.values()]
    return _Computed(runs, _computing_seconds(folders), folders)


def specs_of(figure: Figure, request: Request) -> list[RunSpec]:
    """The runs of all cells of the figure's sweeps, in order; some may be there twice."""
    fixed = [f"results_dir={json.dumps(str(request.folder))}", f"force={str(request.force).lower()}"]
    return [cell.spec for sweep in figure.sweeps(request.preset) for cell in compose([*sweep, *fixed], multirun=True)]


def _command(request: Request) -> str:
    return f"python -m implicit_bias.report preset={request.preset}"


def _computing_seconds(directories: Sequence[Path]) -> float:
    """Wall time of runs and their references, from their provenance; a reference that several runs share counts once.

    Time of the process that computed a run: with several workers it adds up to more than was waited for.
    """
    total, references = 0.0, {}
    for directory in directories:
        story = json.loads((directory / "provenance.json").read_bytes())
        total += story["wall_seconds"]
        references.update({(label, r["lower"], r["upper"]): r["seconds"] for label, r in story["references"].items()})
    seconds: float = total + sum(references.values())
    return seconds
