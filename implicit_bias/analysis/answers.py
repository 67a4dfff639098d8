"""What a run's table says, in words: how far it came, and one sentence on which margin it maximises."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from implicit_bias.cli.tables import share_of

# A margin has come to rest where its share changes by less than this over a decade of steps.
AT_REST = 1e-3
# More steps can tell something where a decade of them adds at least this part of what is missing. Gradient descent, whose
# direction moves as 1 / log t, adds a tenth at t = 1e10; what adds less may as well converge to less than the largest margin.
APPROACHING = 0.1
# `maximises` as identify has it: from this share on, and where what is missing falls at least by a factor of two a decade.
MAXIMISED, HALVED = 0.97, 2.0
# Norms are one here where margins and optima agree to these, relative (optima are known to 1e-6 each).
SAME_MARGIN, SAME_OPTIMUM = 1e-9, 1e-5
# From this KKT ratio on a direction is called one.
KKT_REACHED = 0.97


@dataclass(frozen=True)
class _Reached:
    """The share of a norm's best possible margin.

    Attributes:
        norm: Its label.
        share: The share at the end.
        about: What to say before it: ``at least `` where no optimum is known.
        before: The share a decade of steps earlier; nan where that is not recorded.
        lately: What the last half of the steps added to the share, in proportion for a decade; nan likewise.
        alike: The labels of the norms that are this one on these data.
        robust: Whether samples are perturbed, so that margins and optima are robust ones.
    """

    norm: str
    share: float
    about: str
    before: float
    lately: float
    alike: tuple[str, ...]
    robust: bool

    @property
    def margin(self) -> str:
        return f"{'robust ' if self.robust else ''}{self.norm} margin"

    @property
    def percent(self) -> str:
        return f"{self.about}{100 * self.share:.1f} %"

    @property
    def change(self) -> float:
        return self.share - self.before

    @property
    def maximised(self) -> bool:
        """Whether it is reached, as far as a run of finite length can say."""
        missing, before = 1 - self.share, 1 - self.before
        return self.share >= MAXIMISED and (missing <= AT_REST or before >= HALVED * missing)

    @property
    def paces(self) -> list[float]:
        """What is known of what a decade of steps adds: over all of the last one, and by its last half."""
        return [pace for pace in (self.change, self.lately) if not math.isnan(pace)]

    @property
    def rising(self) -> bool:
        """Whether it rises at the end: over the last half of the steps, or over a decade where that is all that is known."""
        return bool(self.paces) and self.paces[-1] >= AT_REST

    @property
    def approaching(self) -> bool:
        """Whether it rises fast enough for more steps to tell where it ends. One that gathers pace is judged by its last half."""
        return self.rising and max(self.paces) >= APPROACHING * (1 - self.share)

    def trend(self) -> str:
        if not self.paces:
            return ""
        first, last = (_moving(pace) for pace in (self.paces[0], self.paces[-1]))
        if first == last == "at rest":
            return ", at rest"
        size = f"{abs(100 * self.paces[0]):.1f} %"
        if first == last:
            late = " of late" if math.isnan(self.change) else ""
            return f", {'still rising' if first == 'rising' else 'falling'} {size} a decade{late}"
        moved = {"rising": f"risen {size} in a decade", "falling": f"fallen {size} in a decade", "at rest": "as a decade before"}
        return f", {moved[first]} and now {last}"


def _moving(pace: float) -> str:
    """What a change of the share in a decade of steps is called."""
    return "at rest" if abs(pace) < AT_REST else "rising" if pace > 0 else "falling"


def depth_line(summary: pd.DataFrame) -> str:
    """``step 10,000: loss 10^-90.1, accuracy 1.0000``, with the accuracy on the test set where there is one."""
    row = summary.iloc[0]
    told = f"step {int(row['step']):,}: loss 10^{row['log_loss'] / math.log(10):.1f}, accuracy {row['accuracy']:.4f}"
    more = {"on the test set": "test_accuracy", "robust": "robust_accuracy"}
    return told + "".join(f", {words} {row[key]:.4f}" for words, key in more.items() if key in summary)


def missed_line(summary: pd.DataFrame, stop_log10_loss: float | None) -> str | None:
    """That a loss was asked for and not reached; None where it was, or none was asked for."""
    reached = float(summary["log_loss"].iloc[0]) / math.log(10)
    if stop_log10_loss is None or reached < stop_log10_loss:
        return None
    return f"the loss asked for, 10^{stop_log10_loss:g}, was not reached (stop_log10_loss): more steps, or a larger schedule.lr"


def answer_sentence(name: str, trajectory: pd.DataFrame, summary: pd.DataFrame, classes: int | None = None) -> str | None:
    """One sentence: the share of the largest margin that was reached in the optimizer's own norm, that of the others, whether it
    still rises, and what follows.

    Args:
        name: Of the optimizer.
        trajectory, summary: Of one run, with the columns of ``trajectory.csv`` and ``summary.csv``.
        classes: Of the data: with two, some norms are one.

    Returns:
        The sentence; None where nothing is separated yet, or nothing is known to compare with.
    """
    if summary["accuracy"].iloc[0] < 1 or not (summary["margin"] > 0).all():
        return None
    if "soft_margin" in summary:
        return _of_network(name, summary)
    reached = _all_reached(trajectory, summary)
    named = summary.loc[summary["own"], "norm"]
    own = str(named.iloc[0]) if len(named) else None
    if not reached:
        return None
    if own is not None and own in reached:
        return _with_own(name, reached[own], reached, classes)
    return _without_own(name, own, reached, classes)


def _all_reached(trajectory: pd.DataFrame, summary: pd.DataFrame) -> dict[str, _Reached]:
    last = int(summary["step"].iloc[0])
    added, halfway = _added(trajectory, last, 10), _added(trajectory, last, 2)
    found = {}
    for _, row in summary.iterrows():
        share, about = share_of(row)
        if math.isfinite(share):
            # The share of then is of the same largest margin.
            change, lately = (share * parts.get(row["norm"], math.nan) for parts in (added, halfway))
            found[str(row["norm"])] = _Reached(
                str(row["norm"]),
                share,
                "at least " if about else "",
                share - change,
                lately,
                _alike(row, summary),
                "robust_accuracy" in summary,
            )
    return found


def _added(trajectory: pd.DataFrame, last: int, factor: float) -> dict[str, float]:
    """The part of each norm's last margin that was added since the record nearest to step last / factor, in proportion for a
    decade of steps; norms whose margin was not positive then are not there."""
    steps = trajectory.loc[(trajectory["step"] > 0) & (trajectory["step"] < last), "step"].unique()
    earlier = min(steps, key=lambda step: abs(math.log(step * factor / last)), default=None)
    if earlier is None:
        return {}
    rows = {step: trajectory[trajectory["step"] == step] for step in (earlier, last)}
    then, now = (dict(zip(of["norm"], of["margin"], strict=True)) for of in rows.values())
    decades = math.log10(last / earlier)
    return {str(norm): (1 - margin / now[norm]) / decades for norm, margin in then.items() if margin > 0 and norm in now}


def _alike(row: pd.Series, summary: pd.DataFrame) -> tuple[str, ...]:
    """The other norms whose margin and optimum are those of this row."""
    key = "max_margin" if pd.notna(row["max_margin"]) else "upper_bound"
    same = (summary["margin"] / row["margin"] - 1).abs() <= SAME_MARGIN
    same &= (summary[key] / row[key] - 1).abs() <= SAME_OPTIMUM
    return tuple(str(norm) for norm in summary.loc[same, "norm"] if norm != row["norm"])


def _with_own(name: str, own: _Reached, reached: dict[str, _Reached], classes: int | None) -> str:
    others = _others(own, reached)
    best = max(others, key=lambda one: one.share, default=None)
    told = f"{name} reached {own.percent} of the largest {own.margin}{_also(own, classes)}{own.trend()}"
    return f"{told}{_beside(own, best, others)}: {_conclusion(own, best, others)}"


def _others(one: _Reached, reached: dict[str, _Reached]) -> list[_Reached]:
    return [other for label, other in reached.items() if label != one.norm and label not in one.alike]


def _beside(own: _Reached, best: _Reached | None, others: Sequence[_Reached]) -> str:
    if best is None:
        return ""
    if best.share > own.share or any(other.about for other in others):  # a share that is known from below may be the largest
        return f", and {best.percent} of the largest {best.margin}"
    return f", and at most {best.percent} of any other ({best.norm})"


def _conclusion(own: _Reached, best: _Reached | None, others: Sequence[_Reached]) -> str:
    if own.maximised and best is not None and best.share > own.share:
        ahead = f"and the {best.margin} even more nearly, as far as these data tell norms apart"
        return f"it reaches the {own.margin}, its own norm's, {ahead}"
    if own.maximised:
        return f"it maximises the {own.margin}{_apart([best] if best else [])}"
    if best is None or own.share >= best.share:
        if any(one.about for one in (own, *others)):  # how near any of them is, is known from below alone
            return f"whether it maximises the {own.margin} {'more steps will tell' if own.approaching else 'is not known'}"
        if best is None and own.approaching:
            return f"the {own.margin} is not reached yet, more steps will tell"
        if best is None and not own.paces:
            return f"whether it maximises the {own.margin} it is too early to tell"
        # How fast it rises says nothing of where it ends: Lion's rises 2 % a decade at 3000 steps, and is reached at 1e6.
        slowly = ", hardly rising" if own.rising else ""
        if best is None:
            return f"the {own.margin} is not reached{slowly}"
        if not own.paces:
            return f"nearest to the {own.margin}, too early to tell whether it maximises that"
        return f"nearest to the {own.margin}{', more steps will tell' if own.approaching else slowly or ', without reaching it'}"
    seen = f"that it maximises the {own.margin}, its own norm's, does not show"
    return f"{seen} yet" if own.approaching or not own.paces else seen


def _apart(others: Sequence[_Reached]) -> str:
    """The reservation that another norm's margin is reached as well."""
    return ", as far as these data tell norms apart" if any(one.share >= MAXIMISED for one in others) else ""


