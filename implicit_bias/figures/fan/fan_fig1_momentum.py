"""The momentum version of Figure 1 of Fan et al.: Signum, NMGD and Adam."""

from __future__ import annotations

import pandas as pd

from implicit_bias.figures.base import FIGURES, PerPreset, Preset, one_line
from implicit_bias.figures.claims import Claim, Finding
from implicit_bias.figures.fan.common import MOMENTUM, STEPS
from implicit_bias.figures.fan.gaps import GapFigure
from implicit_bias.figures.papers import PUBLISHED


@FIGURES.register
class FanFig1Momentum(GapFigure):
    """Momentum and Adam without a stability constant keep the bias of the method they are built on."""

    name = "fan_fig1_momentum"
    headline = "Adam, beta2 = 0.9: relative gaps (linf, l2, spectral) after 10,000"
    order = 12
    title = "Momentum keeps the norm, and Adam's is the max-norm"
    source = "Fan et al., arXiv 2502.04664, App. A and G"
    kind = "paper"
    paper = "fan"
    minutes = PerPreset(smoke=0.2, default=0.2, paper=0.3)
    methods = MOMENTUM

    def caption(self, preset: Preset) -> str:
        return one_line(f"""
            As fan_fig1, {STEPS.at(preset):,} steps on {PUBLISHED}, with momentum .9: Signum (lr .01), NMGD (lr .1), and Adam
            without bias correction and with eps = 0 (lr .01), for two values of beta2. The appendix's settings are not known;
            these are the defaults of a published program with the same data.
        """)

    def claims(self, table: pd.DataFrame, preset: Preset) -> list[Claim]:
        found = super().claims(table, preset)
        return found if preset == "smoke" else [*found, self._as_published(preset)]

    def _as_published(self, preset: Preset) -> Claim:
        return self.not_testable(
            preset,
            "the appendix's curves of Signum, NMGD and Adam, with the appendix's own settings",
            "neither their settings nor the curves are public; judged are a published program's defaults on the same data",
        )

    def findings(self, table: pd.DataFrame, preset: Preset) -> list[Finding]:
        if preset == "smoke":
            return []
        told = [f"{m.label}: {self.at_end(table, m)[0]:.3f}" for m in self.methods if m.optimizer == "adam"]
        return [
            Finding(
                "Adam's second average is slow: with beta2 close to one the max-norm gap needs many more steps",
                one_line(f"""
                    The theorem holds for every beta1 <= beta2 < 1, but the settings of the paper's validation plots are not
                    printed, and after {STEPS.at(preset):,} steps the gap depends on beta2. A usual beta2 of .999 ends near a
                    half, by a numpy script of this project.
                """),
                f"relative linf gap after {int(table['step'].max()):,} steps: {', '.join(told)}",
            )
        ]
