"""optimizer=torch: classes of torch.optim under the engine, beside the methods of our own and beside plain loops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from implicit_bias.config.overrides import compose
from implicit_bias.core.errors import BadInput
from implicit_bias.engine import simulate
from implicit_bias.losses import LOSSES
from implicit_bias.models import MODELS, Data
from implicit_bias.optimizers import OPTIMIZERS
from implicit_bias.run import main
from implicit_bias.schedules import SCHEDULES
from tests.support.foreign_runs import by_hand, by_us, difference, mine, mixture, problem, torch_class, trained
from tests.support.quick import quick_of

ADAM = "torch.optim.Adam"
#: Ours, and the same of torch's. The last amplifies round-off.
PAIRS: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "adam .999": ("adam", {"beta2": 0.999}, ADAM, {"eps": 0.0}),
    "adam eps": ("adam", {"eps": 1e-8}, ADAM, {"betas": [0.9, 0.95]}),
    "signgd": ("signgd", {}, "SignDescent", {}),
    "gd": ("gd", {}, "torch.optim.SGD", {}),
    "adam .95": ("adam", {}, ADAM, {"betas": [0.9, 0.95], "eps": 0.0}),
}
#: Every class of torch.optim that steps without a closure on dense gradients.
PLAIN = [
    name for name, cls in vars(torch.optim).items() if isinstance(cls, type) and name not in ("Optimizer", "LBFGS", "SparseAdam")
]


def paired(case: str, folder: Path) -> tuple[Any, Any]:
    ours, fields, target, kwargs = PAIRS[case]
    theirs = torch_class(mine(folder), target, kwargs) if "." not in target else torch_class(target, kwargs=kwargs)
    return OPTIMIZERS.get(ours)(**fields), theirs


@pytest.mark.slow
@pytest.mark.parametrize("case", PAIRS)
def test_a_class_of_torchs_takes_the_steps_of_ours(case: str, tmp_path: Path) -> None:
    ours, theirs = paired(case, tmp_path)
    data = mixture(1)
    assert difference(by_us(theirs, data, 100), by_us(ours, data, 100)) < 1e-11


@pytest.mark.slow
@pytest.mark.parametrize("case", ["adam .999", "adam .95"])
def test_and_takes_them_for_long(case: str, tmp_path: Path) -> None:
    ours, theirs = paired(case, tmp_path)
    data = mixture(1)
    a, b = (simulate(problem(optimizer, data, 600)) for optimizer in (theirs, ours))
    if case == "adam .95":
        assert a.by_norm["linf"]["margin"][-1] == pytest.approx(b.by_norm["linf"]["margin"][-1], rel=1e-3)
    else:
        assert difference(trained(a), trained(b)) < 1e-9


def test_the_classes_of_torch_are_those_that_this_knows() -> None:
    assert set(PLAIN) >= {"SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adagrad", "Adadelta", "RMSprop", "Rprop", "ASGD"}
    assert set(PLAIN) >= {"Adafactor", "Muon"}


#: They turn the last bit of a gradient into a digit of a step: bfloat16 of a number between two, and the sign of a zero.
TOUCHY = {"Muon": 30, "Rprop": 100}


@pytest.mark.parametrize("name", quick_of(sorted(set(PLAIN) - set(TOUCHY)), "AdamW", "SGD", "Adafactor"))
def test_every_class_steps_as_in_the_loop_one_would_write(name: str) -> None:
    data = mixture(2)
    ours = by_us(torch_class(f"torch.optim.{name}"), data, 40)
    assert difference(ours[0], by_hand(getattr(torch.optim, name), data, 40)) < 1e-11


@pytest.mark.parametrize("name", TOUCHY)
def test_and_the_touchy_ones_as_in_a_loop_over_the_same_gradients(name: str) -> None:
    data, unit = mixture(2), torch.zeros(())
    objective = MODELS.get("linear")().objective(data, LOSSES.get("cross_entropy")())
    weight = torch.nn.Parameter(torch.zeros(10, 25, dtype=torch.float64))
    optimizer = getattr(torch.optim, name)([weight])
    for t in range(1, TOUCHY[name] + 1):
        optimizer.param_groups[0]["lr"] = 0.07 * t**-0.5
        weight.grad = objective.gradient({"weight": weight.detach()[None]}).blocks["weight"].relative_to(unit)[0]
        optimizer.step()
    assert difference(by_us(torch_class(f"torch.optim.{name}"), data, TOUCHY[name])[0], weight.detach()) < 1e-11


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("name", quick_of(["AdamW", "RMSprop", "Adafactor"], "AdamW"))
def test_a_batch_is_a_loop(name: str, shared: bool) -> None:
    """One tensor for all runs where entries know nothing of each other and the rate is one, else an instance a run."""
    data, rates = mixture(1, 2, 3), [0.07] * 3 if shared else [0.07, 0.05, 0.03]
    lr = 0.07 if shared else torch.tensor(rates, dtype=torch.float64)
    schedule = SCHEDULES.get("power")(lr=lr, power=0.5)
    together = by_us(torch_class(f"torch.optim.{name}"), data, 20, schedule)
    for run, rate in enumerate(rates):
        alone = Data(data.x[run : run + 1], data.y[run : run + 1], data.num_classes)
        single = by_us(torch_class(f"torch.optim.{name}"), alone, 20, SCHEDULES.get("power")(lr=rate, power=0.5))
        assert difference(together[run], single[0]) < 1e-12


def test_the_gradient_of_log_loss_does_not_shrink() -> None:
    """SGD fed with it is steepest descent with steps relative to the loss, eta / L."""
    data = mixture(1)
    schedule = SCHEDULES.get("constant")(lr=0.02)
    fed = by_us(torch_class("torch.optim.SGD", feed="log_loss"), data, 60, schedule)
    ours = by_us(OPTIMIZERS.get("gd")(), data, 60, SCHEDULES.get("loss_based")(lr=0.02))
    assert difference(fed, ours) < 1e-11
    assert difference(fed, by_us(torch_class("torch.optim.SGD"), data, 60, schedule)) > 0.1


def test_as_given_writes_no_rate() -> None:
    data = mixture(1)
    trajectory = simulate(problem(torch_class(ADAM, kwargs={"lr": 0.02}), data, 60, SCHEDULES.get("as_given")()))
    assert difference(trained(trajectory)[0], by_hand(lambda p: torch.optim.Adam(p, lr=0.02), data, 60, lr=None)) < 1e-11
    lr = trajectory.common["lr"][:, 0]
    assert lr[0] != lr[0] and (lr[1:] == 0.02).all()


def test_a_rate_is_written_before_each_step() -> None:
    trajectory = simulate(problem(torch_class(ADAM), mixture(1), 60))
    assert trajectory.common["lr"][1:, 0] == pytest.approx([0.07 * t**-0.5 for t in trajectory.steps[1:]], rel=1e-14)


# What the user typed, and what the one line must contain.
BAD = [
    ("optimizer.target=AdamW", "optimizer.target=AdamW: must name a class; did you mean torch.optim.AdamW?"),
    ("optimizer.target=torch.optim.AdmW", "optimizer.target=torch.optim.AdmW: torch.optim has no AdmW; did you mean AdamW?"),
    ("optimizer.target=no_such_package.Lion", "optimizer.target=no_such_package.Lion: there is no module no_such_package here"),
    ("optimizer.target=no/such/file.py:Lion", "optimizer.target=no/such/file.py:Lion: no/such/file.py cannot be read (No such"),
    (
        "optimizer.target=torch.nn.Linear",
        "optimizer.target=torch.nn.Linear: must be a class derived from torch.optim.Optimizer, or a Python function of the param",
    ),
    ("optimizer.target=math.pi", "optimizer.target=math.pi: must be a class derived from torch.optim.Optimizer"),
    ("optimizer.target=torch.optim.Adamw", "optimizer.target=torch.optim.Adamw: torch.optim has no Adamw; did you mean AdamW?"),
    ("optimizer.target=adamw", "optimizer.target=adamw: must name a class; did you mean torch.optim.AdamW? allowed: a dotted"),
    (
        "optimizer.target=torch.optim",
        "optimizer.target=torch.optim: names no class; must be torch.optim.<class> with <class> one",
    ),
    ("optimizer.target=os.path", "optimizer.target=os.path: there is nothing of the kind in it; must be a class derived from"),
    ("optimizer.kwargs.weight_dcay=.1", "optimizer.kwargs.weight_dcay: unknown key for torch.optim.AdamW; did you mean weight"),
    ("optimizer.kwargs={foo:1}", "optimizer.kwargs.foo: unknown key for torch.optim.AdamW; allowed: betas, eps, weight_decay"),
    ("optimizer.kwargs=3", "optimizer.kwargs=3: must be a mapping {key:value,...}"),
    (
        "optimizer.kwargs.betas=[2,0.9]",
        "optimizer.kwargs={betas:[2.0,0.9]}: torch.optim.AdamW cannot be made with it (ValueError",
    ),
    (
        "optimizer.kwargs.lr=0.1",
        "optimizer.kwargs.lr: the learning rate is schedule.lr; leave it out, or give it with schedule=as",
    ),
    ("optimizer.feed=both", "optimizer.feed=both: must be loss or log_loss"),
    ("optimizer.own=l", "optimizer.own=l: no norm is called so"),
    ("optimizer.own=linff", "optimizer.own=linff: no norm is called so; did you mean linf?"),
    ("optimizer.target=torch.optim.Rprop", "schedule.lr=auto: means nothing for optimizer.target=torch.optim.Rprop, at a const"),
    (
        "optimizer.target=torch.optim.LBFGS",
        "schedule.lr=auto: means nothing for optimizer.target=torch.optim.LBFGS, it evaluates",
    ),
    (
        "schedule=lyu_li",
        "schedule=lyu_li: takes steps back, which optimizer=torch does not bear; allowed: schedule=as_given, constant or power",
    ),
    ("schedule=loss_based", "schedule=loss_based: divides the rate by the loss, which optimizer=torch does not bear; allowed:"),
    (
        "norm=l1",
        "norm=l1: norm is read by optimizer=dual_acceleration, mirror, nmd, nsd or sd only; optimizer=torch works in its own",
    ),
]


@pytest.mark.parametrize(("typed", "line"), BAD)
def test_mistakes_are_one_line(typed: str, line: str) -> None:
    with pytest.raises(BadInput) as error:
        compose(["optimizer=torch", typed])
    assert str(error.value).startswith(line.partition(":")[0]) and line in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (
            ["optimizer=muon", "schedule=as_given"],
            (
                "schedule=as_given: is for classes that bring a learning rate; optimizer=muon has none;"
                " allowed: schedule=constant or power, or optimizer=torch"
            ),
        ),
        (["optimizer=muon", "optimizer.kwargs.eps=1"], "optimizer.kwargs.eps: unknown key for optimizer=muon"),
        (["optimizer=torch", "schedule=as_given", "schedule.lr=1"], "schedule.lr=1: schedule=as_given has no such key"),
    ],
)
def test_what_does_not_go_together_is_one_line(typed: list[str], line: str) -> None:
    with pytest.raises(BadInput) as error:
        compose(typed)
    assert line in str(error.value)


def test_a_class_that_takes_any_keyword_is_warned_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "any.py"
    path.write_text("import torch\nclass Any(torch.optim.SGD):\n    def __init__(self, params, lr=1e-3, decay=0.0, **rest):\n"
                    "        super().__init__(params, lr=lr)\n")  # fmt: skip
    compose(["optimizer=torch", f"optimizer.target={path}:Any", "optimizer.kwargs.decya=1"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: optimizer.kwargs.decya: ") and "did you mean decay?" in line
    compose(["optimizer=torch", f"optimizer.target={path}:Any", "optimizer.kwargs.decay=1"])
    assert not capsys.readouterr().err


def test_keywords_are_typed_in_either_way_and_swept() -> None:
    (one,) = compose(["optimizer=torch", "optimizer.kwargs={weight_decay:1,betas:[0,0.95]}"])
    (other,) = compose(["optimizer=torch", "optimizer.kwargs.weight_decay=1.0", "optimizer.kwargs.betas=[0.0,0.95]"])
    assert one.spec == other.spec
    assert one.spec.canonical["optimizer"]["kwargs"] == {"weight_decay": 1.0, "betas": [0.0, 0.95]}
    swept = compose(["optimizer=torch", "optimizer.kwargs.weight_decay=0,0.1"], multirun=True)
    assert [cell.swept for cell in swept] == [{"optimizer.kwargs.weight_decay": 0.0}, {"optimizer.kwargs.weight_decay": 0.1}]


@pytest.mark.parametrize(("target", "power"), [("Adam", 0.5), ("SGD", 0.0), ("Adagrad", 0.0), ("RMSprop", 0.083), ("ASGD", 0.0)])
def test_the_automatic_power_makes_up_for_a_decay_of_its_own(target: str, power: float) -> None:
    (cell,) = compose(["optimizer=torch", f"optimizer.target=torch.optim.{target}"])
    assert cell.spec.value("schedule.power") == pytest.approx(power, abs=0.01)


SMALL = ["progress=off", "reference=none", "steps=20", "device=cpu", "log.points=5"]


def test_a_run_with_no_norm_of_its_own_has_no_star(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import implicit_bias

    typed = ["optimizer=torch", "optimizer.target=torch.optim.Adafactor", "schedule=as_given", *SMALL]
    _, summary = implicit_bias.run([*typed, f"results_dir={tmp_path}"])
    assert not summary["own"].any()
    assert main([*typed, f"results_dir={tmp_path}"]) == 0
    rows = capsys.readouterr().out.split("* the optimizer's own norm")[0]
    assert "*" not in rows
    _, named = implicit_bias.run([*typed, "optimizer.own=row", f"results_dir={tmp_path}"])
    assert named.loc[named["own"], "norm"].tolist() == ["row"]


def test_the_automatic_rate_is_that_of_our_own_method(tmp_path: Path) -> None:
    import implicit_bias

    ours, theirs = (
        implicit_bias.run([typed, *SMALL, f"results_dir={tmp_path}", "dataset.seed=1"])[0]
        for typed in ("optimizer=adam", "optimizer=torch")
    )
    assert theirs["lr"].to_numpy()[1:] == pytest.approx(ours["lr"].to_numpy()[1:], rel=1e-5, nan_ok=True)


def test_the_automatic_rate_for_gradients_of_log_loss_counts_their_size_at_the_start(tmp_path: Path) -> None:
    """The first step of SGD is as long as that of normalised descent."""
    import implicit_bias

    fed = ["optimizer=torch", "optimizer.target=torch.optim.SGD", "optimizer.feed=log_loss"]
    rates = [implicit_bias.run([*typed, *SMALL, f"results_dir={tmp_path}"])[0]["lr"].max() for typed in (fed, ["optimizer=ngd"])]
    data = mixture(1)
    gradient = (
        MODELS.get("linear")()
        .objective(data, LOSSES.get("cross_entropy")())
        .gradient({"weight": torch.zeros(1, 10, 25).double()})
    )
    size = float(gradient.blocks["weight"].relative_to(gradient.log_loss[:, None, None]).norm())
    assert rates[0] * size == pytest.approx(rates[1], rel=1e-9)


def test_a_class_may_be_given_as_an_object(tmp_path: Path) -> None:
    import implicit_bias

    keys: dict[str, Any] = {"optimizer.target": torch.optim.Adam, "optimizer.kwargs": {"betas": [0.9, 0.95]}}
    trajectory, _ = implicit_bias.run("optimizer=torch", *SMALL, results_dir=str(tmp_path), **keys)
    assert trajectory["step"].max() == 20
    (folder,) = tmp_path.glob("runs/*")
    assert "torch-Adam-" in folder.name
