"""Data as people have them: chosen classes, samples left out, one scale, a constant feature, sets of scikit-learn, parquet."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_iris, load_wine
from sklearn.preprocessing import StandardScaler

from implicit_bias import run
from implicit_bias.config.overrides import compose
from implicit_bias.core.errors import BadInput
from implicit_bias.datasets import make_dataset
from implicit_bias.datasets.base import Dataset
from implicit_bias.datasets.prepared import Prepared
from implicit_bias.solvers.blocking import is_separable
from implicit_bias.sweep.content import remedies
from tests.support.datasets import load, refused


def _refused(**keys: Any) -> str:
    return refused(make_dataset({"name": "file", **keys}).load, "dataset.")


@pytest.fixture
def wine(tmp_path: Path) -> Path:
    frame = load_wine(as_frame=True).frame.rename(columns={"target": "label"})
    frame["label"] = frame["label"].map({0: "barolo", 1: "grignolino", 2: "barbera"})
    frame.to_csv(tmp_path / "wine.csv", index=False)
    return tmp_path / "wine.csv"


def test_features_of_one_scale_are_those_of_scikit_learn_and_the_constant_comes_last(wine: Path) -> None:
    raw = load("file", path=str(wine))
    data = load("file", path=str(wine), standardize=True, bias=True)
    assert np.allclose(data.x[:, :-1], StandardScaler().fit_transform(raw.x), rtol=0, atol=1e-12)
    assert np.array_equal(data.x[:, -1], np.ones(178)) and data.x.flags["C_CONTIGUOUS"]
    assert not [caution for caution in data.cautions if "standardize" in caution]
    assert [
        caution
        for caution in raw.cautions
        if "dataset.standardize=true" in caution and "'proline' goes up to 1.68e+03" in caution
    ]


def test_a_feature_that_never_changes_and_extreme_ones_are_standardised(tmp_path: Path) -> None:
    x = np.array([[0.1, 1e-90, 3e99], [0.1, 3e-90, -1e99], [0.1, 2e-90, 1e99]])
    np.savez(tmp_path / "a.npz", X=x, y=[0, 1, 1])
    data = load("file", path=str(tmp_path / "a.npz"), standardize=True)
    assert np.array_equal(data.x[:, 0], np.zeros(3))
    assert np.allclose(data.x[:, 1:].mean(axis=0), 0) and np.allclose(data.x[:, 1:].var(axis=0), 1)


def test_chosen_classes_and_samples_keep_their_order_names_and_numbers(wine: Path) -> None:
    raw = load("file", path=str(wine))
    data = load("file", path=str(wine), classes=["barbera", "barolo"], leave_out=[2, 178, 178])
    kept = [row for row in range(178) if raw.names is not None and raw.names[raw.y[row]] != "grignolino" and row not in (1, 177)]
    assert np.array_equal(data.x, raw.x[kept]) and data.names == ("barbera", "barolo")
    assert data.rows == tuple(row + 1 for row in kept)
    assert [data.names[label] for label in data.y] == [raw.names[label] for label in raw.y[kept] if raw.names]


@pytest.mark.parametrize(
    ("keys", "part"),
    [
        (
            {"classes": ["barolo"]},
            "dataset.classes=['barolo']: must be two or more different labels of barbera, barolo, grignolino",
        ),
        (
            {"classes": ["barolo", "merlot"]},
            "dataset.classes: no sample is labelled merlot; there are barbera, barolo, grignolino",
        ),
        ({"leave_out": [179]}, "dataset.leave_out: no sample 179; must be numbers from 1 to 178"),
        ({"classes": ["barolo", "barbera"], "leave_out": list(range(1, 60))}, "dataset.leave_out: leaves fewer than two classes"),
    ],
)
def test_bad_choices_are_refused(wine: Path, keys: dict[str, list[int]], part: str) -> None:
    assert part in _refused(path=str(wine), **keys)


def test_labels_of_one_number_choose_a_class(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", X=np.eye(3), y=[1.0, 2.0, 3.0])
    assert load("file", path=str(tmp_path / "a.npz"), classes=["3", "1.0"]).y.tolist() == [0, 1]


def test_a_set_of_scikit_learn_by_either_key() -> None:
    spec = compose(["dataset=sklearn", "dataset.name=iris", "dataset.classes=[setosa,virginica]"])[0].spec
    assert spec.hash() == compose(["dataset=sklearn", "dataset.set=iris", "dataset.classes=[setosa,virginica]"])[0].spec.hash()
    data, bunch = spec.dataset.load(), load_iris()
    assert np.array_equal(data.x, bunch.data[bunch.target != 1]) and data.names == ("setosa", "virginica")
    swept = compose(["dataset=sklearn", "dataset.name=iris,wine"], multirun=True)
    assert [cell.swept for cell in swept] == [{"dataset.set": "iris"}, {"dataset.set": "wine"}]
    with pytest.raises(BadInput, match=r"^dataset\.name=diabetes: must be iris, wine, breast_cancer or digits"):
        compose(["dataset=sklearn", "dataset.name=diabetes"])
    with pytest.raises(BadInput, match="an option is chosen by its group"):
        compose(["dataset.name=iris"])


def test_keys_at_their_defaults_change_no_hash_of_a_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", X=np.eye(2), y=[0, 1])
    plain = ["dataset=file", f"dataset.path={tmp_path / 'a.npz'}"]
    preparing = ["dataset.standardize=false", "dataset.bias=false", "dataset.classes=null", "dataset.leave_out=null"]
    assert compose(plain)[0].spec.hash() == compose([*plain, *preparing])[0].spec.hash()
    assert compose(plain)[0].spec.hash() != compose([*plain, "dataset.bias=true"])[0].spec.hash()


class TestParquet:
    pytestmark = pytest.mark.skipif(__import__("importlib.util").util.find_spec("pyarrow") is None, reason="needs pyarrow")

    def test_a_table_is_read_as_the_same_csv(self, wine: Path) -> None:
        frame = pd.read_csv(wine)
        frame.to_parquet(wine.with_suffix(".parquet"))
        here, there = (load("file", path=str(wine.with_suffix(suffix))) for suffix in (".parquet", ".csv"))
        assert np.array_equal(here.x, there.x) and np.array_equal(here.y, there.y) and here.names == there.names

    @pytest.mark.parametrize(
        ("change", "part"),
        [
            (lambda t: t.rename(columns={"label": "kind"}), "dataset.label=label: no such column"),
            (lambda t: t.assign(ash="much"), "column 'ash' has type"),
            (lambda t: t.assign(ash=[*[1.0] * 177, None]), "row 178, column 'ash': no value"),
            (lambda t: t.assign(label=[*["a"] * 100, None, *["b"] * 77]), "the label of sample 101 is missing"),
        ],
    )
    def test_a_bad_table_is_refused(self, wine: Path, change, part: str) -> None:  # type: ignore[no-untyped-def]
        change(pd.read_csv(wine)).to_parquet(wine.with_suffix(".parquet"))
        assert part in _refused(path=str(wine.with_suffix(".parquet")))

    def test_an_index_that_was_written_is_a_column_again(self, wine: Path) -> None:
        frame = pd.read_csv(wine)
        frame.set_index("label").to_parquet(wine.with_suffix(".parquet"))
        assert load("file", path=str(wine.with_suffix(".parquet"))).names == ("barbera", "barolo", "grignolino")

    def test_a_file_that_is_none(self, tmp_path: Path) -> None:
        (tmp_path / "a.parquet").write_bytes(b"PAR1 and nothing else")
        assert "dataset.path=" in _refused(path=str(tmp_path / "a.parquet"))


def test_a_dataset_from_a_frame_can_be_written_to() -> None:
    frame = pd.DataFrame(np.eye(2))
    source = make_dataset({"name": "sklearn", "set": "iris"})
    assert isinstance(source.load(), Dataset) and source.load().x.flags["WRITEABLE"]
    from implicit_bias.analysis.data import as_dataset

    assert as_dataset((frame, [0, 1])).x.flags["WRITEABLE"]


@pytest.mark.parametrize("seed", [9, 32, 37])  # where without a constant feature the rest, standardised anew, is not separable
def test_samples_to_leave_out_of_standardised_data_leave_the_others_separable(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    y = np.array([0, 1]).repeat(6)
    np.savez(tmp_path / "data.npz", X=np.exp(2 * rng.normal(size=(12, 2))) + 0.8 * y[:, None], y=y)
    keys = {"name": "file", "path": str(tmp_path / "data.npz"), "standardize": True}
    source = make_dataset(keys)
    assert isinstance(source, Prepared)
    (advice,) = remedies(source.load(), source)
    assert ": dataset.bias=true dataset.leave_out=[" in advice
    left_out = [int(number) for number in advice.split("[")[1].rstrip("]").split(",")]
    rest = make_dataset({**keys, "bias": True, "leave_out": left_out}).load()
    assert is_separable(rest.x, rest.y, rest.num_classes, 10.0) is True


def test_of_a_call_with_arrays_that_is_refused_nothing_is_written(tmp_path: Path) -> None:
    data = (np.eye(3), ["a", "b", "c"])
    for keys, key in (({"steps": -1}, "steps"), ({"dataset.classes": ["z"]}, "dataset.classes")):
        with pytest.raises(BadInput, match=f"^{key}"):
            run(dataset=data, results_dir=tmp_path / "results", progress="off", **keys)
        assert not list(tmp_path.iterdir())
