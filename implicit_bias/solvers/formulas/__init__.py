"""Maximum margins of networks in closed form, where there is one."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from implicit_bias.core.errors import BadInput
from implicit_bias.models import Model
from implicit_bias.norms import Norm
from implicit_bias.solvers.formulas.base import Formula, KnownOptimum, Margin
from implicit_bias.solvers.formulas.modular_addition import ModularAddition
from implicit_bias.solvers.formulas.unconstrained_features import UnconstrainedFeatures

__all__ = ["FORMULAS", "Formula", "KnownOptimum", "Margin", "known_optima"]

FORMULAS: tuple[Formula, ...] = (UnconstrainedFeatures(), ModularAddition())


def known_optima(
    model: Model, x: NDArray[np.float64], y: NDArray[np.int64], num_classes: int, norms: Iterable[Norm]
) -> dict[str, KnownOptimum]:
    """The maximum margins of a network that are known in closed form.

    Args:
        model: The network, with its keys.
        x: Samples (n, d).
        y: Labels (n,).
        num_classes: k.
        norms: Those that are measured.

    Returns:
        Optima by label, of those of the norms in which they are known.

    Raises:
        BadInput: there is no formula for this model on these data, or in none of the norms.
    """
    for formula in FORMULAS:
        margin = formula.margin(model, x, y, num_classes)
        if margin is not None:
            values = {norm.label: margin(norm) for norm in norms}
            found = {label: KnownOptimum(label, value, value, formula.name) for label, value in values.items() if value}
            if found:
                return found
            raise BadInput(
                f"reference=formula: there is none in {', '.join(values)}; allowed: log.norms with some of {formula.norms}"
            )
    allowed = "; or ".join(formula.needs for formula in FORMULAS)
    raise BadInput(f"reference=formula: no closed form is known for model={model.name} on these data; allowed: {allowed}")
