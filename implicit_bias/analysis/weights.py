"""Parameters of linear models out of run folders, sweeps and files, with the data that they were trained on."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from implicit_bias.analysis.data import array_of
from implicit_bias.analysis.runs import Run
from implicit_bias.cli.paths import MOST_LETTERS, exists, no_run_folder
from implicit_bias.config.spec import config_hash
from implicit_bias.core.arrays import read_arrays
from implicit_bias.core.errors import BadInput
from implicit_bias.datasets import Dataset, make_dataset
from implicit_bias.measures.exponents import FAMILIES, possible_families
from implicit_bias.models import MODELS
from implicit_bias.norms import make_norm
from implicit_bias.solvers.primal_dual import Game
from implicit_bias.storage.files import read_table, why_no_table
from implicit_bias.storage.integrity import damage
from implicit_bias.storage.runs import DATA, read_config, read_provenance, read_run

WILD = "*?["
FINAL = "final.npz"
#: The block of a linear model, and the name under which a file from elsewhere may hold its matrix among others.
BLOCK, GIVEN = "weight", "W"


@dataclass(frozen=True, eq=False)
class Weights:
    """The parameters of one run, or of a file.

    Attributes:
        run: The name of the run's folder, or what it is called.
        dataset: What it was trained on.
        blocks: Each block at each record, (S, p, q), float64; of a linear model ``weight`` alone.
        steps: The step of each record, ascending; none where only parameters are known.
        called: The name that the user gave; empty for none.
        optimizer: Its name; empty where it is not known.
        seed: None where there is none.
        config: The run's resolved configuration; None for a file.
        own: Label of the norm that the optimizer steps in, where it has one.
        ruled_out: Families whose symmetries the optimizer is known not to have.
    """

    run: str
    dataset: Dataset
    blocks: Mapping[str, Tensor]
    steps: tuple[int, ...] = ()
    called: str = ""
    optimizer: str = ""
    seed: int | None = None
    config: Mapping[str, Any] | None = None
    own: str | None = None
    ruled_out: Sequence[str] = ()

    @property
    def linear(self) -> bool:
        """Whether it is a linear model, whose optima can be certified."""
        return self.config is None or bool(MODELS.get(self.config["model"]["name"]).linear)

    @property
    def w(self) -> Tensor:
        """The matrix of a linear model at each record, (S, k, d)."""
        return self.blocks[BLOCK]

    @property
    def possible(self) -> list[str]:
        """The families that the optimizer's symmetries allow besides p = 2; all where they are not known."""
        allowed = FAMILIES if self.own is None else possible_families(make_norm(self.own))
        return [family for family in allowed if family not in self.ruled_out]

    def smallest_gaps(self) -> Tensor:
        """q(W) of each record of a linear model, shape (S,)."""
        return self._gaps(self.w).amin(dim=-1)

    def wrong_samples(self) -> int:
        """How many samples the last record of a linear model does not classify: those whose smallest gap is not positive."""
        return int((self._gaps(self.w[-1:]) <= 0).sum())

    def _gaps(self, w: Tensor) -> Tensor:
        """The smallest gap of each sample, (S, n)."""
        x, y = torch.from_numpy(self.dataset.x)[None], torch.from_numpy(self.dataset.y)[None]
        game = Game.of(x.expand(len(w), -1, -1), y.expand(len(w), -1), self.dataset.num_classes)
        return game.gaps(w).masked_fill(game.onehot > 0, torch.inf).amin(dim=1)


