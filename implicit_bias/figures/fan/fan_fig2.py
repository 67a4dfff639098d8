"""Figure 2 of Fan et al.: correlation with the max-margin separators, for the runs of Figure 1."""

from __future__ import annotations

from implicit_bias.figures.base import FIGURES, PerPreset, Preset, one_line
from implicit_bias.figures.fan.common import PLAIN, STEPS
from implicit_bias.figures.fan.correlations import CorrelationFigure
from implicit_bias.figures.papers import PUBLISHED


@FIGURES.register
class FanFig2(CorrelationFigure):
    """Each method turns towards the separator of its own norm."""

    name = "fan_fig2"
    headline = "Muon: the curves end where"
    order = 11
    title = "Each method turns towards its own norm's separator"
    source = "Fan et al., arXiv 2502.04664, Fig. 2"
    kind = "paper"
    paper = "fan"
    minutes = PerPreset(smoke=0.1, default=0.3, paper=0.1)
    methods = PLAIN

    def caption(self, preset: Preset) -> str:
        return one_line(f"""
            Cosine with the max-margin separator of each norm against the step, for the {STEPS.at(preset):,}-step runs of
            fan_fig1 on {PUBLISHED}. The thick curve is the method's own norm. The spectral separator is nearly degenerate, so
            its cosine is known to .005 only.
        """)
