"""The engine: a batch of runs in, their trajectories out. It knows tensors only: no files, no configuration."""

from implicit_bias.engine.problem import Problem
from implicit_bias.engine.simulate import Keep, Watch, simulate, stepping_of
from implicit_bias.engine.snapshot import Snapshot
from implicit_bias.engine.trajectory import Diverged, Trajectory

__all__ = ["Diverged", "Keep", "Problem", "Snapshot", "Trajectory", "Watch", "simulate", "stepping_of"]
