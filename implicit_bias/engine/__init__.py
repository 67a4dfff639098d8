"""The engine: a batch of runs in, their trajectories out. It knows tensors only: no files, no configuration."""

from implicit_bias.engine.simulate import Diverged, Keep, Problem, Snapshot, Trajectory, Watch, simulate, stepping_of

__all__ = ["Diverged", "Keep", "Problem", "Snapshot", "Trajectory", "Watch", "simulate", "stepping_of"]
