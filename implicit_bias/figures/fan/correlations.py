"""Cosines with the max-margin separators against the step, and the claims about them: Figure 2 of Fan et al."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from implicit_bias.analysis.runs import numbers
from implicit_bias.figures.base import Preset
from implicit_bias.figures.claims import Claim
from implicit_bias.figures.fan.common import MEASURED_BY, NORMS, UNTRUNCATED, FanFigure, Method
from implicit_bias.plotting.explorer import Quantity
from implicit_bias.plotting.style import log_axis

IN_FIGURE = "Fan et al., arXiv 2502.04664, Fig. 2, read off the picture"
# The spectral separator is nearly degenerate: two solvers' differ by .005 in this cosine.
TOLERANCES = (0.005, 0.005, 0.01)


class CorrelationFigure(FanFigure):
    """Cosine <W, V> / (||W||_2 ||V||_2) with the separators V of largest linf, l2 and spectral margin."""

    quantity = "correlation"
    quantities = (Quantity("correlation", "correlation"), Quantity("missing", "1 - correlation", log=True))

    def measured(self, table: pd.DataFrame) -> pd.DataFrame:
        return table.assign(missing=1 - table["correlation"])

    def finish_panel(self, axis: Axes, rows: pd.DataFrame, method: Method) -> None:
        axis.axhline(1, color="#9a9a9a", lw=0.6, zorder=1)

    def printed(self, method: Method) -> tuple[float, float, float] | None:
        return method.published_correlations

    def finish(self, axes: np.ndarray) -> None:
        for axis in axes.flat:
            axis.set_ylim(0.66, 1.01)
            log_axis(axis, "x")
        for axis in axes[:, 0]:
            axis.set_ylabel("correlation")

    def claims(self, table: pd.DataFrame, preset: Preset) -> list[Claim]:
        if preset == "smoke":
            return []
        judged = [self.last_claim(table, m, preset) for m in self.methods if m.correlations]
        judged += [self.own_claim(table, m, preset) for m in self.methods]
        return judged + [self.published_claim(table, m, preset) for m in self.methods if m.published_correlations]

    def last_claim(self, table: pd.DataFrame, method: Method, preset: Preset) -> Claim:
        """The cosines after the last step."""
        assert method.correlations is not None
        got = self.at_end(table, method)
        apart = np.abs(np.asarray(got) - np.asarray(method.correlations))
        return self.claim(
            preset, f"{method.label}: correlations with the {', '.join(NORMS)} separators after 10,000 steps",
            kind="check", measured=numbers(got), expected=numbers(method.correlations),
            tolerance=" / ".join(f"{t:g}" for t in TOLERANCES), holds=bool((apart <= TOLERANCES).all()), source=MEASURED_BY,
        )  # fmt: skip

    def own_claim(self, table: pd.DataFrame, method: Method, preset: Preset) -> Claim:
        """The paper's message: the own separator ends closest."""
        ends = dict(zip(NORMS, self.at_end(table, method), strict=True))
        others = max(value for norm, value in ends.items() if norm != method.own)
        text = f"{method.label}: ends closest to the separator of its own norm ({method.own})"
        return self.claim(
            preset, text, measured=f"{ends[method.own]:.3f} against {others:.3f}", holds=ends[method.own] > others, tolerance=">"
        )

    def published_claim(self, table: pd.DataFrame, method: Method, preset: Preset) -> Claim:
        """The same cosines against the published picture itself."""
        assert method.published_correlations is not None
        text = f"{method.label}: the curves end where the published ones do ({', '.join(NORMS)})"
        got = self.at_end(table, method)
        return self.near(
            preset,
            text,
            got,
            method.published_correlations,
            0.03,
            kind="paper",
            relative=True,
            source=IN_FIGURE,
            reason=UNTRUNCATED,
        )
