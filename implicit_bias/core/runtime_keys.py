"""The keys that say how a run is computed and kept, and not what it computes."""

#: They are no part of a run's hash, and cannot be swept.
RUNTIME_KEYS = ("device", "reference_timeout", "results_dir", "name", "force", "progress", "compile", "hydra", "launcher")
#: Keys that change nothing at these values, and came later than folders that are to be found again.
UNUSED: tuple[tuple[str, object], ...] = (
    ("start", None),
    ("start_scale", 1.0),
    ("norm.outer", "max"),
    ("norm.rest", "linf"),
    ("log.probes", []),
    ("optimizer.weight_decay", 0.0),
)