class Reader:
    """Reads what words name; data that several runs share are loaded once.

    Args:
        dataset: Of files of parameters, which do not say what they were trained on.
        seed: The seed that these data were made with, if there is one.
    """

    def __init__(self, dataset: Dataset | None = None, seed: int | None = None) -> None:
        self._given, self._seed = dataset, seed
        self._loaded: dict[str, tuple[Dataset, str]] = {}

    def read(self, named: Sequence[tuple[str, str]]) -> list[Weights]:
        """The parameters behind pairs of a name (or nothing) and a path or pattern; a run that is named twice is there once.

        Raises:
            BadInput: there are none, they are damaged, or not what can be identified.
        """
        found: dict[tuple[str, Path], Weights] = {}
        for called, text in named:
            for path in _places(text):
                key = (called, path.resolve())
                if key not in found:
                    found[key] = self._run(called, path) if path.is_dir() else self._file(called, path)
        names: dict[tuple[str, int | None], Path] = {}
        for (_, path), run in found.items():
            before = names.setdefault((run.run, run.seed), path)
            if before != path:
                raise BadInput(
                    f"{run.run}: {path} and {before} have this name, and one seed; must have names of their own, name=RUN"
                )
        return list(found.values())

    def given(self, called: str, w: Any) -> list[Weights]:
        """An array (k, d), or (r, k, d) for r runs, which are called by their number, too.

        Raises:
            BadInput: no data are given, or the array is not of their shape.
        """
        if self._given is None:
            raise BadInput(f"dataset: must be given, {called} is an array and does not say what it was trained on; as in (X, y)")
        w = stacked_weights(w, (self._given.num_classes, self._given.x.shape[1]), called)
        names = [called] if len(w) == 1 else [f"{called} {run}" for run in range(len(w))]
        return [
            Weights(name, self._given, {BLOCK: one[None]}, called=name, seed=self._seed)
            for name, one in zip(names, w, strict=True)
        ]

    def _run(self, called: str, path: Path) -> Weights:
        config, own, last = _checked_run(path)
        linear = bool(MODELS.get(config["model"]["name"]).linear)
        if config["model"].get("perturbation") is not None:
            raise BadInput(f"{path}: model.perturbation={config['model']['perturbation']}: must be null, for plain margins")
        if config["model"].get("blocks") is not None:
            sizes = ",".join(map(str, config["model"]["blocks"]))
            raise BadInput(f"{path}: model.blocks=[{sizes}]: must be null, l_p and Schatten norms are of one matrix")
        if not (path / FINAL).is_file():
            raise BadInput(f"{path}: it has no {FINAL}; must be computed with log.weights=last or all")
        arrays = read_arrays(path / FINAL, str(path))
        dataset = self._data(path, config)
        names = [name for name, array in arrays.items() if array.ndim == 2]
        if linear and names != [BLOCK]:
            raise BadInput(f"{path}: {FINAL} has the blocks {', '.join(names) or 'none'}; must have {BLOCK} alone")
        many = "steps" in arrays
        steps = tuple(int(step) for step in arrays["steps"]) if many else (last,)
        blocks = {name: _finite(path, name, arrays[f"{name}_all"] if many else arrays[name][None]) for name in names}
        if linear:
            _check_shape(path, blocks[BLOCK], dataset)
        optimizer = str(config["optimizer"]["name"])
        return Weights(called or path.name, dataset, blocks, steps, called, optimizer, int(config["seed"]), config, own)

    def _file(self, called: str, path: Path) -> Weights:
        if path.name == FINAL and self._given is None and (path.parent / "config.yaml").is_file():
            return self._run(called, path.parent)
        if path.suffix.lower() != ".npz":
            raise BadInput(
                f"{path}: must be a run folder, a sweep's folder or an .npz file with a matrix (classes, features), as by"
                f" numpy.savez('{path.stem}.npz', {GIVEN}=...)"
            )
        if self._given is None:
            raise BadInput(f"dataset: must be given, {path} does not say what it was trained on; as in dataset=digits")
        arrays = read_arrays(path, str(path))
        matrices = [name for name, array in arrays.items() if array.ndim == 2]
        name = GIVEN if GIVEN in matrices else BLOCK if BLOCK in matrices else matrices[0] if len(matrices) == 1 else None
        if name is None:
            raise BadInput(f"{path}: {len(matrices)} matrices; must be one (classes, features), or one of them called {GIVEN}")
        several = f"{name}_all"
        many = several in arrays and "steps" in arrays
        steps = tuple(int(step) for step in arrays["steps"]) if many else ()
        w = _finite(path, name, arrays[several] if many else arrays[name][None])
        _check_shape(path, w, self._given)
        return Weights(called or path.stem, self._given, {BLOCK: w}, steps, called, seed=self._seed)

    def _data(self, path: Path, config: Mapping[str, Any]) -> Dataset:
        """The run's data. Raises BadInput: they are not there, or a file has changed since."""
        key = json.dumps(config["dataset"], sort_keys=True)
        if key not in self._loaded:
            source = make_dataset(config["dataset"])
            dataset = source.load()
            self._loaded[key] = dataset, source.fingerprint() + dataset.reading
        dataset, fingerprint = self._loaded[key]
        # Of a run with a start, with plugins or with a class from elsewhere the hash is of more than is known here.
        known = config.get("start") is None and not {"plugins", "optimizer"} & set(read_provenance(path))
        named = config_hash({key: value for key, value in config.items() if key != DATA}, fingerprint)
        if fingerprint and known and not path.name.endswith(named):
            raise BadInput(
                f"{path}: {dataset.origin or 'its data'} has changed since; must be as it was, or compute the run again"
            )
        return dataset


