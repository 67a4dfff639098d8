"""Overrides in, resolved and checked configurations out; every mistake is one line that names its key."""

import dataclasses
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from implicit_bias import run
from implicit_bias.config import composition, files, overrides, schema
from implicit_bias.config.files import config_directory, groups, main_page
from implicit_bias.config.overrides import as_override, cannot_differ, compose
from implicit_bias.config.run_settings import SECTIONS, RunSettings
from implicit_bias.config.schema import REGISTRIES, checked, rules
from implicit_bias.config.typed import plain
from implicit_bias.core.errors import BadInput
from implicit_bias.core.registry import hyper_fields
from implicit_bias.optimizers import OPTIMIZERS
from tests.support.quick import quick_of

OPTIONS = [(group, option) for group, registry in REGISTRIES.items() for option in registry]
PRIMARY = yaml.safe_load((config_directory() / "config.yaml").read_text())


def config_of(*typed: str) -> dict[str, Any]:
    (cell,) = compose(typed)
    return cell.spec.canonical


# What the user typed, and what the one line must contain: the key first, then what is allowed.
BAD = [
    ("optimizr=muon", "optimizr: unknown key; did you mean optimizer?"),
    ("optimizr.beta=0.5", "optimizr.beta: unknown key; did you mean optimizer.beta?"),
    ("optimizer.bta=0.5", "optimizer.bta: unknown key for optimizer=muon; did you mean optimizer.beta?"),
    ("foo=1", "foo: unknown key; allowed: dataset, model"),
    ("--optimizer=muon", "--optimizer: keys have no dashes; write optimizer=muon"),
    ("compare", "compare: must be key=value; another command is called python -m implicit_bias.compare"),
    ("dataset=iris", "dataset=iris: no such option; did you mean dataset=sklearn dataset.name=iris? allowed: "),
    ("dataset=a/My.CSV", "dataset=a/My.CSV: no such option; did you mean dataset=file dataset.path=a/My.CSV? allowed: "),
    ("dataset=sklearn dataset.name=irs", "dataset.name=irs: must be iris, wine, breast_cancer or digits"),
    ("optimizer=adam optimizer.beta=0.5", "optimizer.beta=0.5: optimizer=adam has no such key; did you mean optimizer.beta1? "),
    ("lr=0.1", "lr: unknown key; did you mean schedule.lr? allowed: dataset, "),
    ("optimizer.lr=0.1", "optimizer.lr: unknown key for optimizer=muon; did you mean schedule.lr?"),
    ("momentum=0.9", "momentum: unknown key; did you mean optimizer.beta?"),
    (
        "optimizer=signgd optimizer.momentum=.9",
        "optimizer.momentum: unknown key for optimizer=signgd; did you mean optim",
    ),
    ("epochs=3", "epochs: unknown key; did you mean steps (an update is made from all samples, so that a step is an epoch,"),
    ("batch_size=5", "batch_size: unknown key; did you mean batch.size?"),
    ("dataset.batch_size=5", "dataset.batch_size: unknown key for dataset=gaussian_mixture; did you mean batch.size?"),
    ("weight_decay=0.1", "weight_decay: unknown key; did you mean optimizer.weight_decay?"),
    ("bias=true", "bias: unknown key; did you mean model.bias (of networks; "),
    ("depth=3", "depth: unknown key; did you mean model.depth (of model="),
    ("optimizer.esp=1", "optimizer.esp: unknown key for optimizer=muon; did you mean optimizer.eps (of optimizer=adam, "),
    ("dataset.colour=1", "dataset.colour: unknown key for dataset=gaussian_mixture; allowed: dataset.num_classes, "),
    ("experiment=nothing", "experiment=nothing: no such option; allowed: "),
    ("optimizer=adamw", "optimizer=adamw: no such option; did you mean optimizer=adam optimizer.weight_decay=0.01? allowed: "),
    (
        "optimizer=rmsprop",
        "optimizer=rmsprop: no such option; did you mean optimizer=torch optimizer.target=",
    ),
    ("+foo=1", "foo: unknown key (nor can keys be added with +); allowed: dataset"),
    ("++foo=1", "foo: unknown key"),
    ("+seed=1", "seed: keys cannot be added with +; write seed=1"),
    ("~seed", "seed: keys cannot be deleted with ~"),
    ("~norm=l2", "norm: keys cannot be deleted with ~"),
    ("hydra.run.dir=x", "hydra.run.dir: unknown key"),
    ("hydra/launcher=joblib", "hydra/launcher: unknown key"),
    ("optimizer@x=muon", "optimizer@x: unknown key"),
    ("optimizer=mu0n", "optimizer=mu0n: no such option; did you mean muon? allowed: adam, "),
    ("optimizer=null", "optimizer=null: no such option; allowed: adam, "),
    ("optimizer=[muon]", "optimizer=[muon]: no such option"),
    ("optimizer={a: b}", "optimizer={a:b}: no such option"),
    ("optimizer.name=adam", "optimizer.name=adam: an option is chosen by its group; allowed: optimizer=adam"),
    ("norm=l7", "norm=l7: no such option"),
    ("muon", "muon: must be key=value, such as optimizer=muon"),
    ("help", "help: must be key=value; did you mean --help?"),
    ("=3", "=3: must be key=value"),
    ("seed=1,2", "seed=1,2: several values need -m: python -m implicit_bias.run -m seed=1,2"),
    ("seed=range(1,5)", "seed=range(1,5): several values need -m: python -m implicit_bias.run -m 'seed=range(1,5)'"),
    ("seed=range(2", "seed=range(2: cannot be read (the bracket ( is not closed); did you mean -m 'seed=range(2)'?"),
    ("seed=[1", "seed=[1: cannot be read (the bracket [ is not closed); did you mean 'seed=[1]'?"),
    (
        "log.norms=[l1,[l2,",
        "log.norms=[l1,[l2,: cannot be read (the bracket [ is not closed); did you mean 'log.norms=[l1,[l2]]'?",
    ),
    ("log.norms=l1,l2]", "log.norms=l1,l2]: cannot be read (the bracket ] closes nothing); did you mean 'log.norms=[l1,l2]'?"),
    ("log.norms=[l1)", "log.norms=[l1): cannot be read (the bracket ) closes nothing); a text stands in quotes: 'log."),
    ("name='a", "name='a: cannot be read (the quote ' is not closed); did you mean 'name=\"a\"'?"),
    (
        "dataset.path=it's",
        """dataset.path=it's: cannot be read (the quote ' is not closed); did you mean 'dataset.path="it'"'"'s"'?""",
    ),
    ("seed=[1,2", "seed=[1,2: cannot be read (the bracket [ is not closed); did you mean -m seed=1,2?"),
    ("norm.p=(1,2)", "norm.p=(1,2): cannot be read (values stand without round brackets); did you mean -m norm.p=1,2?"),
    ('name=[a,"b]', 'name=[a,"b]: cannot be read (the quote " is not closed); a text stands in quotes: \'name="..."\''),
    ("name=a(1", "name=a(1: cannot be read (the bracket ( is not closed); a text stands in quotes: 'name=\"a(1\"'"),
    ("name=a(1).csv", "name=a(1).csv: cannot be read (an unexpected character); a text stands in quotes: 'name=\"a(1).csv\"'"),
    ("optimizer.beta==0.5", "optimizer.beta==0.5: cannot be read (a sign too many); did you mean optimizer.beta=0.5?"),
    ("seed=rang(2)", "seed=rang(2): must be a value, or with -m several: a,b,c or range(start,stop,step)"),
    ("seed=[1,2]", "seed=[1,2]: must be an integer in [0, 4294967295]; several values: -m seed=1,2"),
    ("optimizer=[muon,gd]", "optimizer=[muon,gd]: must be one option, or with -m several: optimizer=muon,gd"),
    ("seed=interval(1,2)", "seed=interval(1,2): must be a value"),
    ("seed.foo=1", "seed.foo: unknown key; allowed: seed"),
    ("seed=-1", "seed=-1: must be an integer in [0, 4294967295]"),
    ("seed=4294967296", "seed=4294967296: must be an integer in [0, 4294967295]"),
    ("steps=-5", "steps=-5: must be an integer >= 1"),
    ("steps=0", "steps=0: must be an integer >= 1"),
    ("steps=1.5", "steps=1.5: must be an integer >= 1"),
    ("steps='1'", "steps='1': must be an integer >= 1"),
    ("steps=true", "steps=true: must be an integer >= 1"),
    ("steps=99999999999999999999", "steps=99999999999999999999: must be an integer >= 1, at most 1000000000000000"),
    ("steps=1e19", "steps=1e+19: must be an integer >= 1, at most 1000000000000000"),
    ("dataset.dim=1e300", "dataset.dim=1e+300: must be an integer >= 1, at most 1000000000000000"),
    ("model=mlp model.depth=1e9", "model.depth=1000000000.0: must be an integer >= 1, at most 10000"),
    ("log.norms=[hybridnan]", "log.norms=[hybridnan]: no norm is called hybridnan"),
    ("log.norms=[lpnan,l2]", "log.norms=[lpnan,l2]: no norm is called lpnan"),
    ("log.norms=[hybridinf]", "log.norms=[hybridinf]: no norm is called hybridinf"),
    ("log.norms=[hybrid-1]", "log.norms=[hybrid-1]: no norm is called hybrid-1"),
    ("steps=null", "steps=null: must be an integer >= 1"),
    ("steps=", "steps=: must be an integer >= 1"),
    ("steps=[1]", "steps=[1]: must be an integer >= 1"),
    ("steps={a: 1}", "steps={a: 1}: must be one value"),
    ("steps=${nowhere}", "steps: Interpolation key 'nowhere' not found"),
    (
        "norm.p=0.5",
        "norm.p=0.5: no norm is chosen; norm.p needs norm=lp, norm=neuron or norm=schatten, and must be a number in [1, inf]",
    ),
    ("optimizer=nsd norm=lp norm.p=0.5", "norm.p=0.5: must be a number in [1, inf]"),
    ("optimizer=nsd norm=lp norm.p=nan", "norm.p=nan: must be a number in [1, inf]"),
    ("optimizer=nsd norm=l2 norm.p=3", "norm.p=3: norm=l2 has no such key; norm.p needs norm=lp, norm=neuron or norm=schatten"),
    (
        "norm=linf",
        "norm=linf: norm is read by optimizer=dual_acceleration, mirror, nmd, nsd or sd only; optimizer=muon works in",
    ),
    (
        "optimizer=adam norm=l2",
        "norm=l2: norm is read by optimizer=dual_acceleration, mirror, nmd, nsd or sd only; optimizer=adam",
    ),
    ("schedule.lr=abc", "schedule.lr=abc: must be 'auto' or a number > 0"),
    ("schedule.lr=0", "schedule.lr=0: must be 'auto' or a number > 0"),
    ("schedule.lr=-.1", "schedule.lr=-0.1: must be 'auto' or a number > 0"),
    ("schedule.lr=nan", "schedule.lr=nan: must be 'auto' or a number > 0"),
    ("schedule.lr=inf", "schedule.lr=inf: must be 'auto' or a number > 0"),
    ("schedule.lr=true", "schedule.lr=true: must be 'auto' or a number > 0"),
    ("schedule.power=-1", "schedule.power=-1: must be 'auto' or a number >= 0"),
    ("schedule=constant schedule.power=1", "schedule.power=1: schedule=constant has no such key"),
    ("schedule=loss_based", "schedule=loss_based: steps of optimizer=muon do not shrink with the loss; allowed: schedule="),
    ("dataset.num_classes=1", "dataset.num_classes=1: must be an integer >= 2"),
    ("dataset.noise=-1", "dataset.noise=-1: must be a number >= 0"),
    (
        "dataset.samples=3",
        "dataset.samples=3: dataset=gaussian_mixture has no such key; did you mean dataset.samples_per_class? ",
    ),
    ("dataset=digits dataset.classes=3", "dataset.classes=3: must be null or a list [a,b,...] of integers"),
    ("dataset=digits dataset.classes=[a]", "dataset.classes=[a]: must be null or a list"),
    ("dataset=mnist dataset.pixels=8", "dataset.pixels=8: must be 28, 14 or 7"),
    ("dataset=mnist dataset.task=odd", "dataset.task=odd: must be digits or parity"),
    ("dataset=digits dataset.samples=1", "dataset.samples=1: must be null or an integer >= 2"),
    ("optimizer.beta=1", "optimizer.beta=1: must be a number in [0, 1)"),
    ("optimizer.nesterov=1", "optimizer.nesterov=1: must be true or false"),
    ("optimizer=signgd optimizer.beta=0.5", "optimizer.beta=0.5: optimizer=signgd has no such key; optimizer.beta needs"),
    ("optimizer=adam optimizer.eps=-1e-8", "optimizer.eps=-1e-08: must be a number >= 0"),
    ("optimizer=muon_ns optimizer.ns_steps=0", "optimizer.ns_steps=0: must be an integer in [1, 100]"),
    ("optimizer=muon_ns optimizer.eps=-1", "optimizer.eps=-1: must be a number >= 0"),
    ("optimizer=muon_ns optimizer.coefficients=you", "optimizer.coefficients=you: must be jordan or polar_express"),
    ("optimizer=muon_ns optimizer.dtype=float16", "optimizer.dtype=float16: must be float64 or bfloat16"),
    ("model.init=ones", "model.init=ones: must be "),
    ("model.blocks=[12,0]", "model.blocks=[12,0]: must be null or a list [a,b,...] of integers >= 1"),
    ("model.blocks=[]", "model.blocks=[]: must be null or a list [a,b,...] of integers >= 1"),
    ("model.blocks=25", "model.blocks=25: must be null or a list [a,b,...] of integers"),
    ("optimizer=nsd norm=hybrid norm.outer=l1", "norm.outer=l1: must be max or l2"),
    ("precision=float16", "precision=float16: must be float64 or float32"),
    ("device=tpu", "device=tpu: must be auto, cpu or cuda"),
    ("reference=maybe", "reference=maybe: must be auto, exact, certified, formula or none"),
    ("force=1", "force=1: must be true or false"),
    ("log=5", "log: is a group of keys, not a value; allowed: log.norms, log.points"),
    ("log={points: 5}", "log: is a group of keys, not a value"),
    ("log.points=1", "log.points=1: must be an integer in [2, 100000]"),
    ("log.weights=some", "log.weights=some: must be last, all or none"),
    ("log.norms=l1", "log.norms=l1: must be a list"),
    ("log.norms=[lq]", "log.norms=[lq]: no norm is called lq; allowed: column, l1, l2, linf"),
    ("log.norms=[l1,spectrl]", "log.norms=[l1,spectrl]: no norm is called spectrl; did you mean spectral?"),
    ("log.norms=[lp0.5]", "log.norms=[lp0.5]: no norm is called lp0.5; allowed: column, l1"),
    ("name=a/b", "name=a/b: must be null, or letters"),
    ("name=..", "name=..: must be null, or letters"),
    ("results_dir=", "results_dir=: must be the path of a folder"),
    ("experiment=xyz", "experiment=xyz: no such option; allowed: "),
]

