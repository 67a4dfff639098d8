"""Runs side by side: what each is called, one tidy table of all of them, and where each ends.

Runs of one configuration but for the seed are one curve. A curve goes by its optimizer's name, or the name that the user gave,
and by exactly the keys in which it differs from the others.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from implicit_bias.core.errors import BadInput
from implicit_bias.core.runtime_keys import RUNTIME_KEYS, UNUSED, used
from implicit_bias.core.words import short_keys, shown
from implicit_bias.storage.runs import DATA

MOST_NORMS = 6
#: What must be in a trajectory from elsewhere, and what else is used where it is there.
NEEDED = ("seed", "step", "norm", "margin")
USED = ("log_loss", "max_margin", "relative_gap", "alignment", "kkt_ratio")
QUANTITIES = ("margin", "relative_gap", "ratio", "log_loss", "alignment", "kkt_ratio")
COLUMNS = ("label", "run", "optimizer", "own", "seed", "step", "norm", "log_loss", "margin", "max_margin", "ratio",
           "relative_gap", "alignment", "kkt_ratio")  # fmt: skip

# What is measured of a run, and which of several equal ones it is, make it no other run; a file goes by its path.
_NOT_COMPARED = (*RUNTIME_KEYS, "log", "reference", "seed", "dataset.seed", DATA)
# Groups that belong to an optimizer: that Muon has a beta and Adam none does not need to be said.
_OWN_GROUPS = ("optimizer", "norm", "schedule")
_NUMBER = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)")


@dataclass(frozen=True)
class Source:
    """One run of the comparison.

    Attributes:
        name: Its folder or file, in a word.
        trajectory: Its table, with NEEDED at least.
        called: The name that the user gave; empty for the optimizer's own.
        config: Its resolved configuration; None for a table from elsewhere.
        own: Label of its optimizer's own norm, where that is known.
        share: The part of all samples that an update is made from, b / n; None where that is not known.
    """

    name: str
    trajectory: pd.DataFrame
    called: str = ""
    config: Mapping[str, Any] | None = None
    own: str | None = None
    share: float | None = None

    @property
    def optimizer(self) -> str:
        """The optimizer's name; for a table from elsewhere, what it is called."""
        return self.called if self.config is None else str(self.config["optimizer"]["name"])

    @property
    def base(self) -> str:
        """The first part of the label."""
        return self.called or self.optimizer


def labels(sources: Sequence[Source]) -> list[str]:
    """The label of each source, such as ``muon`` or ``muon lr 0.1``; equal exactly for those that are one curve.

    Keys of the optimizer, its norm and its schedule appear where curves of one name differ in them; keys of the data, the model
    and the rest where any two curves do. Keys of an option are compared between curves of the same option.
    """
    flat = [None if source.config is None else _flat(source.config) for source in sources]
    known = [i for i, config in enumerate(flat) if config is not None]
    told: dict[int, list[str]] = {i: [] for i in range(len(sources))}
    for i in known:
        mine = flat[i] or {}
        for key in mine:
            peers = [flat[j] or {} for j in known if _peers(sources[i], sources[j], mine, flat[j] or {}, key)]
            if any(key not in peer or peer[key] != mine[key] for peer in peers):
                told[i].append(key)
    words = _words([key for keys in told.values() for key in keys])
    return [
        " ".join([source.base, ", ".join(f"{words[key]} {shown((flat[i] or {})[key])}" for key in told[i])]).strip()
        for i, source in enumerate(sources)
    ]


