"""The engine's problem of a batch: the objects that its cells' configurations name, numbers that differ stacked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from implicit_bias.core.registry import hyper_fields
from implicit_bias.datasets import Dataset
from implicit_bias.engine import Problem
from implicit_bias.losses import LOSSES
from implicit_bias.models import MODELS, Data, Model, Parameters
from implicit_bias.norms import NORMS, Norm, make_norm
from implicit_bias.optimizers import OPTIMIZERS, Optimizer
from implicit_bias.schedules import SCHEDULES, Schedule, auto_lr, auto_network_lr
from implicit_bias.sweep.plan import Cell, Config, batched_fields, device_of, logged_labels, own_label
from implicit_bias.sweep.references import References, optima

# First-order steps that tighten the certificate of the last checkpoint, in norms whose optimum is not known: at most these, one
# in thirty of the run's own steps (each costs as much as ten of those or more), and the multiply-adds that they may cost in all.
CERTIFICATE_ITERATIONS = 1000  # at the default log.kkt_iters; in proportion to it
DEFAULT_KKT_ITERS = 20
CERTIFICATE_SHARE = 30
CERTIFICATE_BUDGET = 2e11


def build_problem(cells: Sequence[Cell], references: Sequence[References]) -> Problem:
    """The engine's problem for cells of one batch, each with its references (empty: none)."""
    config = cells[0].config
    dtype, device = getattr(torch, config["precision"]), device_of(config)
    data, test = _stacked_data([cell.dataset for cell in cells], dtype, device)
    model: Model = _batched(MODELS, [c.config["model"] for c in cells], dtype, device, (-1, 1, 1))
    start = _initial(cells, model, data)
    initial = {name: block for name, block in start.items() if name not in model.frozen_blocks()}
    optimizer: Optimizer = _batched(OPTIMIZERS, [c.config["optimizer"] for c in cells], dtype, device, (-1, 1, 1))
    own = [own_label(cell.config) or str(optimizer.working_norm) for cell in cells]
    norm = _batched_norm([cell.config["norm"] for cell in cells], dtype, device) if optimizer.reads_norm() else None
    geometry_norm = norm or make_norm(optimizer.working_norm or "l2")
    measured = {label: make_norm(label) for label in logged_labels(config) if label != own[0]}
    measured[geometry_norm.label] = geometry_norm
    labels = {label: own if label == geometry_norm.label else [label] * len(cells) for label in measured}
    ordered = [geometry_norm.label if label == own[0] else label for label in logged_labels(config)]
    found = optima(references, labels, next(iter(initial)))
    return Problem(
        model=model,
        loss=LOSSES.get(config["loss"]["name"])(),
        optimizer=optimizer,
        schedule=_schedule(cells, model, data, geometry_norm, optimizer, start),
        data=data,
        initial=initial,
        steps=config["steps"],
        measured={label: measured[label] for label in ordered},
        norm=norm,
        optima={label: _moved(optimum, dtype, device) for label, optimum in found.items()},
        points=config["log"]["points"],
        weights=config["log"]["weights"],
        certificate_iterations=_certificate_iterations(cells, len(measured)) if model.linear else 0,
        kkt_products=config["log"]["kkt_iters"],
        frozen={name: start[name] for name in model.frozen_blocks()},
        test=test,
        levels=config["log"]["levels"],
        compile=config["compile"],
        stop_log_loss=-math.inf if config["stop_log10_loss"] is None else config["stop_log10_loss"] * math.log(10),
    )


def _initial(cells: Sequence[Cell], model: Model, data: Data) -> Parameters:
    """Where the runs start: at the model's own points or at given ones, times ``start_scale``."""
    blocks = model.initial(data, [cell.config["seed"] for cell in cells])
    for run, cell in enumerate(cells):
        for name, block in blocks.items():
            if cell.start is not None:
                block[run] = torch.from_numpy(cell.start[name]).to(block)
            if cell.config["start_scale"] != 1:
                block[run] *= cell.config["start_scale"]
    return blocks


