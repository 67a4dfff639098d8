"""The optima that trajectories are held against: solved once per (data, norm), cached, and stacked for a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch

from implicit_bias.datasets import Dataset
from implicit_bias.errors import NotSeparable
from implicit_bias.margins import Optimum
from implicit_bias.norms import make_norm
from implicit_bias.reference import Reference, solve_certified_each, solve_exact


class Cache(Protocol):
    """Where references are kept between runs."""

    def get(self, x: np.ndarray, y: np.ndarray, label: str, method: str) -> Reference | None: ...

    def put(self, x: np.ndarray, y: np.ndarray, label: str, method: str, reference: Reference) -> None: ...


References = dict[str, Reference]


def solve_all(
    wanted: Sequence[tuple[Dataset, Sequence[str]]], method: str, cache: Cache, notify: Callable[[str], None]
) -> list[References | NotSeparable]:
    """References of every dataset under every label that is wanted of it.

    Args:
        wanted: Datasets, which may repeat (by identity), each with the labels of the norms.
        method: ``exact`` (conic solver, one problem at a time) or ``certified`` (first-order, in batches).
        cache: Looked into first; what is solved is put there.
        notify: Told in words what is being solved.

    Returns:
        For each entry of ``wanted`` its references by label, or the error that says its classes cannot be separated.
    """
    solved: dict[tuple[int, str], Reference | NotSeparable] = {}
    todo: dict[str, list[Dataset]] = {}
    for dataset, labels in wanted:
        for label in labels:
            key = (id(dataset), label)
            if key in solved:
                continue
            cached = cache.get(dataset.x, dataset.y, label, method)
            solved[key] = cached if cached is not None else NotSeparable("not solved yet")
            if cached is None:
                todo.setdefault(label, []).append(dataset)
    for label, datasets in todo.items():
        notify(f"solving for the {label} optimum" + (f" of {len(datasets)} datasets" if len(datasets) > 1 else ""))
        for dataset, answer in zip(datasets, _solve(datasets, label, method), strict=True):
            solved[id(dataset), label] = answer
            if isinstance(answer, Reference):
                cache.put(dataset.x, dataset.y, label, method, answer)
    return [_of(dataset, labels, solved) for dataset, labels in wanted]


def optima(references: Sequence[Mapping[str, Reference]], labels: Mapping[str, Sequence[str]], block: str) -> dict[str, Optimum]:
    """Stack the references of a batch.

    Args:
        references: One mapping a run.
        labels: For each label of the batch, the label that it stands for in each run.
        block: The name of the parameter block.
    """
    stacked = {}
    for name, of_run in labels.items():
        found = [refs.get(label) for refs, label in zip(references, of_run, strict=True)]
        if any(r is not None for r in found):
            shape = next(r.separator.shape for r in found if r is not None)
            margins = [np.nan if r is None else r.lower for r in found]
            separators = [np.full(shape, np.nan) if r is None else r.separator for r in found]
            stacked[name] = Optimum(torch.tensor(margins, dtype=torch.float64), {block: torch.from_numpy(np.stack(separators))})
    return stacked


def _solve(datasets: Sequence[Dataset], label: str, method: str) -> list[Reference | NotSeparable]:
    if method == "exact":
        return [_solve_exactly(dataset, label) for dataset in datasets]
    answers: dict[int, Reference | NotSeparable] = {}
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for i, dataset in enumerate(datasets):
        by_shape.setdefault((*dataset.x.shape, dataset.num_classes), []).append(i)
    for indices in by_shape.values():
        x = np.stack([datasets[i].x for i in indices])
        y = np.stack([datasets[i].y for i in indices])
        batch = solve_certified_each(x, y, datasets[indices[0]].num_classes, make_norm(label))
        answers.update(zip(indices, batch, strict=True))
    return [answers[i] for i in range(len(datasets))]


def _solve_exactly(dataset: Dataset, label: str) -> Reference | NotSeparable:
    try:
        return solve_exact(dataset.x, dataset.y, dataset.num_classes, make_norm(label))
    except NotSeparable as error:
        return error


def _of(
    dataset: Dataset, labels: Sequence[str], solved: Mapping[tuple[int, str], Reference | NotSeparable]
) -> References | NotSeparable:
    found: References = {}
    for label in labels:
        answer = solved[id(dataset), label]
        if isinstance(answer, NotSeparable):
            return answer
        found[label] = answer
    return found
