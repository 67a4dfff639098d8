"""The plot of the measured speeds."""

from __future__ import annotations

import os

import pandas as pd
import torch

from implicit_bias.bench.machine import processor
from implicit_bias.bench.scaling import NAMES
from implicit_bias.plotting.style import drawing, log_axis, optimizer_look, panels, saved


def draw(table: pd.DataFrame, growth: pd.DataFrame) -> dict[str, bytes]:
    """The picture of both tables, as png and pdf: ratios by batch, and cost by size with its slope."""
    with drawing():
        figure, axes = panels(2, 4, height=4.2)
        linear = table[table["tight_us"].notna()]
        for axis, (size, rows) in zip(axes[0], linear.groupby("size", sort=False), strict=False):
            for name, curve in rows.groupby("optimizer", sort=False):
                axis.plot(curve["runs"], curve["ratio_usual"], **optimizer_look(str(name)).plot(range(len(curve))))
            axis.set_title(size, fontsize=7.5)
            axis.set_xlabel("runs in the batch")
            log_axis(axis, "x")
            log_axis(axis, "y")
        axes[0, 0].set_ylabel("times the usual loop")
        axes[0, 0].legend(fontsize=6.5)
        places = [axes[0, 3], *axes[1]]
        for axis, name in zip(places, NAMES.values(), strict=True):
            slopes = []
            for method, curve in growth[growth["axis"] == name].groupby("optimizer", sort=False):
                look = optimizer_look(str(method))
                axis.plot(curve["value"], 1e3 * curve["seconds"], **look.plot(range(len(curve))))
                slopes.append(f"{curve['slope'].iloc[0]:.2f}")
            axis.set_title(f"slopes {' / '.join(slopes)}", fontsize=7.5)
            axis.set_xlabel(name)
            log_axis(axis, "x")
            log_axis(axis, "y")
        axes[0, 3].set_ylabel("ms a batch")
        axes[1, 0].set_ylabel("ms a batch")
        machine = f"{processor()}, {os.cpu_count()} cores, torch {torch.__version__}"
        methods = " / ".join(optimizer_look(str(name)).label for name in growth["optimizer"].unique())
        figure.suptitle(f"{machine}; growth of 64 runs' time, slopes of {methods}", fontsize=7.5)
        return {kind: saved(figure, kind) for kind in ("png", "pdf")}
