"""What a caller of ``judge``, ``margins`` and ``identify`` gives, checked: each mistake is one line that names the argument."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from os import PathLike, fspath
from pathlib import Path
from typing import Any, get_args

import torch

from implicit_bias.analysis.data import as_dataset
from implicit_bias.analysis.exponent_optima import Memory
from implicit_bias.core.errors import BadInput
from implicit_bias.core.registry import MAX_SEED, hyper_fields
from implicit_bias.core.words import either, shown
from implicit_bias.datasets import DATASETS, Dataset, make_dataset
from implicit_bias.engine.mini_batches import MiniBatches, Order, mini_batches
from implicit_bias.measures.exponents import FAMILIES
from implicit_bias.norms import Norm, make_norm
from implicit_bias.optimizers.foreign.base import FEEDS
from implicit_bias.optimizers.foreign.target import in_a_line
from implicit_bias.storage.references import ReferenceCache
from implicit_bias.sweep.references import Cache

PROGRESS = ("auto", "off")


def check_numbers(*, steps: Any, lr: Any, seed: Any, reference_timeout: Any, optima_timeout: Any) -> None:
    """Raises BadInput; numbers of numpy's are numbers."""
    if not _is(steps, Integral) or steps < 1:
        raise BadInput(f"steps={shown(steps)}: must be an integer >= 1")
    if lr is not None and not (_is(lr, Real) and 0 < lr < math.inf):
        raise BadInput(f"lr={shown(lr)}: must be None or a number > 0")
    if not _is(seed, Integral) or not 0 <= seed <= MAX_SEED:
        raise BadInput(f"seed={shown(seed)}: must be an integer >= 0, at most {MAX_SEED}")
    check_seconds(reference_timeout=reference_timeout, optima_timeout=optima_timeout)


def check_seconds(**given: Any) -> None:
    """Raises BadInput where an allowance of time is none."""
    for key, value in given.items():
        if not _is(value, Real) or not value > 0:
            raise BadInput(f"{key}={shown(value)}: must be a number > 0")


def check_feed(feed: Any) -> None:
    """Raises BadInput: what is differentiated is none of FEEDS."""
    if feed not in FEEDS:
        raise BadInput(f"feed={shown(feed)}: must be {' or '.join(FEEDS)}")


def check_progress(progress: Any) -> None:
    """Raises BadInput."""
    if progress not in PROGRESS:
        raise BadInput(f"progress={shown(progress)}: must be {' or '.join(PROGRESS)}")


def batches_in(size: Any, order: Any, seed: int, samples: int) -> MiniBatches | None:
    """The mini-batches of one run; None: every update is made from all samples. Raises BadInput."""
    if size is not None and not (_is(size, Integral) and 1 <= size <= samples):
        raise BadInput(f"batch_size={shown(size)}: must be None or an integer in [1, {samples}], the samples there are")
    if order not in get_args(Order):
        raise BadInput(f"batch_order={shown(order)}: must be {either(get_args(Order))}")
    return mini_batches(None if size is None else int(size), order, torch.tensor([seed]), samples)


def families_in(family: Any) -> list[str]:
    """The families that are named, one or several. Raises BadInput."""
    found = [family] if isinstance(family, str) else family
    if not isinstance(found, list | tuple) or any(name not in FAMILIES for name in found):
        raise BadInput(f"family={shown(family)}: must be {', '.join(FAMILIES)} or both, or () for neither")
    return [name for name in FAMILIES if name in found]


def cache_in(results_dir: Any) -> Cache:
    """Where optima are looked for and kept. Raises BadInput."""
    if results_dir is not None and not isinstance(results_dir, str | PathLike):
        raise BadInput(f"results_dir={shown(results_dir)}: must be None or the path of a folder")
    if results_dir is not None and Path(results_dir).exists() and not Path(results_dir).is_dir():
        raise BadInput(f"results_dir={fspath(results_dir)}: is a file; must be None or the path of a folder")
    return Memory() if results_dir is None else ReferenceCache(fspath(results_dir))


def dataset_named(data: Any, seed: int) -> Dataset:
    """Data as they are given; those of a name that have a seed are made with ``seed``. Raises BadInput."""
    if isinstance(data, str) and data in DATASETS and "seed" in hyper_fields(DATASETS.get(data)):
        return make_dataset({"name": data, "seed": seed}).load()
    return as_dataset(data, "data")


def name_of(make_optimizer: Any) -> str:
    """The name of the class. Raises BadInput where no optimizer is made."""
    if not callable(make_optimizer):
        called = type(make_optimizer).__name__
        made = called if isinstance(make_optimizer, torch.optim.Optimizer) else "MyOptimizer"
        such = f"such as lambda params: {made}(params, lr=0.01)"
        raise BadInput(f"make_optimizer: a {called}; must be a function of the parameters, {such}, or a class")
    try:
        made = make_optimizer([torch.nn.Parameter(torch.zeros(3, 4, dtype=torch.float64))])
    except Exception as error:  # noqa: BLE001 - the function is the caller's
        raise BadInput(f"make_optimizer: cannot make an optimizer of a list of parameters ({in_a_line(error)})") from None
    if not isinstance(made, torch.optim.Optimizer):
        raise BadInput(f"make_optimizer: gives a {type(made).__name__}; must give a torch.optim.Optimizer")
    return type(made).__name__


def measured_norms(norms: Any, working: str) -> dict[str, Norm]:
    """The norms to measure by label, that of the optimizer's steps the last. Raises BadInput."""
    found = norms_in(norms)
    return {norm.label: norm for norm in [*found, make_norm(working)]}


def norms_in(norms: Any) -> list[Norm]:
    """The norms that labels name, one or several. Raises BadInput."""
    labels: Sequence[Any] = [norms] if isinstance(norms, str) else norms
    if not isinstance(labels, list | tuple) or not all(isinstance(label, str) for label in labels):
        raise BadInput(f'norms={shown(norms)}: must be labels of norms, such as ["linf", "lp3"]')
    return [_norm(label) for label in labels]


def _norm(label: str) -> Norm:
    try:
        return make_norm(label)
    except (KeyError, ValueError) as error:
        raise BadInput(f"norms={shown(label)}: {error.args[0]}") from None


def _is(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