BAD_SWEEPS = [
    ("optimizer=muon,mu0n", "optimizer=mu0n: no such option; did you mean muon?"),
    ("steps=5,0", "steps=0: must be an integer >= 1"),
    ("optimizer=muon,signgd optimizer.beta=0.5", "optimizer.beta=0.5: optimizer=signgd has no such key"),
    ("seed=range(0)", "seed=range(0): a sweep over no value at all"),
    ("device=cpu,auto", "device: cannot be swept"),
    ("results_dir=a,b", "results_dir: cannot be swept"),
    ("schedule.lr=interval(1,2)", "schedule.lr=interval(1,2): must be a value, or with -m several"),
    ("seed=range(1,5", "seed=range(1,5: cannot be read (the bracket ( is not closed); did you mean 'seed=range(1,5)'?"),
    ("seed=range(a)", "seed=range(a): must be a value, or with -m several: a,b,c or range(start,stop,step)"),
    ("seed=1,2,", "seed=1,2,: cannot be read (a sign too many); did you mean seed=1,2?"),
    ("seed=range(1,5,0)", "seed=range(1,5,0): must be a value, or with -m several: a,b,c or range(start,stop,step), with a step"),
    ("schedule.lr=range(.1,.5,0)", "schedule.lr=range(.1,.5,0): must be a value, or with -m several: a,b,c or range("),
    ("schedule.lr=range(0,1,nan)", "schedule.lr=range(0,1,nan): must be a value, or with -m several: a,b,c or range("),
    ("seed=0..4", "seed=0..4: must be an integer in [0, 4294967295]; several values: -m 'seed=range(0,5)'"),
    ("steps=10-20", "steps=10-20: must be an integer >= 1; several values: -m 'steps=range(10,21)'"),
    ("seed=(1,2)", "seed=(1,2): cannot be read (values stand without round brackets); did you mean seed=1,2?"),
]


