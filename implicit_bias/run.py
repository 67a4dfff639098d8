"""The command: ``python -m implicit_bias.run [group=option] [key=value]``, ``-m`` for a sweep; and the same from Python.

Exit codes: 0 done, 1 a run or cell failed, 2 bad input (nothing was computed), 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import os
import shlex
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from implicit_bias.cli import messages
from implicit_bias.cli.arguments import TRACEBACK, tell_repeated, value_behind
from implicit_bias.cli.exit_codes import BAD_INPUT, DONE, FAILED, INTERRUPTED, TERMINATED
from implicit_bias.cli.messages import show_warning
from implicit_bias.cli.paths import make_folder
from implicit_bias.cli.show import FORMS
from implicit_bias.cli.streams import unharmed_by_output
from implicit_bias.core.errors import BadInput, NoData, NotSeparable
from implicit_bias.core.plugins import folders, untold
from implicit_bias.core.runtime_keys import RUNTIME_KEYS
from implicit_bias.runtime.collection import uncollected
from implicit_bias.runtime.processors import limit_threads, prepare_process
from implicit_bias.runtime.termination import Terminated, terminable

# Everything that takes long to import (torch, pandas, Hydra, rich) is imported where it is needed: --help is to be quick.
if TYPE_CHECKING:
    import pandas as pd

    from implicit_bias.analysis.data import KeptData
    from implicit_bias.cli.show import Form
    from implicit_bias.config.overrides import Cell
    from implicit_bias.sweep import Outcome

COMMAND = "python -m implicit_bias.run"
FLAGS = {"-h": "--help", "-m": "--multirun"}
MOST_FAILURES = 20


@dataclass(frozen=True)
class Request:
    """A command line: its flags by their long names, and its overrides."""

    flags: frozenset[str]
    overrides: tuple[str, ...]

    @property
    def multirun(self) -> bool:
        """Whether several values of a key are a sweep."""
        return "--multirun" in self.flags

    @property
    def form(self) -> Form | None:
        """The form that the answer is to have; None: for a terminal. Raises BadInput: several are asked for."""
        asked = [form for form in FORMS if form in self.flags]
        if len(asked) > 1:
            raise BadInput(f"{' '.join(asked)}: must be one of {', '.join(FORMS)}")
        return asked[0] if asked else None


@unharmed_by_output
def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; every foreseeable mistake is one line on stderr. Returns the exit code."""
    limit_threads()
    prepare_process()
    typed = sys.argv[1:] if argv is None else argv
    try:
        with terminable():
            folders()  # one that is missing is refused whatever is asked
            return _answer(_request(typed))
    except (BadInput, NotSeparable) as error:
        return _complain(error, BAD_INPUT)
    except KeyboardInterrupt as error:
        messages.note(f"interrupted{_where_it_goes_on(error, several=not {'-m', '--multirun'}.isdisjoint(typed))}")
        return TERMINATED if isinstance(error, Terminated) else INTERRUPTED
    except Exception as error:  # noqa: BLE001 - a command ends in one line, never in a traceback
        if os.environ.get(TRACEBACK):
            traceback.print_exc()
            return FAILED
        messages.error(f"{type(error).__name__}: {_line(error)} (this is a bug; set {TRACEBACK}=1 for the traceback)")
        return FAILED


def _where_it_goes_on(interrupt: BaseException, several: bool) -> str:
    """What is there of a command that was interrupted, for the same command to go on from."""
    if several:
        return "; finished runs are kept, and the same command goes on from there"
    kept = getattr(interrupt, "__notes__", None)
    if kept:
        return f" at {kept[0]}; the same command goes on from there"
    return "; the same command goes on from what is kept: optima, and the last checkpoint, if there is one"


