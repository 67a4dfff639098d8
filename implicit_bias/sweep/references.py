"""The optima that trajectories are held against: solved once per (data, norm), cached, and stacked for a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch

from implicit_bias.core.errors import NotSeparable
from implicit_bias.datasets import Dataset
from implicit_bias.measures.decay_laws import gap_constant
from implicit_bias.measures.margins import Optimum
from implicit_bias.models import Data, Model
from implicit_bias.models.perturbations import Perturbed
from implicit_bias.norms import Norm
from implicit_bias.solvers.formulas import KnownOptimum, known_optima
from implicit_bias.solvers.reference import TIMEOUT, Reference, in_batches, solve_certified, solve_certified_each, solve_exact
from implicit_bias.solvers.robust import solve_robust
from implicit_bias.storage.tables import Interval


class Cache(Protocol):
    """Where references are kept between runs."""

    def get(self, x: np.ndarray, y: np.ndarray, norm: Norm, method: str) -> Reference | None: ...

    def put(self, x: np.ndarray, y: np.ndarray, norm: Norm, method: str, reference: Reference) -> None: ...


References = dict[str, Reference]
#: What a run is held against, by label: solved for, or known by formula.
Optima = Mapping[str, Reference | KnownOptimum]
Answer = Reference | NotSeparable
# Datasets whose optima are solved in one batch, where that is how they are solved: what is solved is kept after each batch.
TOGETHER = 16
# What rounding may lift a network's margin by, in units of the precision, relative.
NETWORK_ROUNDING = 1e4


def solve_all(
    wanted: Sequence[tuple[Dataset, Mapping[str, Norm]]],
    method: str,
    cache: Cache,
    notify: Callable[[str], None],
    timeout: float = TIMEOUT,
    perturbed: Perturbed | None = None,
    counted: Callable[[int, int], None] | None = None,
) -> list[References | NotSeparable]:
    """References of every dataset in every norm that is wanted of it.

    Each is put into the cache as soon as it is solved. One that is there, but ran out of time, is tried again, and the better
    bounds of both are kept.

    Args:
        wanted: Datasets, which may repeat (by identity), each with the norms of a matrix (k, d) by the label that is used for
            them; references are solved and kept by the norm's own label, which says all.
        method: ``exact`` (any norm by a conic solver where it is small) or ``certified`` (cvxpy is never imported).
        cache: Looked into first; what is solved is put there.
        notify: Told in words what is being solved.
        timeout: Seconds for one optimum.
        perturbed: How samples are perturbed that the optima are of, and the cache is for; None: they are as given.
        counted: Told how many optima are solved, and how many there are to solve.

    Returns:
        For each entry of ``wanted`` its references by label, or the error that says its classes cannot be separated.
    """
    solved: dict[tuple[int, str], Answer] = {}
    late: dict[tuple[int, str], Reference] = {}
    todo: dict[str, list[Dataset]] = {}
    known_norms: dict[str, Norm] = {}
    seen: set[tuple[int, str]] = set()
    for dataset, norms in wanted:
        for norm in norms.values():
            label = norm.label
            key = (id(dataset), label)
            if key in solved or key in seen:
                continue
            seen.add(key)
            cached = cache.get(dataset.x, dataset.y, norm, method)
            if cached is not None and cached.late and not cached.proven:
                late[key] = cached
            elif cached is not None:
                solved[key] = cached
                continue
            todo.setdefault(label, []).append(dataset)
            known_norms.setdefault(label, norm)
    total, done = sum(len(datasets) for datasets in todo.values()), 0

    def told(label: str) -> None:
        notify(f"solving optimum {done + 1} of {total} ({label})" if total > 1 else f"solving the {label} optimum")
        if counted is not None:
            counted(done, total)

    for label, datasets in todo.items():
        norm = known_norms[label]
        for dataset, answer in _answers(datasets, norm, method, timeout, told, perturbed):
            known = late.get((id(dataset), label))
            if known is not None:
                answer = known if isinstance(answer, NotSeparable) else _better(known, answer)
            solved[id(dataset), label] = answer
            if isinstance(answer, Reference):
                cache.put(dataset.x, dataset.y, norm, method, answer)
            done += 1
    return [_of(dataset, norms, solved) for dataset, norms in wanted]


def _better(a: Reference, b: Reference) -> Reference:
    """The better separator and the better weights of two references of one optimum."""
    primal, dual = (b if b.lower > a.lower else a), (b if b.upper < a.upper else a)
    return replace(b, separator=primal.separator, lower=primal.lower, weights=dual.weights, upper=dual.upper)


def _answers(
    datasets: Sequence[Dataset],
    norm: Norm,
    method: str,
    timeout: float,
    told: Callable[[str], None],
    perturbed: Perturbed | None,
) -> Iterator[tuple[Dataset, Answer]]:
    """The datasets' optima one after the other, or where only first-order steps lead there, batch by batch."""
    expressions = method == "exact"
    by_shape: dict[tuple[int, ...], list[Dataset]] = {}
    for dataset in datasets:
        by_shape.setdefault((*dataset.x.shape, dataset.num_classes), []).append(dataset)
    for same in by_shape.values():
        alone = perturbed is not None or len(same) == 1
        together = not alone and in_batches(same[0].x, same[0].num_classes, norm, expressions)
        size = TOGETHER if together else 1
        for start in range(0, len(same), size):
            batch = same[start : start + size]
            told(norm.label)
            if together:
                x, y = (np.stack([getattr(dataset, name) for dataset in batch]) for name in ("x", "y"))
                yield from zip(batch, solve_certified_each(x, y, batch[0].num_classes, norm, timeout=timeout), strict=True)
            else:
                yield batch[0], _solved(batch[0], norm, expressions, timeout, perturbed)


