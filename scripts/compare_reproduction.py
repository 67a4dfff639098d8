"""Compare with a numpy script after Gronich and Vardi's Figures 1 and 2: python scripts/compare_reproduction.py [seeds]

512 MNIST images, even against odd, width 64, squared ReLU, with the learning rates that were found there by hand, each run at its
first step with a loss below 1e-8. Writes results/reproduction.csv: margins under four norms, own-norm alignment and test accuracy
(mean and standard deviation over seeds) beside the script's. It takes long; finished runs are kept.
"""

import sys
from pathlib import Path

import pandas as pd

from implicit_bias import run
from implicit_bias.storage.files import atomic_write_bytes, csv_bytes

# Learning rate, own norm; there: own-norm margin and its spread, alignment, test accuracy, seeds.
THERE = {
    "ngd": (0.3, "l2", 0.158, 0.01, 0.82, 0.823, 2),
    "nmgd": (0.3, "l2", 0.165, 0.02, 0.96, 0.826, 4),
    "signum": (0.005, "linf", 4370.0, 600.0, 0.785, 0.859, 4),
    "adam": (0.005, "linf", 4270.0, 500.0, 0.781, 0.857, 4),
    "muon": (0.1, "spectral", 1.98, 0.09, 0.896, 0.930, 4),
    "muon_signum": (0.1, "hybrid0.1", 1100.0, None, None, 0.940, 1),
    "muon_adam": (0.1, "hybrid0.1", 1030.0, 90.0, None, 0.939, 4),
}
PROBLEM = (
    "experiment=gv_fig1", "dataset.samples=512", "dataset.test_samples=1000", "model.width=64", "steps=20000", "log.points=12",
)  # fmt: skip
NORMS = ("l2", "linf", "spectral", "hybrid0.1")


def row(optimizer: str, seeds: int) -> dict[str, object]:
    """One optimizer here and there."""
    lr, own, margin, spread, alignment, accuracy, there = THERE[optimizer]
    beta2 = ["optimizer.beta2=0.99"] if optimizer in ("adam", "muon_adam") else []
    typed = [*PROBLEM, f"optimizer={optimizer}", f"schedule.lr={lr}", f"seed=range(1,{seeds + 1})", *beta2]
    _, summary = run(*typed, multirun=True)
    mine = summary[summary["norm"] == own]
    means = {f"{norm}_margin": summary.loc[summary["norm"] == norm, "margin"].mean() for norm in NORMS}
    return {
        "optimizer": optimizer, "seeds": len(mine), "own": own, "steps": mine["step"].mean(),
        "reached": int((mine["log_loss"] < -18.4).sum()), "margin": mine["margin"].mean(), "spread": mine["margin"].std(),
        "alignment": mine["alignment"].mean(), "test_accuracy": mine["test_accuracy"].mean(), **means,
        "there_margin": margin, "there_spread": spread, "there_alignment": alignment, "there_test_accuracy": accuracy,
        "there_seeds": there,
    }  # fmt: skip


def main() -> int:
    """Run what has not been run, print the table and write it."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 4
    table = pd.DataFrame([row(optimizer, seeds) for optimizer in THERE])
    short = table.assign(**{c: table[c].map(lambda v: float(f"{v:.4g}")) for c in table.select_dtypes("float").columns})
    print(short.drop(columns=[f"{norm}_margin" for norm in NORMS]).to_string(index=False))
    atomic_write_bytes(Path("results") / "reproduction.csv", csv_bytes(short))
    return 0


if __name__ == "__main__":
    sys.exit(main())
