"""Every figure from nothing: ``python -m implicit_bias.report [preset=default] [only=fan_fig1,rates]``.

Computes the runs that the figures need (finished ones are skipped), and writes for each figure its table, png and pdf, and
for all of them claims.csv, REPORT.md and report.html: to ``results_dir`` for the default preset, to ``results_dir/<preset>``
for the others.
``runs=GLOB`` makes a page of one's own runs instead, ``results_dir/report-runs.html``.
A figure of which nothing has changed since it was made is left as it is (:mod:`implicit_bias.report.uptodate`).

Exit codes: 0 done, even if a claim does not hold (it is shown as such then); 1 a figure could not be made; 2 bad input;
130 Ctrl-C.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from implicit_bias.cli import messages
from implicit_bias.cli.arguments import TRACEBACK, Interface, a_folder
from implicit_bias.cli.exit_codes import DONE, FAILED
from implicit_bias.cli.messages import warn
from implicit_bias.cli.paths import exists, make_folder
from implicit_bias.cli.streams import unharmed_by_output
from implicit_bias.cli.wrapping import entry, fitted, terminal_width
from implicit_bias.core.errors import BadInput
from implicit_bias.core.plugins import problem_of, untold
from implicit_bias.core.words import suggestion
from implicit_bias.report.request import Request
from implicit_bias.runtime.collection import uncollected
from implicit_bias.runtime.processors import limit_threads, prepare_process

if TYPE_CHECKING:
    from rich.table import Table

    from implicit_bias.cli.progress import Progress
    from implicit_bias.figures import Claim, Figure
    from implicit_bias.report.make import Making

ABOUT = """\
Draws every figure: computes the runs it needs (finished ones are skipped), writes table, png and pdf, and judges its claims. \
A figure is left as it is if neither its runs nor what draws it have changed.
With runs= it writes a page of your own runs instead, to filter and overlay."""

OWN_PAGE = "report-runs.html"
VERDICTS = {True: "holds", False: "does not hold", None: "not testable"}
SHOWN_VERDICTS = {True: "[green]holds[/]", False: "[bold red]does not hold[/]", None: "[dim]not testable[/]"}
COLUMN = max(map(len, VERDICTS.values()))
# Without a terminal.
PLAIN_WIDTH = 160
# Figures say how long they take on so many cores.
CORES = 2
# Of so many figures the pictures are named one by one.
MOST_PICTURES = 6


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
    with messages.loading(), uncollected():
        from implicit_bias.figures import FIGURES

        FIGURES.names()
    names = None if text == "null" else tuple(text.split(","))
    for name in names or ():
        if name not in FIGURES:
            raise problem_of("figure", name, "only") or BadInput(
                f"only={name}: no such figure{suggestion(name, FIGURES.names()) or ';'} allowed: {', '.join(FIGURES.names())}"
            )
    return names


def _runs_named(text: str) -> tuple[str, ...] | None:
    """Paths and patterns; one with a comma in its name stands alone."""
    paths = (text,) if exists(text) else tuple(dict.fromkeys(text.split(",")))
    if not all(paths):
        raise BadInput(f"runs={text}: must be run folders, sweeps or tables, or patterns of them, with commas between them")
    return None if text == "null" else paths


def _page_named(text: str) -> str | None:
    """A file that is there or can be made."""
    if not text or text.endswith("/") or Path(text).is_dir():
        raise BadInput(f"out={text}: must be a file, such as {OWN_PAGE}, or null")
    if text != "null" and Path(text).suffix.lower() not in (".html", ".htm"):
        raise BadInput(f"out={text}: must end in .html, since the page is of that kind")
    return None if text == "null" else text


def _figures_there_are() -> str:
    from implicit_bias.figures import FIGURES

    return f"figures: {', '.join(FIGURES.names())}"


INTERFACE = Interface(
    Request,
    "python -m implicit_bias.report [key=value ...]",
    ABOUT,
    readers={
        "only": _figures_named,
        "results_dir": a_folder("results_dir", "claims.csv"),
        "runs": _runs_named,
        "out": _page_named,
    },
    homes=("preset", "only"),
    elsewhere=dict.fromkeys(("figure", "figures", "name"), "only"),
    ending=_figures_there_are,
    interrupted="interrupted; finished runs are kept, and the same command goes on from there",
)


def report(request: Request) -> int:
    """Make the figures, then the tables of all of them. Returns the exit code."""
    if request.runs is not None:
        return _own_runs(request)
    if request.out is not None:
        raise BadInput(f"out={request.out}: only with runs=, which it is the page of")
    _check_tables(request)
    make_folder(request.folder)
    if request.estimate:
        return _estimate(request)
    if request.verify:
        return _verify(request)
    with messages.loading(), uncollected():
        from implicit_bias.cli.progress import Progress
        from implicit_bias.report.expected import REPORT_KEY
        from implicit_bias.report.make import Making

    made = Making()
    with Progress() as progress:
        _make(request, progress, made)
        progress.status("writing the report of all figures")
        progress.work.begin(REPORT_KEY)
        write_tables(request, made.claims)
    _print_claims(made.claims, request.only or ())
    _print_places(request, made)
    return _told(request, made)


def _check_tables(request: Request) -> None:
    """Raises BadInput where tables are to be drawn, or compared with, of which there is none."""
    asked = [key for key in ("redraw", "verify", "estimate") if getattr(request, key)]
    if len(asked) != 1 or request.estimate:  # several of them are refused where they are done
        return
    (key,) = asked
    from implicit_bias.report.files import table_path
    from implicit_bias.report.make import made_at

    paths = [table_path(request.folder / "figures" / figure.name, request.preset) for figure in made_at(request)]
    if not any(path.exists() for path in paths):
        more = f" (nor {len(paths) - 1} other{'s' if len(paths) > 2 else ''})" if len(paths) > 1 else ""
        raise BadInput(f"{key}=true: there is no {paths[0]}{more}; must be made first, without {key}=true")


def _print_places(request: Request, made: Making) -> None:
    """Where the pictures are, if few were asked for, and the report."""
    asked = request.only or ()
    pictures = [request.folder / "figures" / f"{name}.png" for name in asked if len(asked) <= MOST_PICTURES]
    for path in pictures:
        if path.stem not in {*made.missing, *made.failures}:
            print(f"figure: {path}")
    print(f"report: {request.folder / 'report.html'}", flush=True)


def _own_runs(request: Request) -> int:
    """Write the page of one's own runs. Returns the exit code."""
    from implicit_bias.analysis.sources import sources_of

    other = next((key for key in ("only", "redraw", "verify", "estimate", "force") if getattr(request, key)), None)
    if other is not None:
        raise BadInput(f"{other}: not with runs=, which draws no figure")
    named = request.runs or ()
    try:
        sources = [source for path in named for source in sources_of("", path)]
    except BadInput as error:
        raise BadInput(f"runs={error}") from None
    from implicit_bias.report.page.runs import runs_page
    from implicit_bias.storage.files import atomic_write_text

    make_folder(Path(request.out).parent if request.out else Path(request.results_dir), "out" if request.out else "results_dir")
    out = Path(request.out or Path(request.results_dir) / OWN_PAGE)
    typed = [f"runs={','.join(named)}", *([f"out={request.out}"] if request.out else [])]
    atomic_write_text(out, runs_page(sources, f"python -m implicit_bias.report {shlex.join(typed)}"))
    print(f"page of your runs: {out}", flush=True)
    return DONE


