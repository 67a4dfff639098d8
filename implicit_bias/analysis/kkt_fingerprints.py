"""Which norm's margin problem the parameters of a network are near a KKT direction of: its KKT ratio over the exponents.

No optimum of a network is known. In the place of kappa stands the KKT ratio (:mod:`implicit_bias.measures.kkt`), which is 1
exactly at the KKT directions of the problem; what is found is proven from below only, as weights on the gaps are looked for by a
few products.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from implicit_bias.analysis.fingerprints import MOST_REFINEMENTS, Fingerprint
from implicit_bias.analysis.weights import Weights
from implicit_bias.config.spec import constructed, torch_device
from implicit_bias.core.errors import BadInput
from implicit_bias.losses import LOSSES
from implicit_bias.measures.exponents import GRID, Array, Curve, Fit, exponent, neighbourhood, trend
from implicit_bias.measures.kkt import KktRatios
from implicit_bias.measures.margins import over_power
from implicit_bias.models import MODELS, Data
from implicit_bias.norms import ParameterNorm, make_norm, over_blocks

# Jacobian products a norm and record.
PRODUCTS = 60


class _Network:
    """One run's network on its data, its records as a batch."""

    def __init__(self, run: Weights, device: str) -> None:
        assert run.config is not None
        model = constructed(MODELS, run.config["model"])
        if not model.homogeneous:
            raise BadInput(f"{run.run}: the model is not homogeneous; must be, no KKT ratio is defined otherwise")
        if device == "cuda" and not torch.cuda.is_available():
            raise BadInput("device=cuda: no CUDA GPU is available here; allowed: auto, cpu")
        place = torch_device(device)
        x, y = torch.from_numpy(run.dataset.x)[None], torch.from_numpy(run.dataset.y)[None]
        self.data = Data(x.to(place), y.to(place), run.dataset.num_classes)
        self.parameters = {name: block.to(place) for name, block in run.blocks.items()}
        records = len(next(iter(run.blocks.values())))
        start = model.initial(self.data, [run.config["seed"]])
        frozen = {name: start[name].expand(records, -1, -1) for name in model.frozen_blocks()}
        self.objective = model.objective(self.data, constructed(LOSSES, run.config["loss"]), frozen)
        self.degree = model.degree()
        self.hidden = model.hidden_matrices(list(self.parameters))
        self.bases = model.row_bases(self.data)
        gradient = self.objective.gradient(self.parameters)
        assert gradient.weights is not None
        self.gradient, self.weights, self.c = gradient, gradient.weights(), gradient.per_weight()
        gaps = -self.objective.negative_gaps(self.parameters)
        self.q = gaps.amin(dim=(-2, -1))
        self.derivatives = self.objective.derivatives(self.parameters)
        self.searches: dict[str, KktRatios] = {}

    def norm(self, family: str, u: float) -> ParameterNorm:
        return over_blocks(make_norm(family, p=exponent(u)), list(self.parameters), self.bases, self.hidden)

    def ratios(self, family: str, us: Sequence[float]) -> dict[float, tuple[Array, Array]]:
        """Margins and KKT ratios of the records by exponent; each search begins at the weights of the exponent before it."""
        if family not in self.searches:
            self.searches[family] = KktRatios(self.objective, self.degree, PRODUCTS)
            self.searches[family].collect(0, self.gradient)
        search, found = self.searches[family], {}
        for u in us:
            norm = self.norm(family, u)
            ratio = search.best(family, norm, self.parameters, self.c, self.weights, self.q, at=self.derivatives)
            margin = over_power(self.q, norm.value(self.parameters), self.degree)
            found[u] = margin.double().cpu().numpy(), ratio.clamp(max=1).double().cpu().numpy()
        return found


def kkt_fingerprints(run: Weights, families: Sequence[str], device: str, notify: Callable[[str], None]) -> dict[str, Fingerprint]:
    """The fingerprint of a network's run in each family.

    Raises:
        BadInput: the model is not homogeneous.
    """
    notify(f"{run.run}: looking for KKT ratios")
    with torch.no_grad():
        network = _Network(run, device)
        return {family: _fingerprint(network, run, family) for family in families}


def _fingerprint(network: _Network, run: Weights, family: str) -> Fingerprint:
    found = network.ratios(family, GRID)
    for _ in range(MOST_REFINEMENTS):
        us = sorted(found)
        last = _curve(found, us, -1)
        if not last.separated:
            break
        lacking = [u for u in neighbourhood(float(last.u[last.lower.argmax()])) if u not in found]
        if not lacking:
            break
        found.update(network.ratios(family, lacking))
    us = sorted(found)
    curves = tuple(_curve(found, us, record) for record in range(len(network.q)))
    margins = np.stack([found[u][0] for u in us], axis=-1)
    return Fingerprint(tuple(us), margins, curves, np.full(len(us), np.nan), _fit(run, curves), certified=False)


def _curve(found: dict[float, tuple[Array, Array]], us: Sequence[float], record: int) -> Curve:
    ratio = np.array([found[u][1][record] for u in us])
    return Curve(np.array(us), ratio, ratio)


def _fit(run: Weights, curves: Sequence[Curve]) -> Fit | None:
    last = curves[-1]
    if not last.separated:
        return None
    kappa = float(last.lower.max())
    heights = [curve.peak()[1] if curve.separated else math.nan for curve in curves]
    falls = trend(run.steps, heights) if len(run.steps) > 1 else math.nan
    return Fit(last.peak()[0], *last.interval(), kappa=kappa, upper=kappa, trend=falls, network=True)
