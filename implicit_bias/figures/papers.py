"""The papers whose figures and theorems are put to the test here; a figure names its own by key."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """A section of the report.

    Attributes:
        key: What a figure's ``paper`` says.
        title: As printed.
        authors: Family names; empty for what is this project's own.
        arxiv: Its arXiv id; empty where it has none that is known here.
    """

    key: str
    title: str
    authors: str = ""
    arxiv: str = ""

    @property
    def url(self) -> str:
        """Where the paper is; empty where that is not known, and for what is this project's own."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else ""

    @property
    def short(self) -> str:
        """The authors, or what stands for them, where there is little room."""
        return self.authors or self.title


#: Of figures that test this project, or measurements that are in no paper.
OWN = Paper("own", "This project's own checks")
PAPERS = {
    paper.key: paper
    for paper in (
        Paper(
            "fan",
            "Implicit Bias of Spectral Descent and Muon on Multiclass Separable Data",
            "Fan, Schmidt and Thrampoulidis",
            "2502.04664",
        ),
        Paper("two_faces", "On the Two Faces of Adam in Separable Linear Classification", "Fan and Szepesvari", "2609.33904"),
        Paper(
            "gronich_vardi",
            "The Implicit Bias of Adam and Muon on Smooth Homogeneous Neural Networks",
            "Gronich and Vardi",
            "2602.16340",
        ),
        Paper("lyu_li", "Gradient Descent Maximizes the Margin of Homogeneous Neural Networks", "Lyu and Li", "1906.05890"),
        Paper(
            "flavors",
            "Flavors of Margin: Implicit Bias of Steepest Descent in Homogeneous Neural Networks",
            "Tsilivis, Gronich, Kempe and Vardi",
            "2410.22069",
        ),
        Paper(
            "nesgd",
            "An Exploration of Non-Euclidean Gradient Descent: Muon and its Many Variants",
            "Crawshaw, Modi, Liu and Gower",
            "2510.09827",
        ),
        Paper("not_optimal", "On Margin Maximization in Linear and ReLU Networks", "Vardi, Shamir and Srebro", "2110.02732"),
        Paper("natural", "Is All Learning (Natural) Gradient Descent?", "Shoji, Suzuki and Kozachkov", "2409.16422"),
        Paper("acceleration", "Faster Acceleration for Steepest Descent", "Bai and Bullins", "2409.19200"),
        Paper("infinite", "The Method of Infinite Descent", "Batley and Saha", "2510.05489"),
        Paper(
            "fromage",
            "On the Distance between Two Neural Networks and the Stability of Learning",
            "Bernstein, Vahdat, Yue and Liu",
            "2002.03432",
        ),
        Paper("anthology", "Old Optimizer, New Norm: An Anthology", "Bernstein and Newhouse", "2409.20325"),
        Paper(
            "liang_sur",
            "A Precise High-Dimensional Asymptotic Theory for Boosting and Minimum-l1-Norm Interpolated Classifiers",
            "Liang and Sur",
            "2002.01586",
        ),
        Paper(
            "large_steps",
            "Large Stepsize Gradient Descent for Logistic Loss: Non-Monotonicity of the Loss Improves Optimization Efficiency",
            "Wu, Bartlett, Telgarsky and Yu",
            "2402.15926",
        ),
        Paper(
            "row_normalization",
            "From Geometry to Generalization: Why Row Normalization Can Beat Adam and Muon",
            "Kim, Song and Yun",
        ),
        Paper(
            "imbalance",
            "Heavy-Tailed Class Imbalance and Why Adam Outperforms Gradient Descent on Language Models",
            "Kunstner, Yadav, Milligan, Schmidt and Bietti",
            "2402.19449",
        ),
        Paper(
            "boosting",
            "The Dynamics of AdaBoost: Cyclic Behavior and Convergence of Margins",
            "Rudin, Daubechies and Schapire",
        ),
        Paper(
            "price",
            "The Price of Implicit Bias in Adversarially Robust Generalization",
            "Tsilivis, Frank, Srebro and Kempe",
            "2406.04981",
        ),
        Paper(
            "fast_margins",
            "Fast Margin Maximization via Dual Acceleration",
            "Ji, Srebro and Telgarsky",
            "2107.00595",
        ),
        Paper(
            "morwani",
            "Feature Emergence via Margin Maximization: Case Studies in Algebraic Tasks",
            "Morwani, Edelman, Oncescu, Zhao and Kakade",
            "2311.07568",
        ),
        Paper(
            "grokking",
            "Dichotomy of Early and Late Phase Implicit Biases Can Provably Induce Grokking",
            "Lyu, Jin, Li, Du, Lee and Hu",
            "2311.18817",
        ),
        OWN,
    )
}


#: Of Fan et al.'s Figures 1 and 2. The data are published, so there is one seed and no spread over seeds to give.
PUBLISHED = "the published Gaussian mixture (10 classes, 25 features, 50 samples a class, noise 1, seed 1)"
MIXTURE = "a Gaussian mixture (10 classes, 25 features, 10 samples a class, noise 1)"
