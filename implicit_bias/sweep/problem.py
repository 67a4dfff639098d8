"""The engine's problem of a batch: the objects that its cells' configurations name, numbers that differ stacked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from implicit_bias.datasets import Dataset
from implicit_bias.engine import Problem
from implicit_bias.engine.mini_batches import mini_batches
from implicit_bias.models import Data, Model, Parameters
from implicit_bias.norms import Norm
from implicit_bias.optimizers import Optimizer
from implicit_bias.probes import PROBES
from implicit_bias.schedules import Schedule, auto_lr, auto_network_lr
from implicit_bias.sweep.plan import Cell, batched_fields
from implicit_bias.sweep.references import Optima, optima

# First-order steps that tighten the certificate of the last checkpoint, in norms whose optimum is not known: at most these, one
# in thirty of the run's own steps (each costs as much as ten of those or more), and the multiply-adds that they may cost in all.
CERTIFICATE_ITERATIONS = 1000  # at the default log.kkt_iters; in proportion to it
DEFAULT_KKT_ITERS = 20
CERTIFICATE_SHARE = 30
CERTIFICATE_BUDGET = 2e11

Option = TypeVar("Option")


def build_problem(cells: Sequence[Cell], references: Sequence[Optima]) -> Problem:
    """The engine's problem for cells of one batch, each with its references (empty: none)."""
    spec = cells[0].spec
    dtype, device = spec.dtype, spec.torch_device
    data, test = _stacked_data(cells, dtype, device)
    model = _batched([cell.spec.model for cell in cells], dtype, device, (-1, 1, 1))
    start = _initial(cells, model, data)
    initial = {name: block for name, block in start.items() if name not in model.frozen_blocks()}
    optimizer = _batched([cell.spec.optimizer for cell in cells], dtype, device, (-1, 1, 1))
    names = list(initial)
    working = [cell.spec.working_norm.label for cell in cells]
    norm = _batched_norm([cell.spec.working_norm for cell in cells], dtype, device)
    # Where exponents differ, a norm that was asked for by name stays beside each run's own.
    by_name = {working[0]} & set(spec.log.norms) if norm.label != working[0] else set()
    own = {working[0]: norm.label} if not by_name else {}
    measured = {own.get(label, label): logged for label, logged in spec.measured.items()}
    measured[norm.label] = norm
    optimizer.check_start(initial, optimizer.geometry(names, norm, model.row_bases(data), model.hidden_matrices(names)))
    labels = {label: working if label == norm.label else [label] * len(cells) for label in measured}
    found = optima(references, labels, model, list(initial))
    return Problem(
        model=model,
        loss=spec.loss,
        optimizer=optimizer,
        schedule=_schedule(cells, model, data, norm, optimizer, start),
        data=data,
        initial=initial,
        steps=spec.steps,
        batch=mini_batches(
            spec.batch.size, spec.batch.order, torch.tensor([cell.spec.seed for cell in cells]), len(cells[0].dataset.x)
        ),
        variance_reduction=spec.batch.variance_reduction,
        measured=measured,
        norm=norm,
        optima={label: _moved(optimum, dtype, device) for label, optimum in found.items()},
        points=spec.log.points,
        weights=spec.log.weights,
        certificate_iterations=_certificate_iterations(cells, len(measured)) if model.linear and not model.robust else 0,
        kkt_products=spec.log.kkt_iters,
        frozen={name: start[name] for name in model.frozen_blocks()},
        test=test,
        levels=spec.log.levels,
        compile=spec.compile,
        probes=[PROBES.get(name)() for name in spec.log.probes],
        stop_log_loss=-math.inf if spec.stop_log10_loss is None else spec.stop_log10_loss * math.log(10),
    )


def _initial(cells: Sequence[Cell], model: Model, data: Data) -> Parameters:
    """Where the runs start: at the model's own points or at given ones, times ``start_scale``."""
    blocks = model.initial(data, [cell.spec.seed for cell in cells])
    for run, cell in enumerate(cells):
        for name, block in blocks.items():
            if cell.start is not None:
                block[run] = torch.from_numpy(cell.start[name]).to(block)
            if cell.spec.start_scale != 1:
                block[run] *= cell.spec.start_scale
    return blocks


