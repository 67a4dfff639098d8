"""Isolation of failures: a batch that fails is computed again cell by cell, one that exceeds the memory in halves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from implicit_bias.cli.messages import warn
from implicit_bias.config.plugin_files import plugins_in
from implicit_bias.config.spec import RunSpec
from implicit_bias.core.errors import BadInput, RunFailed
from implicit_bias.runtime.memory import is_out_of_memory
from implicit_bias.sweep.outcome import Kind, Outcome
from implicit_bias.sweep.plan import Cell, described

#: Computes cells as one batch; it may raise anything.
Attempt = Callable[[Sequence[Cell]], list[Outcome]]


def isolated(batch: Sequence[Cell], attempt: Attempt) -> list[Outcome]:
    """The outcomes of one batch. A batch that exceeds the memory is halved, one that fails is computed cell by cell."""
    try:
        return attempt(batch)
    except OSError as error:
        return [io_failure(cell, error) for cell in batch]
    except BadInput as error:
        return _one_by_one(batch, attempt, error, "bad_input")
    except Exception as error:  # noqa: BLE001 - whatever it is, the other cells are to finish
        if not is_out_of_memory(error):
            return _one_by_one(batch, attempt, error, "internal")
    # Out of memory. Here, for an error that is being handled keeps alive all that its frames refer to.
    return _halved(batch, attempt)


def io_failure(cell: Cell, error: OSError) -> Outcome:
    """The outcome of a cell whose files cannot be written."""
    reason = error.strerror or str(error)
    message = f"results_dir={cell.spec.results_dir}: cannot be written ({reason[:1].lower()}{reason[1:]})"
    return Outcome(cell.spec, None, "failed", message, "io")


def _halved(batch: Sequence[Cell], attempt: Attempt) -> list[Outcome]:
    """The outcomes of a batch that was too large for the memory."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if len(batch) == 1:
        spec = batch[0].spec
        device = spec.torch_device.type
        message = f"device={device}: out of memory, a single run of this size does not fit; use fewer samples or a smaller model"
        return [Outcome(spec, None, "failed", message, "internal")]
    half = len(batch) // 2
    warn(f"{described(batch)}: out of memory; computed as {half} and {len(batch) - half} runs instead")
    return [outcome for part in (batch[:half], batch[half:]) for outcome in isolated(part, attempt)]


def _one_by_one(batch: Sequence[Cell], attempt: Attempt, error: Exception, kind: Kind) -> list[Outcome]:
    if len(batch) == 1:
        said = " ".join(str(error).split())
        spec = batch[0].spec
        message = said if isinstance(error, BadInput | RunFailed) else f"{type(error).__name__}: {said}{_from_outside(spec)}"
        return [Outcome(spec, None, "failed", message, kind)]
    return [isolated([cell], attempt)[0] for cell in batch]


def _from_outside(spec: RunSpec) -> str:
    """Which of a run's options are not the package's own, and may be where an error comes from."""
    used = plugins_in(spec)
    return " (with " + ", ".join(f"{name} of {option['file']}" for name, option in used.items()) + ")" if used else ""
