"""The probes that there are. What a probe is stands in :mod:`implicit_bias.measures.probe`."""

from typing import Any, TypeVar

from implicit_bias.core.registry import Registry
from implicit_bias.measures.probe import Columns, Probe, Record

__all__ = ["PROBES", "TAKEN", "Columns", "Probe", "Record"]

C = TypeVar("C", bound=type[Any])

#: Columns that trajectory.csv, summary.csv or the table of a sweep have by themselves.
TAKEN = frozenset(
    (
        *("seed", "step", "lr", "log_loss", "accuracy", "norm", "margin", "max_margin", "relative_gap", "upper_bound"),
        *("correlation", "alignment", "kkt_ratio", "param_norm", "soft_margin", "later_cosine", "test_accuracy", "evaluations"),
        *("fw_gap", "robust_accuracy", "layer_margin", "layer_alignment"),
        *("optimizer", "own", "ratio", "optimum_lower", "optimum_upper", "gap_constant", "wall_seconds", "folder"),
    )
)


class _Probes(Registry):
    def register(self, cls: C) -> C:
        """As for every registry. Raises ValueError where the probe would write a column that is there without it."""
        assert issubclass(cls, Probe), f"{cls.__name__} is no Probe"
        taken = sorted(TAKEN & {*cls.writes()})
        if taken:
            raise ValueError(f"probe {cls.name}: column {taken[0]} is written without it; choose another name")
        return super().register(cls)


PROBES = _Probes("implicit_bias.probes", "probe")