def _certificate_iterations(cells: Sequence[Cell], norms: int) -> int:
    data = cells[0].dataset
    work = 4.0 * len(cells) * norms * data.x.size * data.num_classes
    asked = CERTIFICATE_ITERATIONS * cells[0].config["log"]["kkt_iters"] // DEFAULT_KKT_ITERS
    return int(min(asked, cells[0].config["steps"] // CERTIFICATE_SHARE, CERTIFICATE_BUDGET // work))


def _moved(optimum: Any, dtype: torch.dtype, device: torch.device) -> Any:
    separator = None if optimum.separator is None else {n: b.to(device, dtype) for n, b in optimum.separator.items()}
    return replace(optimum, max_margin=optimum.max_margin.to(device, dtype), separator=separator)


def _schedule(cells: Sequence[Cell], model: Model, data: Data, norm: Norm, optimizer: Optimizer, initial: Parameters) -> Schedule:
    configs = [cell.config["schedule"] for cell in cells]
    given = [c.get("lr") for c in configs]
    if "auto" in given:
        automatic = _automatic(cells, model, data, norm, optimizer, initial).expand(len(cells)).tolist()
        given = [auto if lr == "auto" else lr for lr, auto in zip(given, automatic, strict=True)]
    resolved = [{**c, "lr": lr} for c, lr in zip(configs, given, strict=True)]
    schedule: Schedule = _batched(SCHEDULES, resolved, data.x.dtype, data.x.device, (-1,))
    return schedule


def _automatic(cells: Sequence[Cell], model: Model, data: Data, norm: Norm, optimizer: Optimizer, initial: Parameters) -> Tensor:
    """eta0, (R,) or (1,)."""
    unit = model.unit_step(data, norm, initial)
    size: Tensor | float = optimizer.unit
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
    gradient = model.objective(data, LOSSES.get(cells[0].config["loss"]["name"])(), frozen).gradient(trained)
    names = list(trained)
    geometry = optimizer.geometry(names, None, model.row_bases(data), model.hidden_matrices(names))
    relative = {name: g.relative_to(gradient.log_loss[:, None, None]) for name, g in gradient.blocks.items()}
    return geometry.dual(relative).clamp(min=torch.finfo(data.x.dtype).tiny)


def _curvature(cells: Sequence[Cell], model: Model, data: Data, initial: Parameters) -> Tensor:
    """What bounds a constant step, (R,): the curvature of the loss from the initial point on; 0 where steps vary in size."""
    loss = LOSSES.get(cells[0].config["loss"]["name"])()
    constant = [
        SCHEDULES.get(c["name"])(**{k: v for k, v in c.items() if k != "name"}).constant
        for c in (cell.config["schedule"] for cell in cells)
    ]
    log_loss = model.objective(data, loss).gradient(initial).log_loss
    bound = loss.curvature(log_loss, data.num_classes - 1)
    return torch.where(torch.tensor(constant, device=bound.device), bound, 0.0)


def _batched(registry: Any, configs: Sequence[Config], dtype: torch.dtype, device: torch.device, shape: tuple[int, ...]) -> Any:
    """One object whose numeric fields are numbers where all runs agree, and tensors where they differ."""
    cls = registry.get(configs[0]["name"])
    numeric = batched_fields(registry, cls.name)

    def field(key: str) -> Any:
        values = [c[key] for c in configs]
        if key not in numeric or len(set(values)) == 1:
            return values[0]
        return torch.tensor(values, dtype=dtype, device=device).reshape(shape)

    return cls(**{key: field(key) for key in hyper_fields(cls)})


def _batched_norm(configs: Sequence[Config | None], dtype: torch.dtype, device: torch.device) -> Norm:
    first = configs[0]
    if first is None:
        return make_norm("l2")
    exponents = [c["p"] for c in configs if c is not None and "p" in c]
    if not exponents or len(set(exponents)) == 1:
        return make_norm(**first)
    norm: Norm = NORMS.get(first["name"])(p=torch.tensor(exponents, dtype=dtype, device=device))
    return norm


def _stacked_data(datasets: Sequence[Dataset], dtype: torch.dtype, device: torch.device) -> tuple[Data, Data | None]:
    """Training and test sets, of one run each or, where all runs have the same, once."""
    first = datasets[0]
    own = [first] if all(d is first for d in datasets) else datasets

    def stacked(xs: Sequence[np.ndarray], ys: Sequence[np.ndarray]) -> Data:
        x: Tensor = torch.from_numpy(np.stack(xs)).to(device, dtype)
        return Data(x, torch.from_numpy(np.stack(ys)).to(device), first.num_classes)

    tests = [(d.x_test, d.y_test) for d in own if d.x_test is not None and d.y_test is not None]
    test = stacked([x for x, _ in tests], [y for _, y in tests]) if tests else None
    return stacked([d.x for d in own], [d.y for d in own]), test
