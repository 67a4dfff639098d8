"""The command ``identify``: its arguments, the files it writes and what it prints."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from implicit_bias.cli.arguments import Interface, a_folder, tell_repeated
from implicit_bias.cli.exit_codes import DONE
from implicit_bias.cli.messages import loading
from implicit_bias.cli.paths import exists, is_path, make_folder, named_path
from implicit_bias.cli.streams import unharmed_by_output
from implicit_bias.core.errors import BadInput
from implicit_bias.core.registry import hyper, hyper_fields
from implicit_bias.runtime.processors import limit_threads, prepare_process

if TYPE_CHECKING:
    from implicit_bias.analysis.fingerprints import Identified
    from implicit_bias.analysis.weights import Weights
    from implicit_bias.datasets import Dataset

USAGE = "python -m implicit_bias.identify RUN ... [key=value ...], or optimizer=..."
ABOUT = """\
Which norm's margin does it maximise? For the entrywise l_p and the Schatten norms, all p from 1 to inf, the margin of the \
parameters is held against the certified optimum; where the ratio kappa peaks, and how near to 1, is the answer. For networks \
kappa is the KKT ratio.

RUN is one of
  results/runs/<name>-<hash>       a run folder; or several, 'results/runs/*muon*' (log.weights=all shows how kappa grows)
  results/sweeps/<name>-<hash>     a sweep: all of its runs
  path/to/weights.npz              parameters of your own code: one matrix (classes, features), or W among several; the data \
they were trained on are named as for a run, dataset=digits, dataset=file dataset.path=my.csv
  mine=RUN                         any of these, called "mine"

Without a RUN, optimizer=muon, or optimizer=torch optimizer.target=mine.py:MyOptimizer, typed as for a run (several with commas \
between them), is studied before it sees data, in seconds: the norm of its steps, its symmetries, and what steps do when \
gradients shrink."""
ENDING = """\
verdicts: maximises (kappa >= .97, and 1 - kappa falls by 2 or more a decade of steps where that is known); nearest so far \
(kappa >= .9); none of these; data cannot tell; not separated"""
TABLES = ("identify.csv", "verdicts.csv")
#: Seconds that a run is expected to take, before any is identified.
IDENTIFYING = 5.0
WILD = "*?["


@dataclass(frozen=True)
class Request:
    """What the command line asks for.

    Attributes:
        runs: Pairs of a name (or nothing) and a path or pattern.
        dataset: What was typed of the data, as for a run.
        method: What was typed of an optimizer and its norm, likewise; then there are neither runs nor data.
    """

    runs: tuple[tuple[str, str], ...] = ()
    dataset: tuple[str, ...] = ()
    method: tuple[str, ...] = ()
    family: tuple[str, ...] = hyper(("lp", "schatten"), help="families of norms to look in, lp, schatten or both")
    out: str = hyper("", help="where tables and picture go; without it results_dir/identify/<hash of the inputs>")
    results_dir: str = hyper("results", help="where the cache of references is")
    reference_timeout: float = hyper(
        60.0, help="seconds for one optimum; past it the interval that is proven stands in its place", gt=0
    )
    progress: str = hyper("auto", help="progress; auto: a bar on a terminal, else a line now and then", choices=("auto", "off"))
    device: Literal["auto", "cpu", "cuda"] = hyper("auto", help="where networks are evaluated; auto: the GPU if there is one")


OPTIONS = tuple(hyper_fields(Request))


@unharmed_by_output
def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; every foreseeable mistake is one line on stderr. Returns the exit code."""
    limit_threads()
    prepare_process()
    return INTERFACE.answer(argv, lambda typed: answer(request_from(typed)))


def request_from(arguments: Sequence[str]) -> Request:
    """The request that the arguments make. Raises BadInput: an unknown key, or a value that is not allowed."""
    words, keys = INTERFACE.read(arguments)
    dataset, method = tuple(filter(_is_dataset, words)), tuple(filter(_is_method, words))
    runs = tuple(named_path(word) for word in words if word not in (*dataset, *method))
    tell_repeated(dataset)
    tell_repeated(method, several=lambda key: True)
    if method:
        _check_method(method, words, keys)
    elif meant := next((word for word in words if _is_optimizer(word)), None):
        raise BadInput(f"{meant}: no such run; did you mean optimizer={meant}?")
    elif not runs:
        raise BadInput(
            "RUN: no run is named; must be a run folder, a sweep's folder or an .npz file of parameters, or optimizer=... alone"
            " (see --help)"
        )
    return Request(runs, dataset, method, **keys)


def _check_method(method: Sequence[str], words: Sequence[str], keys: Mapping[str, Any]) -> None:
    """Raises BadInput where an optimizer that is to be studied has something beside it that a study does not read."""
    if not any(word.startswith("optimizer=") for word in method):
        raise BadInput(f"{method[0]}: names no optimizer; must stand beside optimizer=<name>")
    for word in words:
        if word not in method:
            raise BadInput(f"{word}: runs and data have no place beside {method[0]}, which is studied without; leave it out")
    for key in ("family", "out"):
        if key in keys:
            raise BadInput(f"{key}: is read with runs only; the study of an optimizer looks in all families, and writes nothing")