def _estimate(request: Request) -> int:
    """Measure what the runs of each figure cost, and print it; what is not there to be measured is said."""
    from implicit_bias.cli.progress import Progress
    from implicit_bias.report.costs import NOT_IN_IT, Cost, cost_of, lasting, write_costs
    from implicit_bias.report.make import Making, Titled, chosen, specs_of

    other = next((key for key in ("redraw", "verify", "force") if getattr(request, key)), None)
    if other is not None:
        raise BadInput(f"estimate=true: not with {other}=true, since no figure is made")
    costs: list[Cost] = []
    failed = Making()

    def measure(figure: Figure, progress: Titled) -> list[Claim]:
        progress.status("the first steps of each kind of batch")
        costs.append(cost_of(figure.name, specs_of(figure, request)))
        return []

    with Progress() as progress:
        for figure in chosen(request.only or ()):
            before = len(costs)
            failed.attempt(figure, partial(measure, figure, Titled(progress, figure.name)))
            if len(costs) > before:
                print(costs[-1], flush=True)
                write_costs(request.folder, costs[-1:])
    together = lasting(sum(cost.hours for cost in costs))
    print(f"all together: {together} of one processor, {NOT_IN_IT}", flush=True)
    return _told(request, failed)


def _verify(request: Request) -> int:
    """Make all tables again, and print how far each is from the one that is kept."""
    from implicit_bias.cli.progress import Progress
    from implicit_bias.report.make import Making, made_at
    from implicit_bias.report.verify import beside, compared

    if request.redraw:
        raise BadInput("verify=true: not with redraw=true, which makes no table")
    apart = beside(request)
    made = Making()
    with Progress() as progress:
        _make(apart, progress, made)
    agree: list[bool] = []
    for figure, found in compared(made_at(request), request.preset, request.folder, apart.folder):
        agree.append(found.within)
        print(f"{figure.name}: {found}", flush=True)
    print(f"{sum(agree)} of {len(agree)} tables agree", flush=True)
    code = _told(request, made)
    return code if all(agree) else FAILED


