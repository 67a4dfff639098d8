"""Implicit bias on separable data: which margin does an optimizer maximise, how fast, and how do we know?

``python -m implicit_bias.run --help`` describes the command. From Python::

    from implicit_bias import run
    trajectory, summary = run(optimizer="muon", steps=1000)

and of an optimizer of your own, ``judge(lambda params: MyOptimizer(params, lr=0.01), data=(X, y))``.

Importing the package changes nothing of the process: no environment variable, no allocator, no threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas

    from implicit_bias.analysis.judging import Judgement

__all__ = ["__version__", "identify", "judge", "margins", "run"]


def run(*overrides: Any, multirun: bool = False, **keys: Any) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    """Compute a run, or a sweep, and return its trajectory and its summary; see :func:`implicit_bias.run.run`."""
    # Importing the module puts it where this function was, under the same name: it can be called in the same way.
    from importlib import import_module

    command: Any = import_module("implicit_bias.run")
    tables: tuple[pandas.DataFrame, pandas.DataFrame] = command.run(*overrides, multirun=multirun, **keys)
    return tables


def identify(*runs: Any, **keys: Any) -> pandas.DataFrame:
    """Which norm's margin runs or weights maximise; see :func:`implicit_bias.identify.notebook.identify`."""
    # The package of the command takes this function's place under the same name, and can be called in the same way.
    from importlib import import_module

    command: Any = import_module("implicit_bias.identify")
    verdicts: pandas.DataFrame = command.identify(*runs, **keys)
    return verdicts


def judge(make_optimizer: Any, data: Any, **keys: Any) -> Judgement:
    """Which margin an optimizer of yours maximises on your data; see :func:`implicit_bias.analysis.judging.judge`."""
    from implicit_bias.analysis import judging

    return judging.judge(make_optimizer, data, **keys)


def margins(w: Any, x: Any, y: Any, *options: Any, **keys: Any) -> pandas.DataFrame:
    """The margins of linear weights beside the certified maxima; see :func:`implicit_bias.analysis.optimal_margins.margins`."""
    from implicit_bias.analysis import optimal_margins

    return optimal_margins.margins(w, x, y, *options, **keys)


def __getattr__(name: str) -> str:
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from implicit_bias.core.installation import version

    return version()