def split(text: str) -> list[str]:
    """Overrides at blanks, except within braces."""
    return re.split(r" (?![^{]*\})", text)


@pytest.mark.parametrize(("typed", "line"), BAD)
def test_bad_input_is_one_line_that_begins_with_its_key(typed: str, line: str) -> None:
    with pytest.raises(BadInput) as raised:
        compose(split(typed))
    assert str(raised.value).startswith(line)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("typed", "line"), BAD_SWEEPS)
def test_one_invalid_cell_refuses_the_whole_sweep(typed: str, line: str) -> None:
    with pytest.raises(BadInput, match=re.escape(line)):
        compose(split(typed), multirun=True)


def test_cuda_without_a_gpu_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    schema.has_cuda.cache_clear()
    with pytest.raises(BadInput, match="device=cuda: no CUDA GPU is available here; allowed: auto, cpu"):
        compose(["device=cuda"])
    schema.has_cuda.cache_clear()


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_yaml_defaults_are_those_of_the_registered_class(group: str, option: str) -> None:
    written = yaml.safe_load((config_directory() / group / f"{option}.yaml").read_text())
    fields = hyper_fields(REGISTRIES[group].get(option))
    declared = {name: list(f.default) if isinstance(f.default, tuple) else f.default for name, f in fields.items()}
    beside = written.pop("beside", {})
    assert all(chosen in REGISTRIES[other] for other, chosen in beside.items())
    assert written == {"name": option, **declared} | ({"seed": "${seed}"} if "seed" in declared else {})
    assert groups()[group][option].help


