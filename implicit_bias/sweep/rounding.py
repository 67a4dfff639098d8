"""What single precision costs a run: its last margin once more, in double precision."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from implicit_bias.core.errors import BadInput
from implicit_bias.datasets import make_dataset
from implicit_bias.engine import simulate
from implicit_bias.storage.runs import read_parameters
from implicit_bias.sweep.plan import Cell, Config, own_label
from implicit_bias.sweep.problem import build_problem


def own_margin_in_double(config: Config, directory: Path) -> float | None:
    """The margin in the optimizer's own norm of a run's last parameters, computed in float64; None where they were not kept."""
    try:
        parameters = read_parameters(directory, str(directory))
    except BadInput:
        return None
    schedule = {**config["schedule"], "lr": 1.0}  # no step is made
    double = {**config, "precision": "float64", "start_scale": 1.0, "compile": "off", "schedule": schedule}
    cell = Cell(0, double, make_dataset(config["dataset"]).load(), directory, parameters)
    problem = replace(build_problem([cell], [{}]), steps=0, certificate_iterations=0, kkt_products=0, weights="none")
    trajectory = simulate(replace(problem, levels=0, stop_log_loss=-math.inf))
    label = trajectory.own if own_label(config) is not None else next(iter(trajectory.by_norm))  # as the summary's note
    return float(trajectory.by_norm[label]["margin"][-1, 0])
