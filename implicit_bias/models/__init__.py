"""Models f(x; theta), homogeneous in theta, batched over runs."""

from implicit_bias.models.base import MODELS, Data, Gradient, Model, Objective, Parameters, Quick

__all__ = ["MODELS", "Data", "Gradient", "Model", "Objective", "Parameters", "Quick"]
