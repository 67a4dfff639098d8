"""Running many cells: planning batches, solving references, computing, writing."""

from implicit_bias.sweep.execute import Outcome, Progress, Silent, execute

__all__ = ["Outcome", "Progress", "Silent", "execute"]
