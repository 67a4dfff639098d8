"""Patches of images, as the columns that a kernel is multiplied by, and the pooling of what comes out; each with its adjoint.

Images are (R, channels, rows, columns, m), samples last: all of them are one run of memory for an operation.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: What differentiates pooling: the derivative in what was pooled, (R, c, rows, columns, m), which it may overwrite, to that in all
#: places.
Spread = Callable[[Tensor], Tensor]


def patches(h: Tensor, kernel: int, cell: int) -> Tensor:
    """Every patch of an image as a column, by the patch's place in the cell x cell square that is pooled.

    Pooling is then a reduction over whole arrays. A last odd row or column is left out.

    Args:
        h: Images, (R, c, rows, columns, m).
        kernel: Rows and columns of a patch.
        cell: Rows and columns of what is pooled; 1 where nothing is.

    Returns:
        (R, c * kernel * kernel, cell * cell, rows', columns', m).
    """
    windows = h.unfold(2, kernel, 1).unfold(3, kernel, 1)  # (R, c, rows', columns', m, kernel, kernel)
    rows, columns = windows.shape[2] // cell, windows.shape[3] // cell
    cells = windows[:, :, : cell * rows, : cell * columns].unflatten(3, (columns, cell)).unflatten(2, (rows, cell))
    pooled: Tensor = cells.permute(0, 1, 7, 8, 3, 5, 2, 4, 6).flatten(start_dim=4, end_dim=5).flatten(start_dim=1, end_dim=3)
    return pooled


def add_patches(columns: Tensor, kernel: int, cell: int, rows: int) -> Tensor:
    """The adjoint of :func:`patches`: every pixel's sum over the patches that it is in.

    Args:
        columns: A number for each of the patches' places, (R, c * kernel * kernel, cell * cell, rows', columns', m).
        kernel: As of the patches.
        cell: As of the patches.
        rows: Rows and columns of the images.

    Returns:
        (R, c, rows, rows, m).
    """
    _, _, _, high, wide, m = columns.shape
    parts = columns.unflatten(2, (cell, cell)).unflatten(1, (-1, kernel, kernel))
    parts = parts.permute(0, 1, 2, 3, 6, 4, 7, 5, 8)  # (R, c, kernel, kernel, rows', cell, columns', cell, m)
    # Along columns first, then along rows: 2 kernel additions in place of kernel^2.
    along = columns.new_zeros(*parts.shape[:3], cell * high, rows, m)
    for j in reversed(range(kernel)):
        along[..., j : j + cell * wide, :].unflatten(4, (wide, cell)).unflatten(3, (high, cell)).add_(parts[:, :, :, j])
    total = columns.new_zeros(*parts.shape[:2], rows, rows, m)
    for i in reversed(range(kernel)):
        total[:, :, i : i + cell * high].add_(along[:, :, i])
    return total


def largest(z: Tensor) -> tuple[Tensor, Spread]:
    """The maximum over the places of a cell. Its derivative is that of the first place where it is attained.

    Args:
        z: (R, c, places, rows, columns, m).

    Returns:
        (R, c, rows, columns, m), and the adjoint of the derivative.
    """
    places = z.unbind(dim=2)
    so_far = [places[0]]
    for place in places[1:]:
        so_far.append(torch.maximum(so_far[-1], place))

    def spread(g: Tensor) -> Tensor:
        found = torch.empty_like(z)
        # From the last place on: one that is larger than all before it takes what is left.
        for p in reversed(range(1, len(places))):
            mine = found[:, :, p]
            torch.sub(places[p], so_far[p - 1], out=mine)
            torch.ops.aten.threshold_backward.grad_input(g, mine, 0, grad_input=mine)
            g.sub_(mine)
        found[:, :, 0] = g
        return found

    return so_far[-1], spread


def mean(z: Tensor) -> tuple[Tensor, Spread]:
    """The mean over the places of a cell.

    Args:
        z: (R, c, places, rows, columns, m).

    Returns:
        (R, c, rows, columns, m), and the adjoint, in memory of its own.
    """

    def spread(g: Tensor) -> Tensor:
        return (g / z.shape[2]).unsqueeze(2).expand_as(z).contiguous()

    return z.mean(dim=2), spread
