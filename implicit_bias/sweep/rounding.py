"""The error of a run in single precision: its last margin, recomputed in double precision."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from implicit_bias.config.spec import RunSpec
from implicit_bias.core.errors import BadInput
from implicit_bias.engine import simulate
from implicit_bias.storage.runs import read_parameters
from implicit_bias.sweep.plan import Cell
from implicit_bias.sweep.problem import build_problem


def own_margin_in_double(spec: RunSpec, directory: Path) -> float | None:
    """The margin in the optimizer's own norm of a run's last parameters, computed in float64; None where they were not kept."""
    try:
        parameters = read_parameters(directory, str(directory))
    except BadInput:
        return None
    # No step is made, whatever its size: it need not be found.
    lr = {"schedule.lr": 1.0} if spec.schedule.lr == "auto" else {}
    double = spec.altered({"precision": "float64", "start_scale": 1.0, "compile": "off", **lr})
    cell = Cell(0, double, spec.dataset.load(), directory, parameters)
    problem = replace(build_problem([cell], [{}]), steps=0, certificate_iterations=0, kkt_products=0, weights="none")
    trajectory = simulate(replace(problem, levels=0, stop_log_loss=-math.inf))
    label = trajectory.own if spec.own_norm is not None else next(iter(trajectory.by_norm))  # as the summary's note
    return float(trajectory.by_norm[label]["margin"][-1, 0])
