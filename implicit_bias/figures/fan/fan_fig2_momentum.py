"""The momentum version of Figure 2 of Fan et al.: Signum, NMGD and Adam."""

from __future__ import annotations

from implicit_bias.figures.base import FIGURES, PerPreset, Preset, one_line
from implicit_bias.figures.fan.common import MOMENTUM, STEPS
from implicit_bias.figures.fan.correlations import CorrelationFigure
from implicit_bias.figures.papers import PUBLISHED


@FIGURES.register
class FanFig2Momentum(CorrelationFigure):
    """Momentum and Adam without a stability constant turn towards the separator of their own norm."""

    name = "fan_fig2_momentum"
    headline = "Adam, beta2 = 0.9: correlations"
    order = 13
    title = "Directions of the momentum methods and of Adam"
    source = "Fan et al., arXiv 2502.04664, App. A and G"
    kind = "paper"
    paper = "fan"
    minutes = PerPreset(smoke=0.1, default=0.2, paper=0.1)
    methods = MOMENTUM

    def caption(self, preset: Preset) -> str:
        return one_line(f"""
            Cosine with the max-margin separator of each norm against the step, for the {STEPS.at(preset):,}-step runs of
            fan_fig1_momentum on {PUBLISHED}. The thick curve is the method's own norm.
        """)