def test_every_file_of_a_group_is_registered() -> None:
    for group, registry in REGISTRIES.items():
        assert sorted(groups()[group]) == registry.names()


def test_yaml_defaults_of_the_run_are_those_of_the_settings() -> None:
    for cls, written in ((RunSettings, PRIMARY), *((section, PRIMARY[key]) for key, section in SECTIONS.items())):
        for name, field in hyper_fields(cls).items():
            default = list(field.default) if isinstance(field.default, tuple) else field.default
            assert written[name] == default, name
    assert set(PRIMARY) == {"defaults", "norm", *SECTIONS, *hyper_fields(RunSettings)}


def meanings(prefix: str, cls: type) -> dict[str, str]:
    """The dotted keys of a class, and what it says they mean."""
    return {f"{prefix}{name}": field.metadata["hyper"].help for name, field in hyper_fields(cls).items()}


def test_comments_of_the_run_are_the_meanings_of_its_settings() -> None:
    declared = meanings("", RunSettings)
    for section, cls in SECTIONS.items():
        declared |= meanings(f"{section}.", cls)
    written = {key: page.help for key, page in main_page().keys.items() if key not in groups()}
    assert written == declared


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_comments_of_an_option_are_the_meanings_of_its_class(group: str, option: str) -> None:
    declared = meanings("", REGISTRIES[group].get(option))
    assert all(declared.values())
    commented = {key: page.help for key, page in groups()[group][option].keys.items() if page.help}
    assert commented == {key: declared[key] for key in commented}


def test_the_defaults_of_the_contract() -> None:
    config = config_of()
    assert config["dataset"] == {
        "name": "gaussian_mixture",
        "num_classes": 10,
        "dim": 25,
        "samples_per_class": 10,
        "noise": 1.0,
        "test_samples": 0,
        "rotate": None,
        "seed": 1,
    }
    assert config["steps"] == 10_000
    assert config["schedule"] == {"name": "power", "lr": "auto", "power": 0.5}
    assert config["reference"] == "exact"
    assert config["norm"] is None
    assert config["log"]["norms"] == ["linf", "l1", "l2", "spectral", "nuclear"]
    assert config_of("optimizer=signum")["optimizer"]["beta"] == 0.9


