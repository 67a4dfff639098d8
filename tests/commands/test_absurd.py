"""Absurd values of every numeric key: a line that names the key, or a run that comes to an honest end; never a bug."""

import re
from pathlib import Path
from typing import Any

import pytest

from implicit_bias.config.run_settings import SECTIONS, RunSettings
from implicit_bias.config.schema import REGISTRIES
from implicit_bias.core.registry import hyper_fields
from implicit_bias.run import main

SMALL = {
    "dataset.num_classes": "3",
    "dataset.dim": "4",
    "dataset.samples_per_class": "2",
    "steps": "12",
    "reference": "none",
    "log.norms": "[l2]",
    "log.points": "4",
    "progress": "off",
    "device": "cpu",
}
#: What an option needs beside itself.
NEEDS = {
    ("norm", None): {"optimizer": "nsd"},
    ("schedule", "loss_based"): {"optimizer": "gd"},
    ("schedule", "lyu_li"): {"optimizer": "gd"},
    ("schedule", "edge"): {"optimizer": "coordinate_descent", "loss": "exponential", "dataset": "rudin"},
    ("model", None): {"optimizer": "signgd"},
    ("dataset", None): {"model": "linear"},
}
ABSURD = ("1e300", "-1", "nan", str(10**30), "1e19", "1e12", "inf", "1e-300")
#: For integers alone, which end at 2^63 and may be sizes in memory; to a double they are as 10^30 is.
OF_INTEGERS = ("1e19", "1e12")
#: Large, and possible: it would take for ever.
POSSIBLE = {("steps", "1e12")}


def numeric(cls: type) -> list[str]:
    """The keys of a class that take numbers."""
    found = []
    for name, field in hyper_fields(cls).items():
        spec = field.metadata["hyper"]
        bounded = any(getattr(spec, bound) is not None for bound in ("ge", "gt", "le", "lt"))
        if spec.choices is None and (bounded or type(field.default) in (int, float)):
            found.append(name)
    return found


def real(group: str, option: str, key: str) -> bool:
    """Whether a key's default is a double."""
    cls = REGISTRIES[group].get(option) if group in REGISTRIES else SECTIONS.get(group, RunSettings)
    return isinstance(hyper_fields(cls)[key].default, float)


KEYS = [
    *(("", "", name) for name in numeric(RunSettings)),
    *((section, "", name) for section, cls in SECTIONS.items() for name in numeric(cls)),
    *((group, o, name) for group, registry in REGISTRIES.items() for o in registry.names() for name in numeric(registry.get(o))),
]


def typed(group: str, option: str, key: str, value: str, results: Path) -> list[str]:
    keys: dict[str, Any] = dict(SMALL)
    if group in REGISTRIES:
        keys.update(NEEDS.get((group, option), NEEDS.get((group, None), {})))
        keys[group] = option
    if group == "dataset":
        keys = {k: v for k, v in keys.items() if not k.startswith("dataset.")}
    if group == "dataset" and option in ("digits", "mnist"):
        keys["dataset.samples_per_class"] = "2"
    if (group, option) == ("model", "cnn"):
        keys = {k: v for k, v in keys.items() if not k.startswith("dataset.")} | {
            "dataset": "digits", "dataset.samples_per_class": "2", "dataset.pixels": "4",
        }  # fmt: skip
    if (group, option, key) == ("optimizer", "adam", "eps") or group == "schedule":
        keys["compile"] = "off"
    if group == "launcher":
        keys["launcher.cluster"] = "local" if key == "workers" else "slurm"
    keys[f"{group}.{key}" if group else key] = value
    return [*(f"{k}={v}" for k, v in keys.items()), f"results_dir={results}"]


def test_there_are_keys_of_every_kind() -> None:
    assert {("", "", "steps"), ("log", "", "points"), ("norm", "lp", "p"), ("dataset", "gaussian_mixture", "noise")} <= set(KEYS)
    assert ("schedule", "power", "lr") in KEYS and len(KEYS) > 60


@pytest.mark.slow
@pytest.mark.parametrize(("group", "option", "key"), KEYS)
def test_an_absurd_value_is_refused_by_its_key_or_the_run_ends_honestly(
    group: str, option: str, key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("IMPLICIT_BIAS_DATA", raising=False)
    dotted = f"{group}.{key}" if group else key
    left_out = {value for name, value in POSSIBLE if name == dotted} | set(OF_INTEGERS if real(group, option, key) else ())
    for value in (value for value in ABSURD if value not in left_out):
        results = tmp_path / value
        code = main(typed(group, option, key, value, results))
        error = capsys.readouterr().err
        assert "bug" not in error and "Traceback" not in error and "Warning:" not in error, (dotted, value, error)
        if code:
            assert error.count("\n") == 1 and error.startswith("error: "), (dotted, value, error)
        if code == 2:
            assert re.match(rf"error: ({re.escape(dotted)}=|dataset[=.]|model\.|launcher\.|schedule\.)", error), (
                value,
                error,
            )
            assert not results.exists(), (dotted, value)
