"""Models f(x; theta), homogeneous in theta, batched over runs."""

from implicit_bias.core.data import Data, Parameters
from implicit_bias.models.base import MODELS, Model, Objective
from implicit_bias.models.gradient import Gradient, Quick

__all__ = ["MODELS", "Data", "Gradient", "Model", "Objective", "Parameters", "Quick"]
