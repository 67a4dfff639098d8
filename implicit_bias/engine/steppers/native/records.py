"""What a record needs of a batch that is stepped in C: loss, gradient, gaps and singular values, by linear.c."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from torch import Tensor

from implicit_bias.core.scaled import Scaled
from implicit_bias.engine.steppers.native.structures import CSeen
from implicit_bias.engine.steppers.native.threads import by_all
from implicit_bias.models import Objective, Parameters
from implicit_bias.models.gradient import Found, Gradient
from implicit_bias.norms.singular import singular_values
from implicit_bias.norms.sizes import EntrySizes, Routines

#: Shares out ``work(first, last)`` of so many things, each of a size, among threads that have so many numbers at least.
Share = Callable[[Callable[[int, int], None], int, int, int], None]
#: Cuts a matrix (R, k, d) into blocks of its columns.
Cut = Callable[[Tensor], Parameters]
#: Of matrices with more entries, singular values take less time one by one than in lanes.
MOST_ENTRIES = 1024
#: Numbers that a thread has at least to do with: of fewer it would take less time to do than to be told of it.
LEAST_OF_MATRICES, LEAST_OF_ENTRIES = 2**12, 2**17
#: Parts are of whole vectors of things: so many, whatever the processor's vectors are.
WHOLE = 8
SYMBOLS = ("singular_values", "singular_values_size", "entry_sizes")


class Seen:
    """Memory for what linear.c sees of R runs with n samples, k classes and d features.

    Args:
        shape: (R, n, k, d).
        by_entry: Whether log scales are those of entries, not of rows.
        averages: Whether the certificates' average is wanted.

    Attributes:
        parameters: W, (R, k, d).
        average: Of the certificates' matrices, (R, k, d), or None.
    """

    def __init__(self, shape: tuple[int, int, int, int], by_entry: bool, averages: bool = False) -> None:
        runs, n, k, d = shape
        # Each in memory of its own: who keeps one keeps no other.
        self.parameters, self._gradient, self._per_weight = (torch.empty(runs, k, d, dtype=torch.float64) for _ in range(3))
        self.average = torch.empty(runs, k, d, dtype=torch.float64) if averages else None
        self._gradient_log = torch.empty(runs, k, d if by_entry else 1, dtype=torch.float64)
        self._total = torch.empty(runs, n, dtype=torch.float64)
        self._log_unit, self._log_loss, self._accuracy, self._margin, self._largest, self._parameter = torch.empty(
            6, runs, dtype=torch.float64
        ).unbind()
        self.fields = CSeen(
            w=self.parameters.data_ptr(), gradient=self._gradient.data_ptr(), gradient_log=self._gradient_log.data_ptr(),
            per_weight=self._per_weight.data_ptr(), total=self._total.data_ptr(), log_unit=self._log_unit.data_ptr(),
            log_loss=self._log_loss.data_ptr(), accuracy=self._accuracy.data_ptr(), margin=self._margin.data_ptr(),
            largest=self._largest.data_ptr(), parameter=self._parameter.data_ptr(),
            average=None if self.average is None else self.average.data_ptr(),
        )  # fmt: skip

    def gradient(self, cut: Cut, objective: Objective, parameters: Parameters) -> Gradient:
        """Loss and gradient, once they have been written; losses of single samples are evaluated if they are asked for."""
        mantissas, logs = cut(self._gradient), self._gradient_log
        scales = dict.fromkeys(mantissas, logs) if logs.shape[-1] == 1 else cut(logs)
        blocks = {name: Scaled(mantissa, scales[name]) for name, mantissa in mantissas.items()}
        evaluate = partial(objective.gradient, parameters)
        found = Found(
            self._log_loss, cut(self._per_weight), self._largest, self._accuracy, self._margin, self._parameter, evaluate
        )
        return Gradient(blocks, self._total, self._log_unit.unsqueeze(-1), lambda: evaluate().log_losses(), found=found)


def routines_by(compiled: ctypes.CDLL, threads: int = 1, pool: ThreadPoolExecutor | None = None) -> Routines:
    """What norms are made of, of tensors in double precision on a CPU, by linear.c. Numbers of one matrix or vector do not
    depend on the others, and so not on the threads.

    Args:
        compiled: The library.
        threads: That share out what is much.
        pool: Has the others but for this one; None: there are none.
    """
    share = partial(shared_out, threads=threads, pool=pool)
    singular, entries = partial(_singular_values, compiled, share), partial(_entry_sizes, compiled, share)
    return Routines(singular, entries, largest_matrix=MOST_ENTRIES)


def shared_out(
    work: Callable[[int, int], None], count: int, size: int, least: int, *, threads: int, pool: ThreadPoolExecutor | None
) -> None:
    """As :data:`Share`.

    Args:
        work: Of things first, ..., last - 1.
        count: How many things there are.
        size: The numbers of each.
        least: Those that a thread has at least.
        threads: At most so many, this one among them.
        pool: The others.
    """
    used = max(1, min(threads, count * size // least))
    part = -(-count // (used * WHOLE)) * WHOLE

    def of_thread(thread: int) -> int:
        work(min(count, thread * part), min(count, (thread + 1) * part))
        return 0

    by_all(of_thread, used, pool if used > 1 else None)


def _singular_values(compiled: ctypes.CDLL, share: Share, w: Tensor) -> Tensor:
    """By Jacobi's rotations, of as many matrices at a time as a vector has lanes; nan where an entry is no finite number.
    Large matrices are left to LAPACK."""
    p, q = w.shape[-2:]
    if p * q > MOST_ENTRIES:
        return singular_values(w)
    matrices = w.reshape(-1, p, q).contiguous()
    values = torch.empty(len(matrices), min(p, q), dtype=torch.float64)

    def of_some(first: int, last: int) -> None:
        memory = torch.empty(compiled.singular_values_size(p, q), dtype=torch.float64)
        compiled.singular_values(matrices[first:].data_ptr(), last - first, p, q, values[first:].data_ptr(), memory.data_ptr())

    share(of_some, len(matrices), p * q, LEAST_OF_MATRICES)
    return values.view(*w.shape[:-2], min(p, q))


def _entry_sizes(compiled: ctypes.CDLL, share: Share, vectors: Tensor) -> EntrySizes:
    rows = vectors.reshape(-1, vectors.shape[-1]).contiguous()
    found = torch.empty(3, *vectors.shape[:-1], dtype=torch.float64)
    every, (count, size) = found.view(3, -1), rows.shape

    def of_some(first: int, last: int) -> None:
        compiled.entry_sizes(rows[first:].data_ptr(), last - first, size, count, every[0, first:].data_ptr())

    share(of_some, count, size, LEAST_OF_ENTRIES)
    return EntrySizes(*found.unbind())
