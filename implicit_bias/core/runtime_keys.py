"""The keys that say how a run is computed and kept, and not what it computes."""

#: They are no part of a run's hash, and cannot be swept.
RUNTIME_KEYS = ("device", "reference_timeout", "results_dir", "name", "force", "progress", "compile", "hydra", "launcher")