@pytest.mark.parametrize("optimizer", OPTIMIZERS.names())
def test_the_automatic_power(optimizer: str) -> None:
    def power(*typed: str) -> float:
        return float(config_of(f"optimizer={optimizer}", "schedule=power", *typed)["schedule"]["power"])

    if optimizer == "dual_acceleration":  # which has no other schedule than its own
        with pytest.raises(BadInput, match="schedule=power: steps of optimizer=dual_acceleration are divided by the loss"):
            power()
        return
    assert power() == (0 if optimizer in ("gd", "mirror", "momentum_gd", "sd") else 0.5)
    assert power("schedule.power=0.3") == 0.3
    assert power("model=mlp") == 0.8


def turned(turn: int) -> list[str]:
    """An option of every group; in as many turns as a group has options all of them come by."""
    return [f"{group}={list(registry)[turn % len(list(registry))]}" for group, registry in REGISTRIES.items()]


def is_what_hydra_composes(typed: list[str]) -> bool:
    ((_, ours),) = overrides._plans(typed, multirun=False)
    with hydra.initialize_config_dir(config_dir=str(config_directory()), version_base="1.3"):
        theirs: Any = OmegaConf.to_container(hydra.compose("config", overrides=typed), resolve=True)
    theirs["optimizer"].pop("beside", None)  # which is ours: Hydra has no default of a group that another group's option gives
    return bool(ours == theirs)


def test_an_option_has_others_beside_it_where_nobody_names_them() -> None:
    def schedule(*typed: str) -> str:
        return str(config_of(*typed)["schedule"]["name"])

    assert schedule("optimizer=mirror") == schedule("optimizer=dual_acceleration", "schedule.lr=2") == "loss_based"
    assert schedule("optimizer=mirror", "schedule=constant") == "constant"
    assert schedule("optimizer=gd") == schedule("experiment=fast_margins", "optimizer=gd") == "power"
    assert schedule("experiment=fast_margins") == schedule("experiment=rates", "schedule=loss_based", "optimizer=mirror")
    assert schedule("experiment=rates", "optimizer=mirror") == "power"  # which the experiment names
    assert "beside" not in config_of("optimizer=mirror")["optimizer"]
    ways = [cell.spec.schedule.name for cell in compose(["optimizer=mirror,gd"], multirun=True)]
    assert ways == ["loss_based", "power"]


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(max(len(list(registry)) for registry in REGISTRIES.values())))
def test_options_make_what_hydra_composes(turn: int) -> None:
    assert is_what_hydra_composes(turned(turn))


def forms() -> list[str]:
    """One experiment of every set of keys: those that set the same are composed alike."""
    found = {tuple(sorted(keys_of(composition.option_file("experiment", name)))): name for name in sorted(groups()["experiment"])}
    return list(found.values())


def keys_of(node: Any, prefix: str = "") -> list[str]:
    """The dotted keys that a file sets, and the groups whose options it chooses."""
    if prefix == "defaults.":
        return [f"{prefix}{key}" for entry in node for key in entry]
    if not isinstance(node, dict):
        return [prefix]
    return [key for name, value in node.items() for key in keys_of(value, f"{prefix}{name}.")]


@pytest.mark.slow
@pytest.mark.parametrize(("turn", "experiment"), list(enumerate(forms())))
def test_options_under_an_experiment_make_what_hydra_composes(turn: int, experiment: str) -> None:
    assert is_what_hydra_composes([f"experiment={experiment}", *turned(turn)])


@pytest.mark.slow
@pytest.mark.parametrize("experiment", forms()[::3])
def test_an_experiment_alone_makes_what_hydra_composes(experiment: str) -> None:
    ours, theirs = composition.experiment_alone(experiment), composition.composed((f"experiment={experiment}",))
    assert ours == theirs and list(ours) == list(theirs)


def test_composition_leaves_no_hydra_state_behind() -> None:
    config_of()
    assert not GlobalHydra.instance().is_initialized()


@pytest.mark.parametrize("experiment", quick_of(sorted(groups()["experiment"]), "fan_fig1", "gv_fig2"))
def test_every_experiment_composes_and_is_explained(experiment: str) -> None:
    assert compose([f"experiment={experiment}"])
    assert groups()["experiment"][experiment].help


@pytest.mark.parametrize(
    ("typed", "same"),
    [
        ("steps=1e4", "steps=10000"),
        ("steps=10_000", "steps=10000"),
        ("schedule.lr=.1", "schedule.lr=0.1"),
        ("schedule.lr=1e-1", "schedule.lr=0.1"),
        ("schedule.lr=1", "schedule.lr=1.0"),
        ("dataset.noise=-0.0", "dataset.noise=0"),
        ("seed=2.0", "seed=2"),
        ("optimizer=nsd", "optimizer=nsd norm=l2"),
        ("optimizer=nsd norm=null", "optimizer=nsd norm=l2"),
        ("log.norms=[l1,lp3.0,l1]", "log.norms=[l1,lp3]"),
        ("dataset=file dataset.label=3", "dataset=file dataset.label='3'"),
        ("dataset=mnist dataset.pixels=14.0", "dataset=mnist dataset.pixels=14"),
        ("steps=${seed} seed=7", "steps=7 seed=7"),
        ("schedule.lr=auto", ""),
        ("experiment=null", ""),
    ],
)
def test_equal_settings_are_one_configuration_with_equal_types(typed: str, same: str) -> None:
    assert repr(config_of(*typed.split())) == repr(config_of(*same.split()))


def test_dataset_seed_follows_the_seed_unless_it_is_given() -> None:
    assert config_of("seed=7")["dataset"]["seed"] == 7
    config = config_of("seed=7", "dataset.seed=3")
    assert (config["seed"], config["dataset"]["seed"]) == (7, 3)