def _make(request: Request, progress: Progress, made: Making) -> None:
    """Make the figures that are not up to date."""
    from implicit_bias.report.make import chosen, keep_unchanged, made_at, make_in_turn, make_pooled

    figures = made_at(request)
    names = {figure.name for figure in figures}
    there = ", ".join(figure.name for figure in chosen(request.only or ()) if figure.name not in names)
    if there:
        messages.note(f"preset {request.preset}: {there} have the same runs at preset default, and are drawn there")
    for line in untold():
        warn(line)
    changed: list[Figure] = []
    for figure in figures:
        made.attempt(figure, partial(keep_unchanged, figure, request, progress, changed))
    if not request.redraw:
        messages.note(_outlook(figures, changed, request))
    make_all = make_pooled if request.workers > 1 and not request.redraw else make_in_turn
    make_all(changed, request, progress, made)


def _told(request: Request, made: Making) -> int:
    """Say what could not be made. Returns the exit code."""
    missing, failures = made.missing, made.failures
    if missing:  # no fault of this program, unless the figure was asked for by name
        messages.note(f"left out: {', '.join(missing)}: {next(iter(missing.values()))}")
    for name, reason in failures.items():
        messages.error(f"{name}: {reason} (set {TRACEBACK}=1 for the traceback)")
    return FAILED if failures or (missing and request.only) else DONE


def _outlook(figures: Sequence[Figure], changed: Sequence[Figure], request: Request) -> str:
    """One line that announces what will be computed."""
    kept = len(figures) - len(changed)
    if not changed:
        return f"preset {request.preset}: {_count(kept)} up to date (force=true makes {'it' if kept == 1 else 'them'} again)"
    from implicit_bias.report.minutes import known_minutes

    known = known_minutes(request.folder)
    minutes = sum(known.get(figure.name) or CORES * figure.minutes.at(request.preset) for figure in changed)
    several = request.workers > 1
    on = f"on {request.workers} processes" if several else "of one process"
    parts = [f"{_count(len(changed), '')}, preset {request.preset}: about {_duration(minutes / request.workers)} {on}"]
    parts[0] += " if nothing is there yet"
    if kept:
        parts.append(f"{kept} more {'is' if kept == 1 else 'are'} up to date")
    if request.only is None and len(changed) > 1:
        parts.append(f"only=NAME,... makes some (--help has the names){'' if several else ', workers=2 computes on two'}")
    return "; ".join(parts)