def _without_own(name: str, own: str | None, reached: dict[str, _Reached], classes: int | None) -> str:
    best = max(reached.values(), key=lambda one: one.share)
    others = _others(best, reached)
    whose = "of which no own norm is known" if own is None else f"of whose own norm, {own}, no optimum is known"
    told = f"{name}, {whose}, reached {best.percent} of the largest {best.margin}{_also(best, classes)}{best.trend()}"
    if others and not any(one.about for one in others):
        told = f"{told}, and less of any other"
    if best.maximised:
        return f"{told}: it maximises the {best.margin}{_apart(others)}"
    return f"{told}: none of these is maximised so far"


def _also(one: _Reached, classes: int | None) -> str:
    """That other norms are this one here, in brackets."""
    if not one.alike:
        return ""
    names = " and ".join(one.alike) if len(one.alike) < 3 else ", ".join(one.alike)
    why = "with two classes" if classes == 2 else "on these data"
    return f" ({why} also the largest {names} margin)"


def _of_network(name: str, summary: pd.DataFrame) -> str | None:
    """How near to a KKT direction a network came: ratios are proven lower bounds of that, 1 exactly there."""
    known = summary[summary["kkt_ratio"].notna()]
    if not len(known):
        return None
    best = known.sort_values("kkt_ratio", kind="stable").iloc[-1]
    own = known[known["own"]]
    row = own.iloc[0] if len(own) else best
    whose = "its own norm" if len(own) else "the best of these norms"
    told = f"{name} reached a KKT ratio of {row['kkt_ratio']:.3f} under {row['norm']}, {whose}"
    if len(own) and best["norm"] != row["norm"]:
        told += f", and {best['kkt_ratio']:.3f} under {best['norm']}"
    if pd.notna(row.get("ratio")):  # by formula
        told += f", and {100 * row['ratio']:.1f} % of the largest {row['norm']} margin of any such network"
    if row["kkt_ratio"] >= KKT_REACHED:
        return f"{told}: close to a KKT direction of the {row['norm']} margin problem"
    return f"{told}: no KKT direction of the {row['norm']} margin problem yet (1 is one; a ratio is proven from below)"