def test_infinite_exponents_are_exponents() -> None:
    assert config_of("optimizer=nsd", "norm=lp", "norm.p=inf")["norm"] == {"name": "lp", "p": float("inf")}


def test_a_sweep_is_the_product_in_order_with_interpolations_resolved_in_each_cell() -> None:
    cells = compose(["optimizer=signgd,muon", "seed=range(2)", "steps=5"], multirun=True)
    assert [(c.spec.canonical["optimizer"]["name"], c.spec.canonical["dataset"]["seed"]) for c in cells] == [
        ("signgd", 0),
        ("signgd", 1),
        ("muon", 0),
        ("muon", 1),
    ]
    assert cells[3].swept == {"optimizer": "muon", "seed": 1}
    assert cells[3].overrides == ("optimizer=muon", "seed=1", "steps=5")


@pytest.mark.parametrize(
    ("typed", "key", "values"),
    [
        ("schedule.lr=.01,auto", "schedule.lr", [0.01, "auto"]),
        ("schedule.lr=choice(.01,.1)", "schedule.lr", [0.01, 0.1]),
        ("schedule.power=range(0.5,2,0.5)", "schedule.power", [0.5, 1.0, 1.5]),
        ("log.norms=[l1],[l2,linf]", "log.norms", [["l1"], ["l2", "linf"]]),
        ("optimizer=glob(muon*)", "optimizer", ["muon", "muon_adam", "muon_max", "muon_ns", "muon_signum"]),
        ("optimizer=glob(*,exclude=[*])", "optimizer", None),
        ("schedule.lr=.1,0.1", "schedule.lr", [0.1]),
        ("seed=sort(3,1,2)", "seed", [1, 2, 3]),
    ],
)
def test_ways_to_sweep(typed: str, key: str, values: list[Any] | None) -> None:
    if values is None:
        with pytest.raises(BadInput, match="a sweep over no value at all"):
            compose([typed], multirun=True)
        return
    assert [cell.swept[key] for cell in compose([typed], multirun=True)] == values


def test_every_cell_of_a_sweep_is_what_its_own_overrides_give() -> None:
    typed = ["optimizer=nsd,nmd", "norm=lp,schatten", "norm.p=1.5,inf", "schedule.lr=.01,auto", "name=a_b", "log.norms=[l1],[l2]"]
    cells = compose(typed, multirun=True)
    assert len(cells) == 32
    for cell in cells[::5]:
        assert config_of(*cell.overrides) == cell.spec.canonical


def test_shuffled_values_keep_their_overrides() -> None:
    for cell in compose(["seed=shuffle(range(6))"], multirun=True):
        assert cell.overrides == (f"seed={cell.swept['seed']}",)


def test_cells_are_composed_quickly() -> None:
    compose([])
    started = time.perf_counter()
    cells = compose(["optimizer=nsd,nmd", "norm=linf,l2,spectral", "seed=range(50)"], multirun=True)
    # 16 ms a cell is asked for; the processor time is what counts when others use the machine.
    assert len(cells) == 300
    assert (time.perf_counter() - started) / len(cells) < 0.05


def test_warns_where_the_seed_changes_nothing() -> None:
    same = compose(["seed=1,2", "dataset.seed=1"], multirun=True)
    assert str(cannot_differ(same)).startswith("seed: ")
    assert cannot_differ(compose(["seed=1,2", "dataset=file"], multirun=True)) is not None
    assert cannot_differ(compose(["seed=1,2"], multirun=True)) is None
    assert cannot_differ(compose(["seed=1,2", "dataset.seed=1", "model.init=gaussian"], multirun=True)) is None
    assert cannot_differ(compose(["seed=1"])) is None


@pytest.mark.parametrize(
    ("key", "value", "typed"),
    [
        ("optimizer", "muon", "optimizer=muon"),
        ("steps", 5, "steps=5"),
        ("steps", 1e4, "steps=10000.0"),
        ("force", True, "force=true"),
        ("norm", None, "norm=null"),
        ("norm.p", float("inf"), "norm.p=inf"),
        ("name", "null", "name='null'"),
        ("dataset.path", "it's, a/path.npz", "dataset.path='it\\'s, a/path.npz'"),
        ("dataset.path", Path("a/b.npz"), "dataset.path=a/b.npz"),
        ("seed", [1, 2], "seed=choice(1,2)"),
        ("seed", range(3), "seed=choice(0,1,2)"),
        ("log.norms", ["l1", "l2"], "log.norms=[l1,l2]"),
        ("log.norms", [["l1"], ["l2"]], "log.norms=choice([l1],[l2])"),
        ("dataset.classes", [3, 5], "dataset.classes=[3,5]"),
    ],
)
def test_python_values_become_overrides(key: str, value: Any, typed: str) -> None:
    assert as_override(key, value) == typed


def test_texts_from_python_survive_the_grammar() -> None:
    for path in ("it's, a/path.npz", "a\\b.npz", "x=(1).csv", "ü ß.csv", "1e5", "true", "trailing\\"):
        config = config_of("dataset=file", as_override("dataset.path", path))
        assert config["dataset"]["path"] == path