def comparison_table(sources: Sequence[Source], epochs: bool = False, keys: Mapping[str, str] | None = None) -> pd.DataFrame:
    """One row a run, step and norm, with COLUMNS; a run that is there twice counts once, what was not measured is empty.

    Args:
        sources: The runs.
        epochs: Also a column ``epoch``, step * b / n, empty where that is not known.
        keys: Further columns, with the key of the configuration whose value, in words, is in each (:func:`values_of`).

    Raises:
        BadInput: tables from elsewhere have the name of another curve, or the same seed under one name; no run has a key.
    """
    keys = keys or {}
    unique = list({(source.called, source.name): source for source in sources}.values())
    named = labels(unique)
    _check_names(unique, named)
    told = {column: values_of(unique, key, column) for column, key in keys.items()}
    bases = list(dict.fromkeys(source.base for source in unique))
    ordered = sorted(zip(unique, named, strict=True), key=lambda pair: (bases.index(pair[0].base), _natural(pair[1])))
    parts = []
    for source, label in ordered:
        rows = source.trajectory
        margin = rows["margin"]
        best = rows.get("max_margin", pd.Series(np.nan, index=rows.index))
        best = best.where(best != 0)  # nothing is relative to an optimum of zero
        derived = {"max_margin": best, "ratio": margin / best, "relative_gap": (best - margin).abs() / best}
        # A quotient beyond every double counts as not measured.
        derived = {key: values.where(values.abs() < np.inf) for key, values in derived.items()}
        measured = {key: rows.get(key, derived.get(key, np.nan)) for key in (*USED, "ratio")}
        about = {"label": label, "run": source.name, "optimizer": source.optimizer, "own": rows["norm"] == source.own}
        about |= {column: values[source.called, source.name] for column, values in told.items()}
        passed = {"epoch": rows["step"] * (np.nan if source.share is None else source.share)} if epochs else {}
        parts.append(pd.DataFrame({**about, **{key: rows[key] for key in NEEDED}, **measured, **passed}))
    columns = [*COLUMNS, *(["epoch"] if epochs else []), *keys]
    return pd.concat([part[columns].astype({"own": bool}) for part in parts], ignore_index=True)


def values_of(sources: Sequence[Source], key: str, option: str) -> dict[tuple[str, str], str]:
    """The value of a key of the configuration in words, by what a source is called and its name.

    A table from elsewhere has none, and goes by its own name, as a style by no word. ``optimizer`` is the method's name.

    Args:
        key: With its group, or its last part where no other key ends in it.
        option: Of the command, for the error.

    Raises:
        BadInput: no run has the key.
    """
    flat = [{} if source.config is None else _flat(source.config) for source in sources]
    known = sorted({name for config in flat for name in config})
    full = [name for name in known if name in (key, f"{key}.name")] or [n for n in known if n.endswith(f".{key}")]
    if len(full) != 1:
        differ = [n for n in known if len({shown(config.get(n)) for config in flat if config}) > 1]
        allowed = f"must be a key of the runs, such as {', '.join(short_keys(differ)[:6]) or 'optimizer'}"
        raise BadInput(f"{option}={key}: {'in no run' if not full else 'one of ' + ', '.join(full)}; {allowed}")
    return {
        (source.called, source.name): (source.base if option != "style" else "")
        if source.config is None
        else shown(config.get(full[0]))
        for source, config in zip(sources, flat, strict=True)
    }


def with_optima(sources: Sequence[Source], like: Sequence[Source]) -> list[Source]:
    """Tables from elsewhere with the optima of runs on the same data, where they have none of their own.

    Args:
        sources: All that is compared; runs are left as they are.
        like: Runs that were made with optima. A seed takes those of its own run, and where there is one run, of that one.

    Raises:
        BadInput: a run has no optimum, or none of the runs has a table's seed.
    """
    optima = {}
    for run in like:
        known = run.trajectory.get("max_margin", pd.Series(dtype=float)).dropna()
        if known.empty:
            raise BadInput(f"like={run.name}: it has no optimum; must be a run without reference=none")
        rows = run.trajectory.loc[known.index]
        optima.update({(int(s), n): float(m) for s, n, m in zip(rows["seed"], rows["norm"], known, strict=True)})
    seeds = {seed for seed, _ in optima}
    return [source if source.config is not None else _with_optima(source, optima, seeds) for source in sources]


