"""Every figure from nothing: ``python -m implicit_bias.report [preset=default] [only=fan_fig1,rates]``.

Computes the runs that the figures need (finished ones are skipped), and writes for each figure its table, png and pdf, and
for all of them claims.csv, REPORT.md and report.html: to ``results_dir`` for the default preset, to ``results_dir/<preset>``
for the others.
A figure of which nothing has changed since it was made is left as it is (:mod:`implicit_bias.figures.uptodate`).

Exit codes: 0 done, even if a claim does not hold (it is shown as such then); 1 a figure could not be made; 2 bad input;
130 Ctrl-C.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from implicit_bias.cli.arguments import TRACEBACK, Interface, a_folder
from implicit_bias.cli.exit_codes import DONE, FAILED
from implicit_bias.cli.streams import unharmed_by_output
from implicit_bias.core.errors import BadInput, NoData
from implicit_bias.core.registry import hyper
from implicit_bias.runtime.processors import limit_threads, prepare_process

if TYPE_CHECKING:
    from implicit_bias.figures import Claim, Figure, Run
    from implicit_bias.sweep import Outcome, Progress

    RunsOf = Callable[[], "_Computed"]

Config = dict[str, Any]
#: As in figures.base, which takes long to import.
Preset = Literal["smoke", "default", "paper"]

ABOUT = """\
Draws every figure: computes the runs it needs (finished ones are skipped), writes table, png and pdf, and judges its claims. \
A figure is left as it is if neither its runs nor what draws it have changed."""

VERDICTS = {True: "[green]holds[/]", False: "[bold red]does not hold[/]", None: "[dim]not testable[/]"}


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    preset: Preset = hyper(
        "default",
        help="sizes of the runs; smoke: two or three minutes, default: minutes on two cores, paper: the paper's sizes, hours",
    )
    only: tuple[str, ...] | None = hyper(None, help="figures to draw, as in only=fan_fig1,rates; null for all")
    results_dir: str = hyper(
        "results",
        help="where runs/, figures/, claims.csv, REPORT.md and report.html go; presets other than default to a folder of theirs"
        " in it",
    )
    redraw: bool = hyper(False, help="true: draw and judge the tables that are there, without any run")
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


@unharmed_by_output
def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says. Returns the exit code."""
    # Everything here is small: a second thread gains nothing, and on a busy machine the two wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    limit_threads()
    prepare_process()
    return INTERFACE.answer(argv, lambda typed: report(request_from(typed)))


def request_from(arguments: Sequence[str]) -> Request:
    """The request that ``key=value`` arguments make. Raises BadInput: an unknown key, or a value that is not allowed."""
    return Request(**INTERFACE.read(arguments).keys)


def _figures_named(text: str) -> tuple[str, ...] | None:
    from implicit_bias.figures import FIGURES

    names = None if text == "null" else tuple(text.split(","))
    for name in names or ():
        if name not in FIGURES:
            raise BadInput(f"only={name}: no such figure; allowed: {', '.join(FIGURES.names())}")
    return names


def _figures_there_are() -> str:
    from implicit_bias.figures import FIGURES

    return f"figures: {', '.join(FIGURES.names())}"


INTERFACE = Interface(
    Request,
    "python -m implicit_bias.report [key=value ...]",
    ABOUT,
    readers={"only": _figures_named, "results_dir": a_folder("results_dir", "claims.csv")},
    ending=_figures_there_are,
    interrupted="interrupted; finished runs are kept, and the same command goes on from there",
)


def report(request: Request) -> int:
    """Make the figures, then the tables of all of them. Returns the exit code."""
    from implicit_bias.cli.progress import Progress

    figures = _chosen(request.only or ())
    made = _Made()
    changed: list[Figure] = []
    with Progress() as progress:
        for figure in figures:
            made.attempt(figure, partial(_keep, figure, request, progress, changed))
    if not request.redraw:
        _say(_outlook(figures, changed, request))
    with Progress() as progress:
        if request.workers > 1 and not request.redraw:
            _make_pooled(changed, request, progress, made)
        else:
            for i, figure in enumerate(changed):
                title = _Titled(progress, f"[{i + 1}/{len(changed)}] {figure.name}")
                made.attempt(figure, partial(_make, figure, request, title))
    claims, missing, failures = made.claims, made.missing, made.failures
    _write_tables(request, claims)
    _print_claims(claims)
    print(f"report: {request.folder / 'report.html'}", flush=True)
    if missing:  # no fault of this program, unless the figure was asked for by name
        _say(f"left out: {', '.join(missing)}: {next(iter(missing.values()))}")
    for name, reason in failures.items():
        _say(f"error: {name}: {reason} (set {TRACEBACK}=1 for the traceback)")
    return FAILED if failures or (missing and request.only) else DONE


def _outlook(figures: Sequence[Figure], changed: Sequence[Figure], request: Request) -> str:
    """What is about to happen, in one line."""
    kept = len(figures) - len(changed)
    if not changed:
        return f"preset {request.preset}: {kept} figures are up to date"
    minutes = sum(figure.minutes.at(request.preset) for figure in changed)
    line = f"{len(changed)} figures, preset {request.preset}: about {_duration(minutes)} on two cores if nothing is there yet"
    return f"{line}; {kept} more are up to date" if kept else line