def _solved(dataset: Dataset, norm: Norm, expressions: bool, timeout: float, perturbed: Perturbed | None) -> Answer:
    try:
        if perturbed is not None:
            return solve_robust(dataset.x, dataset.y, dataset.num_classes, norm, perturbed, timeout)
        if expressions:
            return solve_exact(dataset.x, dataset.y, dataset.num_classes, norm, timeout=timeout)
        return solve_certified(dataset.x[None], dataset.y[None], dataset.num_classes, norm, timeout=timeout)[0]
    except NotSeparable as error:
        return error


def in_closed_form(dataset: Dataset, model: Model, norms: Mapping[str, Norm]) -> Optima:
    """The optima of a network that are known by formula, by label. Raises BadInput where none is."""
    return known_optima(model, dataset.x, dataset.y, dataset.num_classes, norms.values())


def optima(
    references: Sequence[Optima], labels: Mapping[str, Sequence[str]], model: Model, names: Sequence[str]
) -> dict[str, Optimum]:
    """Stack the references of a batch.

    Args:
        references: One mapping a run.
        labels: For each label of the batch, the label that it stands for in each run.
        model: The model; a linear one says what blocks a separator has.
        names: What they are called.
    """
    stacked = {}
    for name, of_run in labels.items():
        found = [refs.get(label) for refs, label in zip(references, of_run, strict=True)]
        if any(r is not None for r in found):
            margins = [np.nan if r is None or not r.proven else r.lower for r in found]
            uppers = torch.tensor([np.inf if r is None else r.upper for r in found], dtype=torch.float64)
            separators = _separators(found)
            separator = None if separators is None else model.in_blocks(torch.from_numpy(separators), names)
            stacked[name] = Optimum(torch.tensor(margins, dtype=torch.float64), separator, uppers)
    return stacked


def _separators(references: Sequence[Reference | KnownOptimum | None]) -> np.ndarray | None:
    """The separators of a batch (R, k, d), nan where there is none that is proven; None where all are without one."""
    known = [None if r is None or not r.proven else r.separator for r in references]
    shape = next((r.separator.shape for r in references if r is not None and r.separator is not None), None)
    return None if shape is None else np.stack([np.full(shape, np.nan) if w is None else w for w in known])


def intervals_of(
    dataset: Dataset, model: Model, norms: Mapping[str, Norm], references: Optima, precision: torch.dtype = torch.float64
) -> dict[str, Interval]:
    """The references of a run by label, each with what rounding may lift a margin of its precision by.

    Args:
        norms: At least those of the references, by label.
        precision: What margins were computed in.
    """
    if not references:
        return {}
    data = Data(torch.from_numpy(dataset.x)[None], torch.from_numpy(dataset.y)[None], dataset.num_classes)
    terms, eps = 8 * (dataset.x.shape[1] + 2), float(np.finfo(np.float64).eps)
    found = {}
    for label, reference in references.items():
        if reference.weights is None:
            found[label] = Interval(
                reference.lower, reference.upper, NETWORK_ROUNDING * torch.finfo(precision).eps * reference.upper
            )
            continue
        rounding = eps * (terms * float(model.unit_step(data, norms[label])) + terms * reference.upper)
        found[label] = Interval(reference.lower, reference.upper, rounding, gap_constant(reference.weights))
    return found


def _of(
    dataset: Dataset, norms: Mapping[str, Norm], solved: Mapping[tuple[int, str], Reference | NotSeparable]
) -> References | NotSeparable:
    found: References = {}
    for label, norm in norms.items():
        answer = solved[id(dataset), norm.label]
        if isinstance(answer, NotSeparable):
            return answer
        found[label] = answer
    return found