def _with_optima(source: Source, optima: Mapping[tuple[int, str], float], seeds: set[int]) -> Source:
    table = source.trajectory
    missing = sorted(set(table["seed"]) - seeds) if len(seeds) > 1 else []
    if missing:
        raise BadInput(f"like: no run has seed {missing[0]} of {source.name}; must be one run, or one of every seed")
    alone = next(iter(seeds))
    pairs = zip(table["seed"] if len(seeds) > 1 else [alone] * len(table), table["norm"], strict=True)
    taken = pd.Series([optima.get((int(seed), norm), np.nan) for seed, norm in pairs], index=table.index)
    own = table["max_margin"] if "max_margin" in table else pd.Series(np.nan, index=table.index)
    return replace(source, trajectory=table.assign(max_margin=own.fillna(taken)))


def common_norms(table: pd.DataFrame, wanted: Sequence[str] = (), known: Sequence[str] = ()) -> list[str]:
    """The norms to show: those asked for, else those that every curve has, MOST_NORMS at most.

    Args:
        table: As :func:`comparison_table` makes it.
        wanted: The norms asked for.
        known: The best known norms, which come first.

    Raises:
        BadInput: a norm that was asked for is not in every curve, or no norm is.
    """
    by_label = {str(label): set(rows["norm"]) for label, rows in table.groupby("label", sort=False)}
    common = [norm for norm in table["norm"].unique() if all(norm in norms for norms in by_label.values())]
    ordered = [*(norm for norm in known if norm in common), *(norm for norm in common if norm not in known)]
    for norm in wanted:
        lacking = [label for label, norms in by_label.items() if norm not in norms]
        if lacking:
            allowed = ", ".join(ordered) or "none, no norm is in every run"
            raise BadInput(f"norms={norm}: not measured in {lacking[0]}; allowed: {allowed}")
    if not ordered:
        has = "; ".join(f"{label} has {', '.join(sorted(norms))}" for label, norms in list(by_label.items())[:3])
        raise BadInput(f"norms: nothing in common, no norm is in every run ({has})")
    return list(wanted) or ordered[:MOST_NORMS]


def quantity_of(table: pd.DataFrame, wanted: str = "auto") -> str:
    """The column to show: the one asked for; under auto the relative gap where every curve has optima, else the margin.

    Args:
        table: The rows of the norms that are shown.

    Raises:
        BadInput: a curve has no value of what was asked for.
    """
    if wanted == "auto":
        return "margin" if lacking(table, "relative_gap") else "relative_gap"
    without = lacking(table, wanted)
    if without:
        there = [quantity for quantity in QUANTITIES if not lacking(table, quantity)]
        raise BadInput(f"quantity={wanted}: {without[0]} has none; allowed here: auto, {', '.join(there)}")
    return wanted


def lacking(table: pd.DataFrame, column: str) -> list[str]:
    """The curves that have no value of a column under some norm, after step 0."""
    later = table[table["step"] > 0]
    counts = later.groupby(["label", "norm"], sort=False)[column].count()
    every = set(table["label"].unique()) - set(later["label"].unique())
    return [*sorted(every), *dict.fromkeys(str(label) for label, _ in counts.index[counts == 0])]


def at_the_end(table: pd.DataFrame) -> pd.DataFrame:
    """Where each curve ends, a row a norm and label: own, runs, first and last of the last steps, and means over the runs.

    Every run counts with its own last step. ``best`` marks the largest margin of each norm, where that is positive.
    """
    last = table[table["step"] == table.groupby(["run", "seed"])["step"].transform("max")]
    last = last.assign(runs=last["run"] + " " + last["seed"].astype(str))
    means = {key: (key, "mean") for key in ("margin", "max_margin", "ratio", "alignment", "kkt_ratio")}
    groups = last.groupby(["norm", "label"], sort=False)
    ends = groups.agg(own=("own", "any"), runs=("runs", "nunique"), first=("step", "min"), step=("step", "max"), **means)
    best = ends.groupby(level="norm")["margin"].transform("max")
    return ends.assign(best=(ends["margin"] == best) & (best > 0)).reset_index()