def _keep(figure: Figure, request: Request, progress: Progress, changed: list[Figure]) -> list[Claim]:
    """The claims of a figure that is up to date; one that is not is added to ``changed``."""
    from implicit_bias.figures import uptodate

    claims = None
    if not (request.force or request.redraw):
        module = type(figure).__module__
        claims = uptodate.unchanged(request.folder, figure.name, request.preset)
        # Naming the runs takes a while: not where it could not help.
        if claims is None and uptodate.drawn_alike(request.folder, figure.name, module):
            progress.status(f"{figure.name}: looking for what has changed")
            folders = _finished_folders(_configs(figure, request))
            if folders is not None:
                claims = uptodate.same_runs(request.folder, figure.name, module, request.preset, folders)
    if claims is None:
        changed.append(figure)
    return claims or []


def _finished_folders(configs: Sequence[Config]) -> list[Path] | None:
    """The run folders of configurations, or None where one is not finished or its data are not there."""
    from implicit_bias.storage.runs import is_finished
    from implicit_bias.sweep.loading import located
    from implicit_bias.sweep.plan import Cell

    cells = list(located(list({_key(config): config for config in configs}.values())))
    folders = [cell.directory for cell in cells if isinstance(cell, Cell) and is_finished(cell.directory)]
    return folders if len(folders) == len(cells) else None


@dataclass(frozen=True)
class _Computed:
    """A figure's runs in the order of its sweeps, the seconds that computing them took, now or before, and their folders."""

    runs: list[Run]
    seconds: float
    folders: list[Path]


@dataclass
class _Made:
    """What became of the figures: claims, and the reasons why some could not be made."""

    claims: list[Claim] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def attempt(self, figure: Figure, make: Callable[[], list[Claim]]) -> None:
        """Make a figure; a broken one must not cost the others. Raises OSError: nothing can be written."""
        try:
            self.claims += make()
        except OSError:
            raise
        except NoData as error:
            self.missing[figure.name] = str(error)
        except Exception as error:
            self.failures[figure.name] = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            if os.environ.get(TRACEBACK):
                traceback.print_exc()


def _make_pooled(figures: Sequence[Figure], request: Request, progress: Progress, made: _Made) -> None:
    """All figures, their runs computed by workers as one pool of batches, longest first; each drawn when its runs are there."""
    from implicit_bias.sweep.clusters.launch import launch, local_launcher

    wanted: dict[str, list[Config]] = {}
    for figure in figures:
        made.attempt(figure, partial(_compose_into, wanted, figure, request))
    unique = {_key(config): config for configs in wanted.values() for config in configs}
    outcomes: dict[str, Outcome] = {}
    waiting = {name: {_key(config) for config in configs} for name, configs in wanted.items()}
    keys = list(unique)

    def draw(figure: Figure) -> None:
        own = {key: outcomes[key] for key in map(_key, wanted[figure.name])}
        made.attempt(
            figure, partial(_make, figure, request, _Titled(progress, figure.name), partial(_read, wanted[figure.name], own))
        )

    def arrived(index: int, outcome: Outcome) -> None:
        outcomes[keys[index]] = outcome
        for figure in figures:
            lacking = waiting.get(figure.name)
            if lacking and keys[index] in lacking:
                lacking.remove(keys[index])
                if not lacking:
                    draw(figure)

    for figure in figures:
        if figure.name in wanted and not wanted[figure.name]:  # of no run at all
            draw(figure)
    launch(
        list(unique.values()),
        local_launcher(request.workers),
        command=_command(request),
        progress=progress,
        on_outcome=arrived,
    )


def _compose_into(wanted: dict[str, list[Config]], figure: Figure, request: Request) -> list[Claim]:
    wanted[figure.name] = _configs(figure, request)
    return []


def _chosen(only: Sequence[str]) -> list[Figure]:
    """The figures to make, in the order of the report."""
    from implicit_bias.figures import FIGURES

    figures: list[Figure] = [FIGURES.get(name)() for name in only or FIGURES.names()]
    return sorted(figures, key=lambda figure: (figure.order, figure.name))


class _Titled:
    """Progress of one figure's runs on the display that all figures share."""

    def __init__(self, progress: Progress, title: str) -> None:
        self._progress = progress
        self._title = title
        self.status("")

    def status(self, text: str) -> None:
        self._progress.status(f"{self._title}: {text}" if text else self._title)

    def advance(self, steps: int, total: int, own_ratio: float) -> None:
        self._progress.advance(steps, total, own_ratio)

    def cells(self, done: int, total: int) -> None:
        self._progress.cells(done, total)