def test_checked_refuses_what_composition_would_not_let_through() -> None:
    config = config_of()
    with pytest.raises(BadInput, match="foo: unknown key; allowed: seed, steps"):
        checked({**config, "foo": 1})
    with pytest.raises(BadInput, match=r"optimizer\.foo: unknown key for optimizer=muon; allowed: beta, nesterov"):
        checked({**config, "optimizer": {"name": "muon", "foo": 1}})
    with pytest.raises(BadInput, match="loss: missing; allowed: cross_entropy"):
        checked({key: value for key, value in config.items() if key != "loss"})
    with pytest.raises(BadInput, match="log=3: is a group of keys"):
        checked({**config, "log": 3})


def test_checked_is_idempotent() -> None:
    for typed in (["optimizer=nsd", "norm=lp"], ["optimizer=adam"], ["dataset=digits", "dataset.classes=[1,2]"]):
        config = config_of(*typed)
        assert checked(config) == config


def test_rules_say_in_words_what_is_allowed() -> None:
    for group, option in OPTIONS:
        for key, rule in rules(group, option).items():
            assert rule.allowed, (group, option, key)


@pytest.fixture
def own_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the configuration files that a test may change."""
    import shutil

    copied = tmp_path / "configs"
    shutil.copytree(config_directory(), copied)
    kept = (composition.composed, composition.main_keys, composition.defaults_alone, composition.experiment_alone)
    cached = (files.groups, files.main_page, *kept, composition.option_file, composition.under_experiment)
    for module in (files, composition):
        monkeypatch.setattr(module, "config_directory", lambda: copied)
    for function in cached:
        function.cache_clear()
    yield copied
    monkeypatch.undo()
    for function in cached:
        function.cache_clear()


def test_an_experiment_sets_options_and_keys_and_the_command_line_wins(own_configs: Path) -> None:
    (own_configs / "experiment" / "mine.yaml").write_text(
        "# @package _global_\n# An experiment of a test.\ndefaults:\n  - override /optimizer: adam\n  - override /norm: null\n\n"
        "steps: 50\noptimizer:\n  eps: 1.0e-8\ndataset:\n  samples_per_class: 50\n"
    )
    config = config_of("experiment=mine")
    assert (config["steps"], config["optimizer"]["name"], config["optimizer"]["eps"]) == (50, "adam", 1e-8)
    assert config["dataset"]["samples_per_class"] == 50
    assert config_of("experiment=mine", "steps=7")["steps"] == 7
    cells = compose(["experiment=mine,null", "seed=1,2"], multirun=True)
    assert [cell.swept for cell in cells][1:3] == [{"experiment": "mine", "seed": 2}, {"experiment": None, "seed": 1}]
    assert [cell.spec.canonical["steps"] for cell in cells] == [50, 50, 10_000, 10_000]
    # What the experiment sets for adam is no key of muon.
    with pytest.raises(BadInput, match=r"optimizer\.eps: unknown key for optimizer=muon"):
        config_of("experiment=mine", "optimizer=muon")


FIRST, BODY = "# @package _global_\n# An experiment of a test.\n", "steps: 50\nlog: {points: 7}\n"


@pytest.mark.parametrize(
    ("told", "optimizer"),
    [
        ("hydra: {job: {name: foo}}\n", "muon"),
        ("defaults:\n  - override /optimizer: adam\n  - override /optimizer: muon\n", "adam"),
        ("defaults:\n  - override /norm: null\n  - override /optimizer: adam\n", "adam"),
        ("defaults:\n  - override /optimizer: [adam]\n", "adam"),
        ("defaults: []\n", "muon"),
    ],
)
def test_an_experiment_of_any_form_makes_what_hydra_composes(told: str, optimizer: str, own_configs: Path) -> None:
    (own_configs / "experiment" / "mine.yaml").write_text(f"{FIRST}{told}{BODY}")
    ours, theirs = composition.experiment_alone("mine"), composition.composed(("experiment=mine",))
    assert ours == theirs and list(ours) == list(theirs) and ours["norm"] is None
    config = config_of("experiment=mine")
    assert (config["optimizer"]["name"], config["steps"], config["log"]["points"]) == (optimizer, 50, 7)


@pytest.mark.parametrize(
    "defaults",
    [
        "",
        " 3",
        " adam",
        " {override /optimizer: adam}",
        *(
            f"\n  - {entry}"
            for entry in ("3", "null", "{}", "[adam]", "3: adam", "override /optimizer: 3", "override /optimizer: no")
        ),
        *(f"\n  - override /optimizer: {option}" for option in ("{a: 1}", "adam\n    override /loss: exponential")),
    ],
)
def test_a_malformed_defaults_list_is_one_line(defaults: str, own_configs: Path) -> None:
    (own_configs / "experiment" / "mine.yaml").write_text(f"{FIRST}defaults:{defaults}\n{BODY}")
    with pytest.raises(BadInput, match=r"experiment=mine: \S.*") as error:
        config_of("experiment=mine")
    assert "\n" not in str(error.value)


def test_an_experiment_on_top_of_another_sets_what_both_do(own_configs: Path) -> None:
    (own_configs / "experiment" / "below.yaml").write_text("# @package _global_\nsteps: 50\noptimizer:\n  beta: 0.5\n")
    (own_configs / "experiment" / "above.yaml").write_text("# @package _global_\ndefaults:\n  - below\n\nseed: 3\n")
    config = config_of("experiment=above", "optimizer=signum")
    assert (config["steps"], config["seed"]) == (50, 3)
    assert (config["optimizer"]["name"], config["optimizer"]["beta"]) == ("signum", 0.5)


def test_an_experiment_may_leave_an_option_to_the_command_line(own_configs: Path) -> None:
    (own_configs / "experiment" / "open.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /optimizer: ???\n\noptimizer:\n  beta: 0.5\n"
    )
    assert config_of("experiment=open", "optimizer=signum")["optimizer"]["beta"] == 0.5
    with pytest.raises(BadInput, match=r"^experiment=open: [^\n]*optimizer[^\n]*$"):
        config_of("experiment=open")


def test_a_broken_experiment_is_one_line(own_configs: Path) -> None:
    (own_configs / "experiment" / "bad.yaml").write_text("# @package _global_\ndefaults:\n  - override /optimizer: nothing\n")
    (own_configs / "experiment" / "unknown.yaml").write_text("# @package _global_\nstep: 5\n")
    (own_configs / "experiment" / "listed.yaml").write_text("# @package _global_\nnorm: [1]\n")
    with pytest.raises(BadInput, match=r"experiment=bad: .*optimizer/nothing") as raised:
        compose(["experiment=bad"])
    assert "\n" not in str(raised.value)
    with pytest.raises(BadInput, match="step: unknown key; allowed: "):
        compose(["experiment=unknown"])
    with pytest.raises(BadInput, match=r"^norm=lp experiment=listed: [^\n]*merge[^\n]*$"):
        compose(["experiment=listed", "optimizer=nsd", "norm=lp"])


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunSettings().seed = 3  # type: ignore[misc]


def test_values_of_python_that_cannot_be_typed_are_refused() -> None:
    for value, says in (
        ({"muon"}, "optimizer: a value of type set cannot be a key's; must be a number, a text, or a list of them"),
        (
            np.arange(2),
            "optimizer: a value of type ndarray cannot be a key's; must be a number, a text, or a list of them (.tolist() ",
        ),
        (
            np.ones((2, 2)),
            "optimizer: a value of type ndarray cannot be a key's; arrays go to judge(make_optimizer, data=(X, y)) and",
        ),
    ):
        with pytest.raises(BadInput, match=re.escape(says)):
            as_override("optimizer", value)
    with pytest.raises(BadInput, match=r'^overrides: a int; must be strings such as "steps=100", or lists of them$'):
        run(["optimizer=muon", 3])
    with pytest.raises(BadInput, match=r"^overrides: a dict; keys with their values go as run\(\*\*\{\.\.\.\}\)$"):
        run({"optimizer": "muon"})


def test_a_home_that_the_shell_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    with pytest.raises(BadInput, match=r"; did you mean dataset\.path=/home/me/wine\.csv\?$"):
        compose(["dataset=file", "dataset.path=~/wine.csv"])


def test_the_last_of_a_repeated_key_counts() -> None:
    (cell,) = compose(["steps=10", "optimizer=muon", "steps=20", "optimizer=signgd"])
    assert cell.spec.canonical["steps"] == 20
    assert cell.spec.canonical["optimizer"] == {"name": "signgd", "weight_decay": 0.0}


def test_references_to_other_keys_are_those_of_omegaconf() -> None:
    """The quick way for ``${key}``, and the library's for anything more, such as nested and partial ones."""
    quick = config_of("seed=7", "dataset.samples_per_class=3")
    assert quick["dataset"]["seed"] == 7
    given = config_of("seed=3", "dataset.dim='${dataset.num_classes}'", "dataset.samples_per_class='${dataset.dim}'")
    assert given["dataset"]["dim"] == given["dataset"]["samples_per_class"] == given["dataset"]["num_classes"]
    assert config_of("name='a-${seed}'", "seed=4")["name"] == "a-4"
    with pytest.raises(BadInput, match="dim"):
        config_of("dataset.dim='${dataset.nothing}'")