def run_weights(runs: Sequence[Run]) -> list[Weights]:
    """The parameters of linear models that runs have left in their folders, under the runs' own names and seeds.

    Raises:
        BadInput: there are none, or they are damaged.
    """
    loaded: dict[str, Dataset] = {}
    found = []
    for run in runs:
        assert run.folder is not None
        if run.spec.dataset_text not in loaded:
            loaded[run.spec.dataset_text] = run.spec.dataset.load()
        arrays = read_arrays(run.folder / FINAL, str(run.folder))
        many = "steps" in arrays
        found.append(
            Weights(
                run.folder.name,
                loaded[run.spec.dataset_text],
                {BLOCK: _finite(run.folder, BLOCK, arrays[f"{BLOCK}_all"] if many else arrays[BLOCK][None])},
                tuple(int(step) for step in arrays["steps"]) if many else (run.spec.steps,),
                optimizer=run.spec.optimizer.name,
                seed=run.spec.seed,
                own=run.spec.own_label,
            )
        )
    return found


def stacked_weights(w: Any, shape: tuple[int, int], origin: str) -> Tensor:
    """W (k, d) or (r, k, d) as (r, k, d). Raises BadInput: another shape than the data's, or values that are not finite."""
    array = array_of(w, origin, "numbers")
    if array.dtype.kind not in "iuf" or array.ndim not in (2, 3) or array.shape[-2:] != shape or not array.size:
        several = f"(r, {shape[0]}, {shape[1]})"
        raise BadInput(f"{origin}: an array of shape {array.shape} ({array.dtype}); must be numbers, {shape} or {several}")
    if not np.isfinite(array).all():
        raise BadInput(f"{origin}: a value that is nan or infinite; must be finite numbers")
    return torch.from_numpy(np.array(array, dtype=np.float64)).reshape(-1, *shape)


def _places(text: str) -> Iterator[Path]:
    """The run folders and files that a path or pattern names. Raises BadInput: none."""
    wild = any(sign in text for sign in WILD) and not exists(text)
    matches = sorted(glob.glob(text)) if wild else [text]
    if not matches:
        raise BadInput(f"{text}: no run matches")
    for match in matches:
        path = Path(match)
        if not exists(match):
            raise BadInput(f"{match}: no such run; must be a run folder, a sweep's folder or an .npz file of parameters")
        if (path / "table.csv").is_file():
            yield from _folders_of_sweep(path)
        else:
            yield path


def _folders_of_sweep(path: Path) -> list[Path]:
    try:
        names = list(dict.fromkeys(read_table(path / "table.csv")["folder"]))
    except KeyError:
        raise BadInput(f"{path / 'table.csv'}: no table of a sweep; must have a column folder") from None
    except ValueError as error:
        raise BadInput(f"{path / 'table.csv'}: no table of a sweep, {why_no_table(error)}; must be as it was written") from None
    folders = [path.parent.parent / "runs" / str(name) for name in names]
    missing = [folder for folder in folders if not folder.is_dir()]
    if missing:
        raise BadInput(f"{missing[0]}: no such run; the sweep's runs must be in {missing[0].parent}")
    return folders


def _checked_run(path: Path) -> tuple[dict[str, Any], str | None, int]:
    """The configuration of a run, the norm of its optimizer and its last step. Raises BadInput: it is none, or damaged."""
    if not (path / "trajectory.csv").is_file():
        raise no_run_folder(path)
    found = damage(path)
    if found:
        raise BadInput(f"{path}: damaged, {found}; must be as the run left it, compute it again")
    try:
        config, summary = read_config(path), read_run(path)[1]
        own = summary.loc[summary["own"].astype(bool), "norm"].astype(str)
        for section in ("dataset", "model", "optimizer"):
            if not isinstance(config[section]["name"], str):
                raise ValueError(f"config.yaml names no {section}")
        MODELS.get(config["model"]["name"])
        int(config["seed"])
        label = own.iloc[0] if len(own) else None
        if label is not None:
            make_norm(label)
        return config, label, int(summary["step"].iloc[0])
    except Exception as error:  # noqa: BLE001 - files that no run wrote surface as almost anything
        reason = " ".join(str(error).split())[:MOST_LETTERS] or type(error).__name__
        raise BadInput(f"{path}: not what a run writes ({reason}); must be as the run left it, compute it again") from None


def _finite(path: Path, name: str, array: np.ndarray) -> Tensor:
    if array.dtype.kind not in "iuf" or array.ndim != 3 or not np.isfinite(array).all():
        raise BadInput(f"{path}: {name}: must be a matrix of finite numbers")
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float64))


def _check_shape(path: Path, w: Tensor, dataset: Dataset) -> None:
    wanted = (dataset.num_classes, dataset.x.shape[1])
    found = tuple(w.shape[1:])
    if found != wanted:
        turned = ", as its transpose is" if found[::-1] == wanted else ""
        raise BadInput(f"{path}: a matrix of shape {found}; must be {wanted}, (classes, features) of the data{turned}")
