"""The baselines of the benchmark: optimizers as one writes them in plain PyTorch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class UsualOptimizer(torch.optim.Optimizer):
    """signgd, ngd, muon (momentum 0.9, exact polar factor by SVD) or adam (eps 0), as a torch-style optimizer."""

    def __init__(self, params: list[Tensor], name: str, lr: float) -> None:
        super().__init__(params, {"lr": lr, "name": name})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for w in group["params"]:
                w.sub_(group["lr"] * self.direction(group["name"], w.grad, self.state[w]))

    def direction(self, name: str, g: Tensor, state: dict[str, Any]) -> Tensor:
        """What a step of learning rate one subtracts, of a gradient; ``state`` is brought up to date."""
        if name == "signgd":
            return g.sign()
        if name == "ngd":
            unit: Tensor = g / g.norm()
            return unit
        t = state["t"] = state.get("t", 0) + 1
        m = state["m"] = state.get("m", torch.zeros_like(g)).lerp(g, 0.1)
        if name == "muon":
            u, s, vh = torch.linalg.svd(m, full_matrices=False)
            factor: Tensor = (u * (s > 1e-12 * s[0])) @ vh
            return factor
        v = state["v"] = state.get("v", torch.zeros_like(g)).lerp(g * g, 0.05)
        ratio: Tensor = (m / (1 - 0.9**t)) / (v / (1 - 0.95**t)).sqrt()
        return ratio
