"""Running many cells: planning batches, solving references, computing, writing."""

from implicit_bias.sweep.execute import execute
from implicit_bias.sweep.outcome import Outcome, Progress, Silent

__all__ = ["Outcome", "Progress", "Silent", "execute"]
