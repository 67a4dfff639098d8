"""Convolutions with pooling as products of matrices, and the adjoint of each of their parts.

Images are (R, channels, rows, columns, m), samples last: all of them are one run of memory for an operation. What is pooled, a
cell of outputs, is made from one patch of the image, kernel + cell - 1 pixels wide. The patch is a column, and the kernel, once
at each place of the cell and 0 elsewhere in the patch, are rows: with 2 x 2 pooling of a 3 x 3 kernel that is 16 numbers to read
in place of 4 x 9, and pooling is a reduction over whole arrays. A last odd row or column is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

#: What differentiates pooling: the derivative in what was pooled, (R, c, n), which it may overwrite, to that in all places,
#: (R, places, c, n).
Spread = Callable[[Tensor], Tensor]


def patches(h: Tensor, kernel: int, cell: int) -> Tensor:
    """The patch of every cell as a column.

    Args:
        h: Images, (R, c, rows, columns, m).
        kernel: Rows and columns of the kernel.
        cell: Rows and columns of what is pooled; 1 where nothing is.

    Returns:
        (R, c * s * s, rows', columns', m), s = kernel + cell - 1.
    """
    size = kernel + cell - 1
    windows = h.unfold(2, size, cell).unfold(3, size, cell)  # (R, c, rows', columns', m, s, s)
    columns: Tensor = windows.permute(0, 1, 5, 6, 2, 3, 4).flatten(start_dim=1, end_dim=3)
    return columns


def add_patches(columns: Tensor, kernel: int, cell: int, rows: int) -> Tensor:
    """The adjoint of :func:`patches`: every pixel's sum over the patches that it is in.

    Args:
        columns: (R, c * s * s, rows', columns', m).
        kernel: As of the patches.
        cell: As of the patches.
        rows: Rows and columns of the images.

    Returns:
        (R, c, rows, rows, m).
    """
    size, (_, _, high, wide, m) = kernel + cell - 1, columns.shape
    parts = columns.unflatten(1, (-1, size, size))
    # Along columns first, then along rows: 2 s additions in place of s^2.
    along = columns.new_zeros(*parts.shape[:3], high, rows, m)
    for j in range(size):
        along[..., j : j + cell * (wide - 1) + 1 : cell, :].add_(parts[:, :, :, j])
    total = columns.new_zeros(*parts.shape[:2], rows, rows, m)
    for i in range(size):
        total[:, :, i : i + cell * (high - 1) + 1 : cell].add_(along[:, :, i])
    return total


def at_places(w: Tensor, kernel: int, cell: int) -> Tensor:
    """Kernels at every place of a cell.

    Args:
        w: (R, c', c * kernel * kernel).
        kernel: Rows and columns of the kernel.
        cell: Rows and columns of what is pooled.

    Returns:
        (R, places * c', c * s * s).
    """
    size, square = kernel + cell - 1, w.unflatten(2, (-1, kernel, kernel))
    rows, channels = w.shape[1], square.shape[2]
    placed = w.new_zeros(len(w), cell * cell, rows, channels, size, size)
    for p, (a, b) in enumerate(_places(cell)):
        placed[:, p, ..., a : a + kernel, b : b + kernel] = square
    rows_of_kernels: Tensor = placed.flatten(start_dim=3).flatten(start_dim=1, end_dim=2)
    return rows_of_kernels


def from_places(g: Tensor, kernel: int, cell: int) -> Tensor:
    """The adjoint of :func:`at_places`.

    Args:
        g: (R, places * c', c * s * s).
        kernel: Rows and columns of the kernel.
        cell: Rows and columns of what is pooled.

    Returns:
        (R, c', c * kernel * kernel).
    """
    size = kernel + cell - 1
    square = g.unflatten(2, (-1, size, size)).unflatten(1, (cell * cell, -1))
    first, *others = (square[:, p, ..., a : a + kernel, b : b + kernel] for p, (a, b) in enumerate(_places(cell)))
    total = first.clone()
    for part in others:
        total.add_(part)
    kernels: Tensor = total.flatten(start_dim=2)
    return kernels


def _places(cell: int) -> Iterator[tuple[int, int]]:
    """Row and column of every place in a cell, row by row."""
    return ((a, b) for a in range(cell) for b in range(cell))


def largest(z: Tensor) -> tuple[Tensor, Spread]:
    """The maximum over the places of a cell. Its derivative is that of the first place where it is attained.

    Args:
        z: (R, places, c, n).

    Returns:
        (R, c, n), and the adjoint of the derivative.
    """
    top = z.amax(dim=1)
    # The largest number below zero: differences are zero, or not above it.
    below_zero = -torch.finfo(z.dtype).smallest_normal * torch.finfo(z.dtype).eps

    def spread(g: Tensor) -> Tensor:
        found, (*earlier, last) = torch.empty_like(z), range(z.shape[1])
        # A place that attains the maximum takes what those before it have left; the last one all that is left.
        for p in earlier:
            mine = found[:, p]
            torch.sub(z[:, p], top, out=mine)
            torch.ops.aten.threshold_backward.grad_input(g, mine, below_zero, grad_input=mine)
            g.sub_(mine)
        found[:, last] = g
        return found

    return top, spread


def mean(z: Tensor) -> tuple[Tensor, Spread]:
    """The mean over the places of a cell.

    Args:
        z: (R, places, c, n).

    Returns:
        (R, c, n), and the adjoint, in memory of its own.
    """

    def spread(g: Tensor) -> Tensor:
        return (g / z.shape[1]).unsqueeze(1).expand_as(z).contiguous()

    return z.mean(dim=1), spread
