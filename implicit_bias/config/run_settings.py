"""The keys of a run that belong to no group: their defaults, ranges and meanings. The standard library alone, for ``--help``.

``configs/config.yaml`` repeats the defaults and the meanings for those who read it; a test compares the two.
"""

from dataclasses import dataclass
from typing import Literal

from implicit_bias.core.registry import MAX_SEED, hyper


@dataclass(frozen=True)
class RunSettings:
    """The keys that stand alone, ``steps`` for one."""

    seed: int = hyper(1, help="the run's seed; dataset.seed and a random initial point follow it", ge=0, le=MAX_SEED)
    steps: int = hyper(10_000, help="updates to make", ge=1)
    stop_log10_loss: float | None = hyper(
        None, help="end a run at its first step with a loss below 10^this, such as -8; null: make all steps", lt=0
    )
    start: str | None = hyper(
        None, help="a run folder: start from its last parameters (the model's shapes must agree); null: as model.init says"
    )
    start_scale: float = hyper(
        1.0, help="factor of the initial point: a separating one times 10 begins at a loss far below any double", gt=0
    )
    reference: Literal["auto", "exact", "certified", "formula", "none"] = hyper(
        "auto",
        help="optima to compare with; certified: first-order, in batches; formula: of networks; auto: exact, for networks none",
        choices=("auto", "exact", "certified", "formula", "none"),
    )
    reference_timeout: float = hyper(
        60.0,
        help="seconds for one optimum; past it the interval that is proven stands in its place, and it is tried again",
        gt=0,
    )
    precision: Literal["float64", "float32"] = hyper(
        "float64",
        help="of every computation; float32: seven digits, and the summary says what that costs",
        choices=("float64", "float32"),
    )
    device: Literal["auto", "cpu", "cuda"] = hyper(
        "auto", help="where to compute; auto: the GPU if there is one", choices=("auto", "cpu", "cuda")
    )
    results_dir: str = hyper("results", help="where runs/, the cache of references and sweeps go")
    name: str | None = hyper(None, help="name of the run's folder, before its hash; null for dataset-model-optimizer-seed")
    force: bool = hyper(False, help="true: compute again what is finished")
    progress: Literal["auto", "off"] = hyper(
        "auto", help="progress; auto: a bar on a terminal, else a line now and then", choices=("auto", "off")
    )
    certificate: Literal["hide", "show"] = hyper(
        "hide", help="show: a column with the interval that the run itself proves to hold the optimum", choices=("hide", "show")
    )
    compile: Literal["auto", "on", "off"] = hyper(
        "auto",
        help="compiled steps; auto: in C, or by a kernel on a GPU, where the run has them; else torch.compile for long runs",
        choices=("auto", "on", "off"),
    )


@dataclass(frozen=True)
class LogSettings:
    """The keys ``log.<field>``."""

    norms: list[str] = hyper(
        ("linf", "l1", "l2", "spectral", "nuclear"),
        help="norms to measure, the optimizer's own is added; also lp3, schatten1.5, row",
    )
    points: int = hyper(60, help="about how many log-spaced steps to record", ge=2, le=100_000)
    weights: Literal["last", "all", "none"] = hyper(
        "last", help="parameters to keep in final.npz; all: those of every record", choices=("last", "all", "none")
    )
    levels: float = hyper(
        0.0,
        help="also record the first step below 10^(-j/levels), j = 0, 1, ...; 2 for half decades of loss, 0: do not",
        ge=0,
        le=1000,
    )
    kkt_iters: int = hyper(
        20,
        help="Jacobian products for a KKT ratio (networks), effort to tighten the last certificate (linear); 0: none",
        ge=0,
        most=1_000_000,
    )
    probes: list[str] = hyper((), help="further columns, by the probes that measure them, such as [rank]")


@dataclass(frozen=True)
class LauncherSettings:
    """The keys ``launcher.<field>``: where batches are computed. Null: the default of the cluster that reads the key."""

    cluster: Literal["inline", "local", "slurm"] = hyper(
        "inline",
        help="where batches run (also hydra.launcher.cluster); inline: this process, local: several here",
        choices=("inline", "local", "slurm"),
    )
    workers: int | None = hyper(
        None, help="local: processes, which share the cores; null: one a GPU, without GPUs one a core", ge=1, le=1024
    )
    partition: str | None = hyper(None, help="slurm: the partition; null: the cluster's default")
    timeout_min: int | None = hyper(None, help="slurm: minutes a job may take before it is requeued; null: 60", ge=1)
    gpus_per_job: int | None = hyper(None, help="slurm: GPUs of a job; null: none", ge=0)
    cpus_per_job: int | None = hyper(None, help="slurm: cores of a job; null: 1", ge=1)
    array_parallelism: int | None = hyper(
        None, help="slurm: jobs at a time; null: 256. Few large batches are cut into so many", ge=1
    )
    max_array_size: int | None = hyper(None, help="slurm: jobs in an array, more are several arrays; null: ask Slurm", ge=1)
    max_requeues: int | None = hyper(None, help="slurm: times that a job past its time may go on; null: 10", ge=0)


@dataclass(frozen=True)
class BatchSettings:
    """The keys ``batch.<field>``: the samples that an update is made from."""

    size: int | None = hyper(
        None, help="samples of a mini-batch, from whose mean loss an update is made; at most all of them, null: all", ge=1
    )
    order: Literal["reshuffle", "cyclic", "replace"] = hyper(
        "reshuffle",
        help="order of mini-batches; reshuffle: anew every epoch, by seed, cyclic: in turn, replace: drawn with replacement",
        choices=("reshuffle", "cyclic", "replace"),
    )
    variance_reduction: Literal["none", "svrg"] = hyper(
        "none",
        help="of mini-batches; svrg: gradients corrected by the batch's and all samples' at a point renewed about once an epoch",
        choices=("none", "svrg"),
    )


#: Sections of keys that belong to no group.
SECTIONS: dict[str, type] = {"batch": BatchSettings, "log": LogSettings, "launcher": LauncherSettings}
