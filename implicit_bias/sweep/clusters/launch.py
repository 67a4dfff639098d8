"""Where the batches of a sweep are computed: in this process, in several of this machine, or as jobs of a Slurm cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial

from implicit_bias.cli.messages import warnings_told
from implicit_bias.config.run_settings import LauncherSettings
from implicit_bias.config.spec import RunSpec
from implicit_bias.runtime.processors import available_processors, worker_devices, worker_threads
from implicit_bias.sweep.batch_size import fitting
from implicit_bias.sweep.clusters.local import run_local
from implicit_bias.sweep.clusters.tasks import Ledger, Task, spread, stamp
from implicit_bias.sweep.execute import execute, interrupted_batches
from implicit_bias.sweep.loading import prepared
from implicit_bias.sweep.outcome import Outcome, Progress, Silent
from implicit_bias.sweep.plan import Cell, batches
from implicit_bias.sweep.tidying import still_there, tidy_after, tidy_before


def launch(
    specs: Sequence[RunSpec],
    launcher: LauncherSettings,
    *,
    command: str,
    progress: Progress | None = None,
    on_outcome: Callable[[int, Outcome], None] | None = None,
    on_plan: Callable[[Mapping[Hashable, Sequence[int]]], None] | None = None,
) -> list[Outcome]:
    """As :func:`implicit_bias.sweep.execute.execute`, on the cluster that ``launcher`` names.

    Args:
        specs: What is to be computed.
        launcher: The section ``launcher`` of a configuration.
        command: What the user typed, for the provenance.
        progress: Told how all cells together are getting on.
        on_outcome: Told the place and outcome of each cell as soon as it is known, in this thread.
        on_plan: Told once, when all finished runs are found, and before any other is begun, which cells, by place, each piece of
            ``progress.work`` is to compute.

    Returns:
        One outcome a cell, in order.

    Raises:
        BadInput: Slurm is asked for and cannot be used, or refuses the jobs; the message says why.
    """
    watcher, tell = progress or Silent(), on_outcome or (lambda index, outcome: None)
    if launcher.cluster == "inline":
        if on_plan is not None:
            on_plan({})
        outcomes = execute(specs, command=command, progress=watcher)
        for index, outcome in enumerate(outcomes):
            tell(index, outcome)
        return outcomes
    if launcher.cluster == "slurm":
        from implicit_bias.sweep.clusters.slurm import check_slurm

        check_slurm()
    ledger = Ledger([None] * len(specs), {}, watcher, tell, on_plan or (lambda pieces: None))
    ready: list[Cell] = []
    watcher.status("looking for finished runs")
    tidy_before(specs)
    with warnings_told(ledger.warn):
        for found in prepared(specs):
            if isinstance(found, Cell):
                ready.append(found)
                ledger.stamps[found.index] = stamp(found.directory)
            else:
                ledger.settle(*found)
        if not ready:
            ledger.on_plan({})
        else:
            watcher.status("starting")
            compute = _on_slurm if launcher.cluster == "slurm" else _on_workers
            compute(ready, launcher, ledger, command)
    tidy_after(specs)
    return still_there(outcome for outcome in ledger.outcomes if outcome is not None)


def local_launcher(workers: int) -> LauncherSettings:
    """The section ``launcher`` of ``workers`` processes, for callers without a configuration."""
    return LauncherSettings(cluster="local", workers=workers)


def _on_workers(ready: Sequence[Cell], launcher: LauncherSettings, ledger: Ledger, command: str) -> None:
    cores = available_processors()
    devices = visible_devices() if any(cell.spec.device != "cpu" for cell in ready) else []
    workers = launcher.workers or len(devices) or cores
    threads = worker_threads(workers, cores, os.environ)
    environments = [{**threads, **device} for device in worker_devices(workers, devices)]
    ledger.sharing = -(-workers // len(devices)) if devices else workers
    tasks = [Task(number, batch) for number, batch in enumerate(_planned(ready, workers, ledger.sharing))]
    ledger.begin(tasks, workers)
    run_local(tasks, environments, ledger, command)


def _on_slurm(ready: Sequence[Cell], launcher: LauncherSettings, ledger: Ledger, command: str) -> None:
    from implicit_bias.sweep.clusters.slurm import run_slurm

    plan = _planned(ready, launcher.array_parallelism or 1)
    tasks = [Task(number, batch) for number, batch in enumerate(plan)]
    ledger.begin(tasks, launcher.array_parallelism or len(tasks))
    run_slurm(tasks, launcher, ledger, command)


def _planned(ready: Sequence[Cell], workers: int, sharing: int = 1) -> list[list[Cell]]:
    """Batches for so many workers, of which ``sharing`` share a memory: those that were interrupted as they were, so that they go
    on from their checkpoints, and the others shared out.
    """
    begun = interrupted_batches(ready)
    plan = batches(ready, begun, partial(fitting, sharing=sharing))
    names = set(map(tuple, begun))
    again = [batch for batch in plan if tuple(cell.directory.name for cell in batch) in names]
    return [*again, *spread([batch for batch in plan if batch not in again], workers)]


def visible_devices() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip()] if torch.cuda.is_available() else []
    return [str(index) for index in range(torch.cuda.device_count())]
