"""Columns of the trajectory that are asked for by name (log.probes); one file each."""

from implicit_bias.probes.base import PROBES, Columns, Probe, Record

__all__ = ["PROBES", "Columns", "Probe", "Record"]
