"""The keys that say how a run is computed and kept, and not what it computes."""

from collections.abc import Mapping
from typing import Any

#: They are no part of a run's hash, and cannot be swept.
RUNTIME_KEYS = (
    "device", "reference_timeout", "results_dir", "name", "force", "progress", "certificate", "compile", "hydra", "launcher",
)  # fmt: skip
#: Keys that change nothing at these values, and came later than folders that are to be found again.
UNUSED: tuple[tuple[str, object], ...] = (
    ("start", None),
    ("start_scale", 1.0),
    ("batch", {"size": None, "order": "reshuffle"}),
    ("batch", {"size": None, "order": "reshuffle", "variance_reduction": "none"}),
    ("batch.order", "reshuffle"),
    ("batch.variance_reduction", "none"),
    ("norm.outer", "max"),
    ("norm.rest", "linf"),
    ("norm.layer_weights", None),
    ("model.blocks", None),
    ("model.perturbation", None),
    ("model.eps", 0.0),
    ("log.probes", []),
    ("optimizer.clip", None),
    ("optimizer.truncate", False),
    ("optimizer.lower", 0.0),
    ("optimizer.stale", False),
    ("optimizer.first", "zero"),
    ("optimizer.published", False),
    ("optimizer.weight_decay", 0.0),
    ("dataset.rotate", None),
    ("optimizer.average", None),
    ("optimizer.interpolation", 0.9),
)
#: The same of keys that other options of a group have as well: group, option, key, value.
UNUSED_BY: tuple[tuple[str, str, str, object], ...] = (
    ("optimizer", "sd", "beta", 0.0),
    ("optimizer", "shampoo", "accumulation", "none"),
    ("optimizer", "shampoo", "beta2", 0.95),
    ("optimizer", "shampoo", "eps", 0.0),
    ("optimizer", "shampoo", "exponent", 0.25),
    ("optimizer", "muon_ns", "eps", 0.0),
    ("optimizer", "muon_ns", "coefficients", "jordan"),
    ("optimizer", "muon_ns", "dtype", "float64"),
    ("dataset", "file", "classes", None),
    ("dataset", "file", "leave_out", None),
    ("dataset", "file", "standardize", False),
    ("dataset", "file", "bias", False),
    ("dataset", "gaussian_mixture", "test_samples", 0),
    ("dataset", "random_labels", "test_samples", 0),
    ("dataset", "linear_teacher", "features", "gaussian"),
)


def used(group: str, keys: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a section that are part of what a run is: not those that change nothing at their value.

    Args:
        group: The section's name.
        keys: Its keys; ``name`` is that of the option.
    """
    option = str(keys.get("name"))
    return {
        key: value
        for key, value in keys.items()
        if (f"{group}.{key}", value) not in UNUSED and (group, option, key, value) not in UNUSED_BY
    }