def over_runs(rows: pd.DataFrame, column: str, x: str = "step") -> pd.DataFrame:
    """One curve: x, mean, min, max of a column by step, where every run of it has a record and a value.

    Args:
        rows: The rows of one label and norm.
        column: What is averaged.
        x: ``step``, or a column whose mean over the runs stands in its place.
    """
    known = rows[rows[column].notna() & rows[x].notna()]
    runs = rows.groupby(["run", "seed"]).ngroups
    groups = known.groupby("step")
    curve = groups[column].agg(["mean", "min", "max", "count"])
    curve.insert(0, "x", groups[x].mean() if x != "step" else curve.index.to_numpy(float))
    return curve[curve["count"] == runs]


def different_problems(sources: Sequence[Source]) -> bool:
    """Whether runs with a configuration are on data, models or losses that differ in more than the seed."""
    groups = ("dataset.", "model.", "loss.")
    problems = {
        tuple((key, shown(value)) for key, value in sorted(_flat(source.config).items()) if key.startswith(groups))
        for source in sources
        if source.config is not None
    }
    return len(problems) > 1


def different_seeds(table: pd.DataFrame) -> bool:
    """Whether the curves are means over different seeds, so that differences between them may be those between data sets."""
    return len({frozenset(rows["seed"]) for _, rows in table.groupby("label")}) > 1


def _flat(config: Mapping[str, Any]) -> dict[str, Hashable]:
    """Dotted keys with their values, without those that do not make another curve, and without empty ones: an older run may lack
    the key."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if key in _NOT_COMPARED or (key, value) in UNUSED:
            continue
        items = {f"{key}.{k}": v for k, v in used(key, value).items()} if isinstance(value, Mapping) else {key: value}
        flat.update({k: v for k, v in items.items() if k not in _NOT_COMPARED and v is not None and (k, v) not in UNUSED})
    return flat


def _peers(mine: Source, other: Source, config: Mapping[str, Any], others: Mapping[str, Any], key: str) -> bool:
    """Whether the two are to be told apart by a key in which they differ."""
    group, dot, last = key.partition(".")
    if group in _OWN_GROUPS and mine.base != other.base:
        return False
    if not dot or last == "name":
        return True
    return config.get(f"{group}.name") == others.get(f"{group}.name")


def _words(keys: Sequence[str]) -> dict[str, str]:
    """What each key is called in a label: its last part, or for a group's option the group."""
    unique = list(dict.fromkeys(keys))
    options = {key: key.removesuffix(".name") for key in unique if key.endswith(".name")}
    others = [key for key in unique if key not in options]
    return {**options, **dict(zip(others, short_keys(others), strict=True))}


def _natural(label: str) -> list[tuple[float, str]]:
    """A key that sorts the numbers in labels by their size."""
    return [(float(part), "") if i % 2 else (math.inf, part) for i, part in enumerate(_NUMBER.split(label))]


def _check_names(sources: Sequence[Source], named: Sequence[str]) -> None:
    """Raise BadInput where two tables from elsewhere, or one and our own runs, would be mixed up."""
    ours = {label for source, label in zip(sources, named, strict=True) if source.config is not None}
    seeds: dict[tuple[str, int], str] = {}
    for source, label in zip(sources, named, strict=True):
        if source.config is not None:
            continue
        if label in ours:
            raise BadInput(f"{source.name}: another curve is called {label}; give it a name of its own, name={source.name}")
        for seed in source.trajectory["seed"].unique():
            before = seeds.setdefault((label, int(seed)), source.name)
            if before != source.name:
                raise BadInput(f"{source.name}: seed {seed} of {label} is in {before} too; must be another seed or another name=")
