"""The study of an optimizer before it sees data, as the command prints it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table

from implicit_bias.analysis.study import Study, study
from implicit_bias.cli import messages
from implicit_bias.cli.exit_codes import DONE, FAILED
from implicit_bias.cli.tables import print_table
from implicit_bias.config.overrides import compose_methods
from implicit_bias.norms import Norm
from implicit_bias.optimizers import Optimizer
from implicit_bias.optimizers.foreign.probe import NOT_FINITE

# Below this a difference is round-off.
NOTHING = 1e-12
LEGEND = (
    "alignment: <G, U> / (N(U) N*(G)) of late steps U at a constant gradient G, 1 for steepest descent in N\n"
    "changes: how far the steps of transformed gradients are from the transformed steps, relative\n"
    "size: of steps at gradients times a power of two, in units of that at the gradients themselves"
)


def studied(words: Sequence[str]) -> int:
    """Study the optimizers that words as for a run name, and print what each is.

    Returns:
        The exit code: FAILED where one of them raises, which is told in a line; the others are studied all the same.

    Raises:
        BadInput: a key or a value is not allowed.
    """
    methods, code = compose_methods(words), DONE
    for place, (optimizer, norm) in enumerate(methods, 1):
        found = study(optimizer, norm)
        if found.failed is not None:
            messages.error(f"{called(optimizer, norm)}: {found.failed}" if found.failed == NOT_FINITE else found.failed)
            code = FAILED
            continue
        print_table(
            study_table(called(optimizer, norm), found), [LEGEND if place == len(methods) else ""], "\n".join(found.lines())
        )
    return code


def called(optimizer: Optimizer, norm: Norm | None) -> str:
    """An optimizer with the norm that it is to step in, in a word or two."""
    return optimizer.label if norm is None else f"{optimizer.label} {norm.label}"


def study_table(name: str, found: Study) -> Table:
    """What was measured of an optimizer, a row a quantity; none where it does not move."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("optimizer")
    table.add_column(name)
    known = found.constant
    if known.curve:
        table.add_row("alignment", _several({label: f"{value:.4f}" for label, value in known.curve.items()}))
    for family, best in (known.exponents or {}).items():
        p = "inf" if math.isinf(best.p) else f"{best.p:.3g}"
        table.add_row(f"best {family}", f"p = {p}, alignment {best.alignment:.4f}")
    if found.symmetries:
        table.add_row("changes", _several({name: _difference(value) for name, value in found.symmetries.items()}))
        table.add_row("size", _several({f"2^{j}": f"{size:.3g}" for j, (size, _) in found.response.items()}))
    return table


def _several(values: Mapping[str, str]) -> str:
    return "  ".join(f"{name.replace(' ', '_')}={value}" for name, value in values.items())


def _difference(value: float) -> str:
    return "0" if value < NOTHING else f"{value:.1e}"
