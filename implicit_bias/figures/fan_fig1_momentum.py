"""The momentum version of Figure 1 of Fan et al.: Signum, NMGD and Adam."""

from __future__ import annotations

from implicit_bias.figures.base import FIGURES, PerPreset, Preset, one_line
from implicit_bias.figures.fan import MOMENTUM, STEPS
from implicit_bias.figures.gaps import GapFigure


@FIGURES.register
class FanFig1Momentum(GapFigure):
    """Momentum and Adam without a stability constant keep the bias of the method they are built on."""

    name = "fan_fig1_momentum"
    order = 12
    title = "Momentum keeps the norm, and Adam's is the max-norm"
    source = "Fan et al., arXiv 2502.04664, App. A and G"
    paper = "fan"
    minutes = PerPreset(smoke=0.2, default=0.3, paper=0.3)
    methods = MOMENTUM

    def caption(self, preset: Preset) -> str:
        return one_line(f"""
            As fan_fig1, {STEPS.at(preset):,} steps, with momentum .9: Signum (lr .01), NMGD (lr .1), and Adam without bias
            correction and with eps = 0 (lr .01), for two values of beta2. The appendix's settings are not known; these are the
            defaults of a published program with the same data.
        """)