def _certificate_iterations(cells: Sequence[Cell], norms: int) -> int:
    data = cells[0].dataset
    work = 4.0 * len(cells) * norms * data.x.size * data.num_classes
    asked = CERTIFICATE_ITERATIONS * cells[0].spec.log.kkt_iters // DEFAULT_KKT_ITERS
    return int(min(asked, cells[0].spec.steps // CERTIFICATE_SHARE, CERTIFICATE_BUDGET // work))


def _moved(optimum: Any, dtype: torch.dtype, device: torch.device) -> Any:
    separator = None if optimum.separator is None else {n: b.to(device, dtype) for n, b in optimum.separator.items()}
    return replace(optimum, max_margin=optimum.max_margin.to(device, dtype), separator=separator)


def _schedule(cells: Sequence[Cell], model: Model, data: Data, norm: Norm, optimizer: Optimizer, initial: Parameters) -> Schedule:
    """The batch's schedule, ``schedule.lr=auto`` a number in units of the data. Raises BadInput: an optimizer refuses it."""
    schedules = [cell.spec.schedule for cell in cells]
    if any(schedule.lr == "auto" for schedule in schedules):
        automatic = _automatic(cells, model, data, norm, optimizer, initial).expand(len(cells)).tolist()
        given = [auto if own.lr == "auto" else own.lr for own, auto in zip(schedules, automatic, strict=True)]
        for cell, own, lr in zip(cells, schedules, given, strict=True):
            cell.spec.optimizer.check_rate(replace(own, lr=lr))
        return _batched(schedules, data.x.dtype, data.x.device, (-1,), lr=given)
    return _batched(schedules, data.x.dtype, data.x.device, (-1,))


def _automatic(cells: Sequence[Cell], model: Model, data: Data, norm: Norm, optimizer: Optimizer, initial: Parameters) -> Tensor:
    """eta0 of ``schedule.lr=auto``, (R,) or (1,)."""
    if optimizer.rate is not None:
        return data.x.new_full((1,), optimizer.rate)
    unit = model.unit_step(data, norm, initial)
    size: Tensor | float = optimizer.unit_in(norm, unit)
    normalised = not optimizer.scales_with_gradient or optimizer.of_log_loss
    if optimizer.scales_with_gradient and optimizer.of_log_loss:
        size = size * _relative_gradient(cells, model, data, optimizer, initial)
    if not model.linear:
        return auto_network_lr(unit, model.degree(), norm, normalised) / size
    if normalised:
        return auto_lr(unit, norm, normalised=True) / size
    return auto_lr(unit, norm, normalised=False, curvature=_curvature(cells, model, data, initial)) / size


def _relative_gradient(cells: Sequence[Cell], model: Model, data: Data, optimizer: Optimizer, initial: Parameters) -> Tensor:
    """N_*(grad log L) at the initial point, (R,): the size of the first step of rate one of a method that scales with it."""
    trained = {name: block for name, block in initial.items() if name not in model.frozen_blocks()}
    frozen = {name: block for name, block in initial.items() if name not in trained}
    gradient = model.objective(data, cells[0].spec.loss, frozen).gradient(trained)
    names = list(trained)
    geometry = optimizer.geometry(names, cells[0].spec.working_norm, model.row_bases(data), model.hidden_matrices(names))
    relative = {name: g.relative_to(gradient.log_loss[:, None, None]) for name, g in gradient.blocks.items()}
    return geometry.dual(relative).clamp(min=torch.finfo(data.x.dtype).tiny)


def _curvature(cells: Sequence[Cell], model: Model, data: Data, initial: Parameters) -> Tensor:
    """What bounds a constant step, (R,): the curvature of the loss from the initial point on; 0 where steps vary in size."""
    loss, constant = cells[0].spec.loss, [cell.spec.schedule.constant for cell in cells]
    log_loss = model.objective(data, loss).gradient(initial).log_loss
    bound = loss.curvature(log_loss, data.num_classes - 1)
    return torch.where(torch.tensor(constant, device=bound.device), bound, 0.0)


def _batched(
    options: Sequence[Option], dtype: torch.dtype, device: torch.device, shape: tuple[int, ...], **given: Sequence[Any]
) -> Option:
    """One object for all runs: the first, with tensors in the place of the numeric fields that differ.

    Args:
        options: One object a run, all of one class.
        dtype, device, shape: Of the tensors; -1 stands for the runs.
        given: Values of fields, one a run, in the place of the objects' own.
    """
    first: Any = options[0]
    changes: dict[str, Any] = {}
    for key in batched_fields(type(first)):
        values = given.get(key) or [getattr(option, key) for option in options]
        if len(set(values)) > 1:
            changes[key] = torch.tensor(values, dtype=dtype, device=device).reshape(shape)
        elif key in given:
            changes[key] = values[0]
    made: Option = replace(first, **changes) if changes else first
    return made


def _batched_norm(norms: Sequence[Norm], dtype: torch.dtype, device: torch.device) -> Norm:
    """One norm for all runs: the first, with a tensor of exponents where these differ."""
    first: Any = norms[0]
    exponents = [getattr(norm, "p", None) for norm in norms]
    if len(set(exponents)) == 1:
        return norms[0]
    norm: Norm = replace(first, p=torch.tensor(exponents, dtype=dtype, device=device))
    return norm


def _stacked_data(cells: Sequence[Cell], dtype: torch.dtype, device: torch.device) -> tuple[Data, Data | None]:
    """Training and test sets, of one run each or, where all runs have the same, once."""
    first = cells[0].dataset
    own = cells[:1] if all(cell.dataset is first for cell in cells) else cells

    def stacked(samples: Iterator[tuple[np.ndarray | None, np.ndarray | None]]) -> Data:
        x, y = next(samples)
        assert x is not None and y is not None
        # One after the other: test samples that are loaded again are held once.
        xs, ys = np.empty((len(own), *x.shape), x.dtype), np.empty((len(own), *y.shape), y.dtype)
        for run, pair in enumerate(chain([(x, y)], samples)):
            xs[run], ys[run] = pair
        return Data(torch.from_numpy(xs).to(device, dtype), torch.from_numpy(ys).to(device), first.num_classes)

    test = None if first.x_test is None else stacked((d.x_test, d.y_test) for d in map(_with_test, own))
    return stacked((cell.dataset.x, cell.dataset.y) for cell in own), test


def _with_test(cell: Cell) -> Dataset:
    """A cell's data with their test samples, loaded again where they were left out."""
    return cell.spec.dataset.load() if cell.dataset.test_left_out else cell.dataset
