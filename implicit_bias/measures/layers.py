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
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from implicit_bias.measures.probe import Columns, Probe, Record
from implicit_bias.models import Parameters
from implicit_bias.norms import ParameterNorm
from implicit_bias.norms.sizes import Sizes


@dataclass
class LayerMargins(Probe):
    """layer_margin = q / prod_l N_l(W_l)^k_l, and layer_alignment, the least alignment of a layer; empty where f is not
    homogeneous in every layer, as with biases, or a layer is zero.

    Attributes:
        degrees: k_l by block; empty where there are none.
        downhill: -g at the last record, one tensor (R, p, q) a block, in any unit of each run's own.
    """

    name: ClassVar[str] = "layers"
    columns: ClassVar[tuple[str, ...]] = ("layer_margin", "layer_alignment")

    degrees: Mapping[str, float]
    downhill: Parameters = field(default_factory=dict)

    def measure(self, record: Record) -> Columns:
        self.downhill = record.gradient.downhill()
        return {}

    def under(self, record: Record, label: str, norm: ParameterNorm, columns: Mapping[str, Tensor]) -> Columns:
        if set(self.degrees) != set(record.parameters):
            nothing = torch.full_like(record.q, torch.nan)
            return dict.fromkeys(self.columns, nothing)
        log_size, alignments = torch.zeros_like(record.q), []
        for name, degree in self.degrees.items():
            of_layer, w, c = norm.of_block(name), record.parameters[name], self.downhill[name]
            sizes, duals = (Sizes({name: block}, record.routines) for block in (w, c))
            size = sizes.value(of_layer)
            size = torch.where(size == 0, torch.full_like(size, torch.nan), size)
            log_size = log_size + degree * size.log()
            alignments.append((w * c).sum(dim=(-2, -1)) / (size * duals.dual(of_layer)))
        margin = record.q.sign() * (record.q.abs().log() - log_size).exp()
        return {"layer_margin": margin, "layer_alignment": torch.stack(alignments).amin(dim=0)}