def _is_operand(word: str) -> bool:
    """Whether a word names runs, a path or pattern or ``name=`` and one, or data."""
    key, equals, path = word.partition("=")
    if not equals or _is_dataset(word) or _is_method(word) or exists(word):
        return True
    return key not in ("", *OPTIONS) and "/" not in key and is_path(path, ".npz")


def _is_dataset(word: str) -> bool:
    return word.partition("=")[0].partition(".")[0] == "dataset" and "=" in word


def _is_method(word: str) -> bool:
    """Whether a word names an optimizer, its norm, or a key of these."""
    return word.partition("=")[0].partition(".")[0] in ("optimizer", "norm") and "=" in word and not exists(word)


def _is_optimizer(word: str) -> bool:
    """Whether a word that is no path is the name of an optimizer."""
    if "=" in word or "/" in word or exists(word):
        return False
    from implicit_bias.config.files import groups

    return word in groups()["optimizer"]


def families_of(names: Sequence[str]) -> tuple[str, ...]:
    """Names of families, each once. Raises BadInput: there is no such family."""
    from implicit_bias.core.words import suggestion
    from implicit_bias.measures.exponents import FAMILIES

    for name in names:
        if name not in FAMILIES:
            meant = suggestion(name, FAMILIES) or ";"
            raise BadInput(f"family={name}: no such family{meant} must be lp, schatten or lp,schatten")
    return tuple(family for family in FAMILIES if family in names)


INTERFACE = Interface(
    Request,
    USAGE,
    ABOUT,
    readers={
        "family": lambda text: families_of(text.split(",")),
        "out": a_folder("out", TABLES[0]),
        "results_dir": a_folder("results_dir", "cache"),
    },
    is_operand=_is_operand,
    operand="dataset=, optimizer=, norm=, name=path of a run",
    ending=lambda: ENDING,
    interrupted="interrupted; optima that are solved are kept, and the same command goes on from there",
    place="out",
)


def answer(request: Request) -> int:
    """Read, solve, write and print, or study an optimizer. Returns the exit code."""
    if request.method:
        with loading():
            from implicit_bias.identify.static import studied

        return studied(request.method)
    with loading():
        from implicit_bias.analysis.identification import identified
        from implicit_bias.analysis.weights import Reader
        from implicit_bias.cli.progress import Progress
        from implicit_bias.storage.references import ReferenceCache

    dataset, seed = dataset_of(request.dataset)
    runs = Reader(dataset, seed).read(request.runs)
    if dataset is not None and all(run.dataset is not dataset for run in runs):
        raise BadInput(f"{request.dataset[0]}: run folders name their own data; allowed with files of parameters only")
    make_folder(Path(request.out or request.results_dir), "out" if request.out else "results_dir")
    cache = ReferenceCache(request.results_dir)
    with Progress(enabled=request.progress != "off") as progress:
        shared = progress.single("curves", IDENTIFYING * len(runs))
        found = identified(runs, request.family, cache, request.reference_timeout, request.device, progress.status, shared=shared)
    return _shown(request, runs, found)


def dataset_of(words: Sequence[str]) -> tuple[Dataset | None, int | None]:
    """The data that words as for a run name, and the seed they are made with; nothing without words. Raises BadInput."""
    if not words:
        return None, None
    from implicit_bias.config.overrides import compose

    source = compose(words)[0].spec.dataset
    return source.load(), getattr(source, "seed", None)


def _shown(request: Request, runs: Sequence[Weights], found: Identified) -> int:
    """Write the tables and the picture, and print the verdicts."""
    from implicit_bias.analysis.identification import labelled
    from implicit_bias.cli.tables import print_table
    from implicit_bias.identify.show import LEGEND, notes, verdict_table
    from implicit_bias.plotting.fingerprint import fingerprint_picture
    from implicit_bias.plotting.style import drawing, saved
    from implicit_bias.storage.files import atomic_write_bytes, csv_bytes

    files = {"identify.csv": csv_bytes(found.curves), "verdicts.csv": csv_bytes(found.verdicts)}
    with drawing():
        picture = fingerprint_picture(found, runs)
        files |= {f"identify.{kind}": saved(picture, kind) for kind in ("png", "pdf")}
    folder = Path(request.out or Path(request.results_dir) / "identify" / _digest(request, files["identify.csv"]))
    for name, content in files.items():
        atomic_write_bytes(folder / name, content)
    print_table(
        verdict_table(found, labelled(found.verdicts, runs)),
        [*notes(found, runs), *(str(folder / name) for name in files)],
        LEGEND,
    )
    return DONE


def _digest(request: Request, table: bytes) -> str:
    """What the folder is called: a name that its contents determine."""
    return hashlib.sha256(json.dumps(request.family).encode() + table).hexdigest()[:12]