def _make(figure: Figure, request: Request, progress: _Titled, runs_of: RunsOf | None = None) -> list[Claim]:
    """One figure: runs, table, verdicts, picture; each file written whole or not at all.

    Args:
        runs_of: Gives runs that have been computed already; without it they are computed here.
    """
    from implicit_bias.figures.files import draw_and_judge, write_table
    from implicit_bias.figures.uptodate import write_stamp

    target = request.folder / "figures" / figure.name
    if request.redraw:
        if not target.with_suffix(".csv").exists():
            raise RuntimeError(f"redraw=true: {target.with_suffix('.csv')} does not exist; draw it without redraw first")
        return draw_and_judge(figure, target, request.preset)
    computed = runs_of() if runs_of else _runs(figure, request, progress)
    progress.status("measuring and drawing")
    began = time.perf_counter()
    write_table(figure.table(computed.runs, request.preset), target)
    _keep_minutes(request.folder, figure.name, (computed.seconds + time.perf_counter() - began) / 60)
    claims = draw_and_judge(figure, target, request.preset)
    write_stamp(request.folder, figure.name, type(figure).__module__, request.preset, computed.folders, claims)
    return claims


def _runs(figure: Figure, request: Request, progress: _Titled) -> _Computed:
    """Compute the figure's runs, unless they are there; what :func:`_read` makes of them."""
    from implicit_bias.sweep import execute

    configs = _configs(figure, request)
    unique = {_key(config): config for config in configs}
    outcomes = execute(list(unique.values()), command=_command(request), progress=progress)
    return _read(configs, dict(zip(unique, outcomes, strict=True)))


def _read(configs: Sequence[Config], outcomes: Mapping[str, Outcome]) -> _Computed:
    """The figure's runs from what became of them.

    Raises:
        NoData: data that a run needs could not be downloaded.
        RuntimeError: a run failed.
    """
    from implicit_bias.figures import Run

    for outcome in outcomes.values():
        if outcome.status == "failed":
            kind = NoData if outcome.error_kind == "no_data" else RuntimeError
            raise kind(f"a run failed: {outcome.error}")
    runs = []
    for config in configs:
        trajectory = outcomes[_key(config)].trajectory
        assert trajectory is not None
        runs.append(Run(config, trajectory))
    folders = [cast(Path, outcome.directory) for outcome in outcomes.values()]
    return _Computed(runs, _computing_seconds(folders), folders)


def _configs(figure: Figure, request: Request) -> list[Config]:
    """The configurations of all cells of the figure's sweeps, in order; some may be there twice."""
    from implicit_bias.config.overrides import compose

    fixed = [f"results_dir={json.dumps(str(request.folder))}", f"force={str(request.force).lower()}"]
    return [cell.config for sweep in figure.sweeps(request.preset) for cell in compose([*sweep, *fixed], multirun=True)]


def _key(config: Config) -> str:
    return json.dumps(config, sort_keys=True)


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
    return total + sum(references.values())


def _keep_minutes(folder: Path, name: str, minutes: float) -> None:
    from implicit_bias.storage.files import atomic_write_text

    path = folder / "figures" / "minutes.json"
    known = _minutes(folder)
    known[name] = round(minutes, 2)
    atomic_write_text(path, json.dumps(dict(sorted(known.items())), indent=1) + "\n")


def _minutes(folder: Path) -> dict[str, float]:
    try:
        return dict(json.loads((folder / "figures" / "minutes.json").read_text()))
    except (OSError, ValueError):
        return {}


def _write_tables(request: Request, fresh: Sequence[Claim]) -> None:
    """claims.csv and the report; what was judged before of figures that were not asked for now is kept."""
    from implicit_bias.figures.claims import claims_table
    from implicit_bias.reporting import merged, read_claims, write_report
    from implicit_bias.storage.files import atomic_write_bytes, csv_bytes

    figures = _chosen(())
    path = request.folder / "claims.csv"
    made = {figure.name for figure in _chosen(request.only or ())}
    claims = merged(read_claims(path), fresh, made, [figure.name for figure in figures])
    atomic_write_bytes(path, csv_bytes(claims_table(claims)))
    write_report(request.folder, request.preset, figures, claims, _minutes(request.folder))


def _print_claims(claims: Sequence[Claim]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for name in ("figure", "claim", "paper", "measured", "tolerance", ""):
        table.add_column(name, overflow="fold")
    before = ""
    for claim in claims:
        verdict = VERDICTS[claim.holds]
        shown = [_escaped(text) for text in (claim.claim, claim.paper, claim.measured or claim.reason, claim.tolerance)]
        table.add_row("" if claim.figure == before else claim.figure, *shown, verdict)
        before = claim.figure
    console = Console() if sys.stdout.isatty() else Console(no_color=True, width=160, highlight=False)
    if claims:
        console.print(table)
    tested = [claim for claim in claims if claim.holds is not None]
    line = f"{sum(claim.holds is True for claim in tested)} of {len(tested)} claims hold"
    line += f"; {len(claims) - len(tested)} more cannot be tested here" * (len(tested) < len(claims))
    console.print(line if claims else "no claims: they are judged from preset=default on", highlight=False)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _duration(minutes: float) -> str:
    return f"{minutes / 60:.1f} hours" if minutes >= 90 else f"{minutes:.0f} minutes" if minutes >= 1.5 else "a minute"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