def test_plain_values_are_read_as_hydra_does() -> None:
    words = [
        "muon",
        "torch.optim.AdamW",
        "my.npz",
        "a/b-c_1.csv",
        "x-1",
        "e5",
        "_a",
        "a.",
        "True",
        "NULL",
        "nan",
        "Inf",
        "a--b",
        "a/",
        "/a/b_1/-2e19",
        "/inf/../1.5",
        "/null",
        "/",
        "/a/",
        "/\u00e4",
    ]
    numbers = [
        "0",
        "-0",
        "7",
        "-12",
        "007",
        "1_000",
        "+3",
        "1.5",
        "-0.25",
        ".5",
        "5.",
        "1e4",
        "1E-8",
        "-2e+3",
        "1.50e-2",
        "1e",
        "--1",
    ]
    read = 0
    for value in [*words, *numbers, "true", "false", "null", "a b", "a:b", "a=b", "[1]", "$x", "", "1,2"]:
        setting = plain("optimizer.beta", value)
        if setting is not None:
            override = OverridesParser.create().parse_overrides([f"optimizer.beta={value}"])[0]
            assert (repr(setting.values[0]), setting.texts[0]) == (repr(override.value()), override.get_value_string()), value
            read += 1
    assert read >= 20 and plain("a+b", "1") is None


def test_the_defaults_are_composed_as_hydra_does() -> None:
    assert composition.defaults_alone() == composition.composed(())
    assert list(composition.defaults_alone()) == list(composition.composed(()))