def _count(figures: int, verb: str = "are") -> str:
    one = figures == 1
    return f"{figures} {'figure' if one else 'figures'} {'is' if one and verb else verb}".rstrip()


def write_tables(request: Request, fresh: Sequence[Claim]) -> None:
    """claims.csv and the report; what was judged before of figures that were not asked for now is kept."""
    from implicit_bias.figures.claims import claims_table
    from implicit_bias.report.make import chosen, made_at
    from implicit_bias.report.minutes import read_minutes
    from implicit_bias.report.page import merged, read_claims, write_report
    from implicit_bias.storage.files import atomic_write_bytes, csv_bytes

    figures = chosen(())
    path = request.folder / "claims.csv"
    made = {figure.name for figure in made_at(request)}
    claims = merged(read_claims(path), fresh, made, [figure.name for figure in figures])
    atomic_write_bytes(path, csv_bytes(claims_table(claims)))
    write_report(request.folder, request.preset, figures, claims, read_minutes(request.folder))


def _print_claims(claims: Sequence[Claim], asked: Sequence[str]) -> None:
    """On a terminal those of the figures that were asked for by name, of all figures those that do not hold; and the counts."""
    from rich.console import Console

    from implicit_bias.figures.claims import verdict_line

    terminal = sys.stdout.isatty()
    console = Console(highlight=False) if terminal else Console(no_color=True, width=PLAIN_WIDTH, highlight=False)
    if claims and terminal:
        for line in _claims_in_lines([claim for claim in claims if asked or not claim.holds], terminal_width()):
            console.print(line, soft_wrap=True)
    elif claims:
        console.print(_claims_in_a_table(claims))
    line = verdict_line(claims) or "no claims: they are judged from preset=default on"
    console.print(fitted(line, console.width) if terminal else line, soft_wrap=True)


def _claims_in_lines(claims: Sequence[Claim], width: int) -> Iterator[str]:
    """What holds, a claim a paragraph; what does not is nearest to the prompt, with what is known of why."""
    for figure, of_figure in groupby(claims, lambda claim: claim.figure):
        yield f"[bold]{figure}[/]"
        for claim in sorted(of_figure, key=lambda claim: (True, None, False).index(claim.holds)):
            beside = f"; expected {claim.expected}" if claim.expected else ""
            tolerance = "" if claim.tolerance in ("<", ">") else claim.tolerance  # the claim has it in words
            within = f" ({', '.join(filter(None, (claim.kind, tolerance)))})"
            said = f"{claim.claim}: {claim.measured}{beside}{within}" if claim.measured else f"{claim.claim}{within}"
            why = f"; {claim.reason}" if claim.reason and claim.holds is not True else ""
            first, *more = entry(VERDICTS[claim.holds], said + why, column=COLUMN, indent=0, width=width)
            yield _escaped(first).replace(VERDICTS[claim.holds], SHOWN_VERDICTS[claim.holds], 1)
            yield from map(_escaped, more)


def _claims_in_a_table(claims: Sequence[Claim]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for name in ("figure", "claim", "expected", "whose", "measured", "tolerance", ""):
        table.add_column(name, overflow="fold")
    before = ""
    for claim in claims:
        verdict = SHOWN_VERDICTS[claim.holds]
        texts = (claim.claim, claim.expected, claim.kind, claim.measured or claim.reason, claim.tolerance)
        table.add_row("" if claim.figure == before else claim.figure, *map(_escaped, texts), verdict)
        before = claim.figure
    return table


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _duration(minutes: float) -> str:
    return f"{minutes / 60:.1f} hours" if minutes >= 90 else f"{minutes:.0f} minutes" if minutes >= 1.5 else "a minute"
