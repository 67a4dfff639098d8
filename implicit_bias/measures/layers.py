"""Margin and alignment layer by layer, for networks that are homogeneous in every layer alone.

Where f is homogeneous of degree k_l in W_l, Euler's identity gives <W_l, -g_l> = k_l sum_j w_j m_j for every l. The KKT
conditions under max_l s_l N_l, under sqrt(sum_l (s_l N_l)^2) and under any other monotone composition are then the same: that
every layer's alignment <W_l, -g_l> / (N_l(W_l) N_l*(g_l)) is 1. Compositions and weights of layers only change the layers' sizes
beside each other, which a rescaling that leaves f unchanged undoes; what no rescaling changes is q / prod_l N_l(W_l)^k_l. Norms
of several layers at once, such as the max-norm of all parameters, are not of this kind: of them N_l is what is left for one
layer alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from implicit_bias.measures.probe import Columns, Probe, Record
from implicit_bias.norms import ParameterNorm


@dataclass
class LayerMargins(Probe):
    """layer_margin = q / prod_l N_l(W_l)^k_l, and layer_alignment, the least alignment of a layer; empty where f is not
    homogeneous in every layer, as with biases, or a layer is zero.

    Attributes:
        degrees: k_l by block; empty where there are none.
    """

    name: ClassVar[str] = "layers"
    columns: ClassVar[tuple[str, ...]] = ("layer_margin", "layer_alignment")

    degrees: Mapping[str, float]

    def under(self, record: Record, label: str, norm: ParameterNorm, columns: Mapping[str, Tensor]) -> Columns:
        if set(self.degrees) != set(record.parameters):
            nothing = torch.full_like(record.q, torch.nan)
            return dict.fromkeys(self.columns, nothing)
        point = record.point
        sizes, duals = point.sizes.of_each_block(norm), point.c_sizes.duals_of_each_block(norm)
        sizes = sizes.masked_fill(sizes == 0, torch.nan)
        # One after the other: the order of a sum that PyTorch makes may depend on how many runs there are.
        log_size = torch.zeros_like(record.q)
        for name, log in zip(record.parameters, sizes.log(), strict=True):
            log_size = log_size + self.degrees[name] * log
        return {"layer_margin": point.over(log_size), "layer_alignment": (point.descents / (sizes * duals)).amin(dim=0)}