def run(*overrides: Any, multirun: bool = False, **keys: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compute a run, or a sweep, exactly as the command does: folders are written, and finished runs are read back.

    ``run("optimizer=muon", "steps=100")``, ``run(["optimizer=muon", "steps=100"])`` and ``run(optimizer="muon", steps=100)``
    are the same; dotted keys go in a mapping, ``run(**{"dataset.dim": 5})``. A list, tuple or range is a sweep over it.
    ``run(dataset=(X, y))`` takes arrays or a DataFrame, kept as ``data/<digest>.npz`` in the results folder, so that the run can
    be found again and typed as a command.

    The process is left as it is. For plain steps with the command's bits, whatever the batch, call
    :func:`implicit_bias.runtime.processors.prepare_process` before anything is computed; steps in C have them anyhow.

    Args:
        overrides: What one would type, as strings or lists of strings.
        multirun: Allow sweeps in the strings, as ``-m`` does.
        keys: Keys with Python values.

    Returns:
        The trajectory and the summary, with the columns of ``trajectory.csv`` and ``summary.csv``. For a sweep those of all
        cells, with a column for each swept key that is not among them; cells that failed are left out with a warning.

    Raises:
        BadInput: as the command's exit code 2; the message names the key.
        NotSeparable: the classes of the only run there is cannot be separated.
        RuntimeError: no run could be computed.
    """
    from implicit_bias.config.overrides import as_override, compose

    typed = _texts(overrides)
    keys, kept = _with_data_files(typed, keys)
    given = [as_override(key, value) for key, value in keys.items()]
    cells = compose([*typed, *given], multirun=multirun or any("=choice(" in text for text in given))
    with _kept(kept, Path(cells[0].spec.results_dir)):
        outcomes = _execute(cells, f"implicit_bias.run({', '.join(map(repr, [*typed, *given]))})", lambda: None)
        _raise_failures(cells, outcomes)
    good = [(cell, outcome) for cell, outcome in zip(cells, outcomes, strict=True) if outcome.status != "failed"]
    return _stacked([(c, o.trajectory) for c, o in good]), _stacked([(c, o.summary) for c, o in good])


def _texts(overrides: Sequence[Any]) -> list[str]:
    """Strings, and lists of them, as strings. Raises BadInput: something else is among them."""
    found: list[str] = []
    for item in overrides:
        if isinstance(item, Mapping):
            raise BadInput(f"overrides: a {type(item).__name__}; keys with their values go as run(**{{...}})")
        texts = [item] if isinstance(item, str) or not isinstance(item, Iterable) else item
        for text in texts:
            if not isinstance(text, str):
                raise BadInput(f'overrides: a {type(text).__name__}; must be strings such as "steps=100", or lists of them')
            found.append(text)
    return found


def _with_data_files(typed: Sequence[str], keys: Mapping[str, Any]) -> tuple[dict[str, Any], KeptData | None]:
    """The keys of a call, a dataset that is no name as a file of its own, which is to be written. Raises BadInput: it is none, or
    cannot be one."""
    data = keys.get("dataset")
    several = isinstance(data, list | tuple | range) and all(isinstance(item, str) for item in data)
    if data is None or isinstance(data, str) or several:
        return dict(keys), None
    from implicit_bias.analysis.data import as_dataset, kept_in

    folders = [text.partition("=")[2] for text in typed if text.startswith("results_dir=")]
    folder = Path(str(keys.get("results_dir", folders[-1] if folders else "results")))
    others = {key: value for key, value in keys.items() if key != "dataset"}
    kept = kept_in(as_dataset(data), folder / "data")
    return {"dataset": "file", "dataset.path": kept.path, **others}, kept


@contextmanager
def _kept(data: KeptData | None, results: Path) -> Iterator[None]:
    """Write the data of a call before it is computed; they go again where it is refused. Raises BadInput: they cannot be."""
    if data is None:
        yield
        return
    with _folder(results):
        fresh = not data.path.exists()
        data.write()
        try:
            yield
        except BadInput:
            if fresh:
                data.path.unlink(missing_ok=True)
            raise


def _request(arguments: Sequence[str]) -> Request:
    known = ("--help", "--multirun", "--cfg", "--version", *FORMS)
    flags, overrides = [], []
    for position, argument in enumerate(arguments):
        if argument == "job" and position and arguments[position - 1] == "--cfg":
            continue  # Hydra's spelling
        if argument.startswith("-") and "=" not in argument:
            flag = FLAGS.get(argument, argument)
            if flag not in known:
                raise _unknown_flag(argument, value_behind(next(iter(arguments[position + 1 :]), "")))
            flags.append(flag)
        else:
            overrides.append(argument)
    return Request(frozenset(flags), tuple(overrides))


def _unknown_flag(flag: str, value: str) -> BadInput:
    """The error for a flag that there is not, or a key as other programs have them, with the word behind it."""
    from implicit_bias.config.typed import without_dashes

    meant = without_dashes(flag, value)
    allowed = f"-m, --multirun, -h, --help, --cfg, --version, {', '.join(FORMS)}"
    return BadInput(f"{flag}: {f'keys have no dashes; write {meant}' if meant else f'unknown flag; allowed: {allowed}'}")


def _answer(request: Request) -> int:
    if "--help" in request.flags:
        from implicit_bias.config.help import help_text, topics_text

        print(topics_text(request.overrides) if request.overrides else help_text())
        for line in untold():
            show_warning(line)
        return DONE
    if "--version" in request.flags:
        from implicit_bias.core.installation import version

        print(f"implicit_bias {version()}")
        return DONE
    _ = request.form  # of which there is one at most
    if _answered_before(request):
        _tell_repeated(request)
        return DONE
    multirun = request.multirun
    with messages.loading(), uncollected():
        from implicit_bias.config.overrides import cannot_differ, compose

        cells = compose(request.overrides, multirun)
    if "--cfg" in request.flags:
        _tell_repeated(request)
        _print_configurations(cells)
        return DONE
    warning = cannot_differ(cells)
    if warning:
        messages.warn(warning)
    results = Path(cells[0].spec.results_dir)
    if os.path.exists(results) and not os.path.isdir(results):
        raise BadInput(f"results_dir={results}: must be a folder, or a name that is free; this is a file")
    command = f"{COMMAND} {shlex.join([*(['-m'] if multirun else []), *request.overrides])}".rstrip()
    try:
        with _folder(results):
            outcomes = _execute(cells, command, partial(_tell_repeated, request))
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        messages.error(f"results_dir={cells[0].spec.results_dir}: {error.strerror or _line(error)}{where}")
        return FAILED
    try:
        _show(cells, outcomes, request)
    except OSError as error:  # the sweep's table; the runs themselves are written
        messages.error(f"results_dir={cells[0].spec.results_dir}: {error.strerror or _line(error)}")
        _report_failures(cells, outcomes, multirun)
        return FAILED
    sys.stdout.flush()
    return _report_failures(cells, outcomes, multirun)


def _tell_repeated(request: Request) -> None:
    """Warn of keys that are given twice, once everything else is right: bad input is one line."""
    flag = "" if request.multirun else "-m "
    tell_repeated(request.overrides, several=lambda key: key.partition(".")[0] not in RUNTIME_KEYS, flag=flag)


@contextmanager
def _folder(folder: Path) -> Iterator[None]:
    """Make the folder before hours go into what it is to hold; it goes again where nothing came into it.

    Raises:
        BadInput: It cannot be made or written to.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    make_folder(folder)
    try:
        yield
    finally:
        # What a launcher made and found no use for goes with it; a folder with anything in it stays.
        inside = [path for path in folder.iterdir() if path.is_dir()] if missing and folder.is_dir() else []
        for path in [*inside, *missing]:
            with suppress(OSError):
                path.rmdir()


def _execute(cells: Sequence[Cell], command: str, checked: Callable[[], None]) -> list[Outcome]:
    with messages.loading(), uncollected():
        from implicit_bias.cli.progress import Progress
        from implicit_bias.sweep import execute

    specs, launcher = [cell.spec for cell in cells], cells[0].spec.launcher
    with Progress(enabled=cells[0].spec.progress == "auto") as progress:
        if launcher.cluster == "inline":
            return execute(specs, command=command, progress=progress, checked=checked)
        checked()
        from implicit_bias.sweep.clusters.launch import launch

        return launch(specs, launcher, command=command, progress=progress)


def _print_configurations(cells: Sequence[Cell]) -> None:
    """Every composed configuration as a YAML document."""
    import yaml

    print("---\n".join(yaml.safe_dump(cell.spec.canonical, sort_keys=False, allow_unicode=True) for cell in cells), end="")


def _show(cells: Sequence[Cell], outcomes: Sequence[Outcome], request: Request) -> None:
    """The table of what was computed, or was there already, what it says, and where the files are."""
    with messages.loading(), uncollected():
        from implicit_bias.analysis.presented import of_run, of_sweep
        from implicit_bias.analysis.remembering import remember
        from implicit_bias.cli.show import show

    if all(outcome.summary is None for outcome in outcomes):
        return
    if request.multirun:
        show(of_sweep(cells, outcomes), request.form)
        return
    answer = of_run(cells[0].spec, outcomes[0])
    show(answer, request.form)
    remember(request.overrides, cells[0].spec, outcomes[0], answer)


def _answered_before(request: Request) -> bool:
    """Print what the same command printed before, if its run is there and nothing has changed. Returns whether it is so."""
    from implicit_bias.cli.show import from_data, show
    from implicit_bias.storage.answers import remembered

    known = None if request.multirun or "--cfg" in request.flags else remembered(request.overrides)
    if known is None:
        return False
    try:
        answer = from_data(known)
    except (KeyError, TypeError, ValueError):
        return False
    show(answer, request.form)
    return True


def _report_failures(cells: Sequence[Cell], outcomes: Sequence[Outcome], multirun: bool) -> int:
    """List what failed, with the command that computes it again. Returns the exit code."""
    failed = [(cell, outcome) for cell, outcome in zip(cells, outcomes, strict=True) if outcome.status == "failed"]
    if multirun and (gone := [outcome for _, outcome in failed if outcome.error_kind == "gone"]):
        more = f" (and {len(gone) - 1} more of {len(cells)} run folders)" if len(gone) > 1 else ""
        messages.error(f"{_line(_error(gone[0]))}{more}; the same command computes it again")
        failed = [(cell, outcome) for cell, outcome in failed if outcome.error_kind != "gone"]
        if not failed:
            return FAILED
    if not failed:
        return DONE
    if not multirun:
        outcome = failed[0][1]
        return _complain(
            _error(outcome), BAD_INPUT if outcome.error_kind in ("bad_input", "no_data", "not_separable") else FAILED
        )
    messages.note(f"{len(failed)} of {len(cells)} cells failed:")
    reasons = [(_line(_error(outcome)), f"{COMMAND} {shlex.join(cell.overrides)}".rstrip()) for cell, outcome in failed]
    shown = _told_by_reason(reasons)
    if shown < len(failed):
        lines = [f"  {reason}\n    {command}" for reason, command in reasons]
        messages.note(f"  ... and {len(failed) - shown} more, {_written_failures(cells, outcomes, lines)}")
    all_unusable = len(failed) == len(cells) and all(outcome.error_kind in ("bad_input", "no_data") for _, outcome in failed)
    return BAD_INPUT if all_unusable else FAILED


def _told_by_reason(failed: Sequence[tuple[str, str]]) -> int:
    """List every reason once, with the commands of its runs, of each reason equally many where they are too many for a screen.
    Returns how many runs are listed."""
    commands: dict[str, list[str]] = {}
    for reason, command in failed:
        commands.setdefault(reason, []).append(command)
    most, shown = max(1, MOST_FAILURES // len(commands)), 0
    for reason, of_reason in islice(commands.items(), MOST_FAILURES):
        runs = f" ({len(of_reason)} runs)" if len(of_reason) > 1 else ""
        messages.note("\n    ".join([f"  {reason}{runs}", *of_reason[:most]]))
        shown += len(of_reason[:most])
    return shown


def _written_failures(cells: Sequence[Cell], outcomes: Sequence[Outcome], lines: Sequence[str]) -> str:
    """Write the whole list of failures to the sweep's folder. Returns where it is, in words."""
    from implicit_bias.storage.files import atomic_write_text
    from implicit_bias.sweep.table import sweep_folder

    path = sweep_folder(outcomes, cells[0].spec.results_dir) / "failed.txt"
    try:
        atomic_write_text(path, "\n".join(lines) + "\n")
    except OSError as error:
        return f"whose list cannot be written ({error.strerror or error})"
    return f"all in {path}"


def _raise_failures(cells: Sequence[Cell], outcomes: Sequence[Outcome]) -> None:
    """Raise where nothing could be computed, warn where something could not."""
    import warnings

    failed = [(cell, outcome) for cell, outcome in zip(cells, outcomes, strict=True) if outcome.status == "failed"]
    if failed and len(failed) == len(cells):
        raise _error(failed[0][1])
    for cell, outcome in failed:
        warnings.warn(f"{' '.join(cell.overrides)}: {_line(_error(outcome))}", RuntimeWarning, stacklevel=3)


def _error(outcome: Outcome) -> Exception:
    """The exception for a failed cell."""
    kinds: dict[str, type[Exception]] = {
        "bad_input": BadInput, "no_data": NoData, "not_separable": NotSeparable, "io": OSError, "gone": OSError
    }  # fmt: skip
    return kinds.get(outcome.error_kind or "", RuntimeError)(outcome.error or "failed")


def _stacked(tables: Sequence[tuple[Cell, pd.DataFrame | None]]) -> pd.DataFrame:
    """One table of the cells' tables, the swept keys that are not columns already in front."""
    import pandas as pd

    parts = []
    for cell, table in tables:
        if table is not None:
            extra = {key: value for key, value in cell.swept.items() if key not in table.columns}
            front = pd.DataFrame({key: [value] * len(table) for key, value in extra.items()}, index=table.index)
            parts.append(pd.concat([front, table], axis="columns"))
    return pd.concat(parts, ignore_index=True)


def _complain(error: Exception, code: int) -> int:
    messages.error(f"{_line(error)}")
    return code


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


class _CallableModule(ModuleType):
    """Makes ``from implicit_bias import run`` callable whether it finds the package's function or, once imported, this module."""

    def __call__(self, *overrides: Any, multirun: bool = False, **keys: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
        return run(*overrides, multirun=multirun, **keys)


sys.modules[__name__].__class__ = _CallableModule

if __name__ == "__main__":
    sys.exit(main())
