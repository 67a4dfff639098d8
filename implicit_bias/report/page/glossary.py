"""The words of the report's tables, with their formulas."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Term:
    """A word of the tables.

    Attributes:
        name: The word.
        formula: In plain signs; ``_`` and ``^`` mean an index and a power, over several letters in braces.
        text: What it says.
    """

    name: str
    formula: str
    text: str


GLOSSARY = (
    Term(
        "margin",
        "γ_N(θ) = min_{i, c ≠ y_i} [f_{y_i}(x_i; θ) − f_c(x_i; θ)] / N(θ)^L",
        "The least gap between the score of the right class and any other, over the norm N of the parameters to the power of the "
        "model's degree of homogeneity L (1 for a linear model). Positive once every sample is classified.",
    ),
    Term(
        "max margin",
        "γ*_N = max_θ γ_N(θ)",
        "The largest margin there is under a norm N: of linear models, computed and certified.",
    ),
    Term(
        "certificate",
        "γ_N(θ_t) ≤ γ*_N ≤ N_*(Σ w_{ic} (e_{y_i} − e_c) x_i^T)",
        "A proven interval for the max margin of a linear model. Any weights w ≥ 0 that add up to one give an upper bound; "
        "those of the loss gradient are free. N_* is the dual norm.",
    ),
    Term(
        "ratio",
        "γ_N(θ) / γ*_N",
        "The share of the max margin that is reached; at most 1, and negative before all samples are classified.",
    ),
    Term(
        "relative gap",
        "|γ*_N − γ_N(θ)| / γ*_N",
        "What is missing to the max margin, as a share of it; 1 where the margin turns positive.",
    ),
    Term(
        "correlation",
        "⟨θ, θ*_N⟩ / (‖θ‖_2 ‖θ*_N‖_2)",
        "The cosine between the parameters and the separator of largest margin under N.",
    ),
    Term(
        "alignment",
        "a_N(θ) = ⟨θ, −∇ℒ⟩ / (N(θ) N_*(∇ℒ))",
        "How far parameters and negative loss gradient point the same way, as the norm N sees it; tends to 1 at a KKT direction.",
    ),
    Term(
        "KKT ratio",
        "κ_N(θ) = max_w L q(θ) / (N(θ) N_*(Σ w_j ∇q_j(θ))) ≤ 1",
        "With q_j the gaps and q the least of them; equal to 1 exactly where θ is a KKT direction of the margin problem under N. "
        "Reported is a proven lower bound. On a linear model it is the ratio.",
    ),
    Term(
        "own norm",
        "θ_{t+1} = θ_t − η_t argmax_{N(u) ≤ 1} ⟨u, g_t⟩",
        "The norm in which an optimizer takes steepest descent steps, and whose margin theory says it maximises: linf for "
        "SignGD, Signum and Adam, l2 for GD, NGD and NMGD, spectral for Spectral-GD and Muon.",
    ),
)
