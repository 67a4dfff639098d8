"""Words that people bring from elsewhere, and what they are called here. The standard library alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_STEP = " (an update is made from all samples, so that a step is an epoch, unless batch.size is set)"
_RATE, _DECAY, _STEPS, _BATCH = "schedule.lr", "optimizer.weight_decay", "steps", "batch.size"

#: A key's last part as it is called elsewhere, and the key here, with a remark in brackets where one is needed.
KEYS: Mapping[str, str] = {
    **dict.fromkeys(("lr", "learning_rate", "rate", "eta", "alpha", "step_size", "stepsize", "lr0"), _RATE),
    **dict.fromkeys(("weight_decay", "wd", "decay", "l2_penalty", "regularization"), _DECAY),
    **dict.fromkeys(("batch_size", "batchsize", "minibatch", "mini_batch", "bs"), _BATCH),
    **dict.fromkeys(("epochs", "epoch", "num_epochs", "n_epochs", "max_epochs"), _STEPS + _STEP),
    **dict.fromkeys(("iterations", "iters", "n_iter", "max_iter", "num_steps", "n_steps", "max_steps", "updates"), _STEPS),
    **dict.fromkeys(("momentum", "mu"), "optimizer.beta"),
    "betas": "optimizer.beta1 (and optimizer.beta2)",
    "epsilon": "optimizer.eps",
    "scheduler": "schedule",
    "lr_scheduler": "schedule",
    "optim": "optimizer",
    "opt": "optimizer",
    "data": "dataset",
    "net": "model",
    "network": "model",
    "criterion": "loss",
    "loss_fn": "loss",
    "bias": "model.bias (of networks; of your own data for model=linear, dataset.bias)",
    "fit_intercept": "model.bias (of networks; of your own data for model=linear, dataset.bias)",
    "hidden": "model.width",
    "hidden_size": "model.width",
    "num_layers": "model.depth",
    "layers": "model.depth",
    "n_classes": "dataset.num_classes",
    "classes": "dataset.num_classes",
    "n_features": "dataset.dim",
    "num_features": "dataset.dim",
    "n_samples": "dataset.samples_per_class",
    "num_samples": "dataset.samples_per_class",
    "random_state": "seed",
    "seeds": "seed (several with -m: 'seed=range(20)')",
    "dtype": "precision",
    "gpu": "device",
    "cuda": "device",
    "output": "results_dir",
    "out": "results_dir",
    "out_dir": "results_dir",
    "output_dir": "results_dir",
    "n_jobs": "launcher.workers (of launcher.cluster=local)",
    "num_workers": "launcher.workers (of launcher.cluster=local)",
    "verbose": "progress",
}

#: What files of data are called at the end.
DATA_FILES = (".npz", ".csv", ".parquet")

_OF_TORCH = ["Adadelta", "Adafactor", "Adagrad", "Adamax", "ASGD", "LBFGS", "NAdam", "RAdam", "RMSprop", "Rprop"]
#: The same of options, group by group: what to type instead.
OPTIONS: Mapping[str, Mapping[str, str]] = {
    "optimizer": {
        **{name.lower(): f"optimizer=torch optimizer.target=torch.optim.{name}" for name in _OF_TORCH},
        "adamw": "optimizer=adam optimizer.weight_decay=0.01",
        "sgd": "optimizer=gd, with batch.size for mini-batches",
        "momentum": "optimizer=momentum_gd",
        "sign": "optimizer=signgd",
        "signsgd": "optimizer=signgd",
        "spectral": "optimizer=spectral_gd",
        "boosting": "optimizer=coordinate_descent schedule=edge loss=exponential",
        "adaboost": "optimizer=coordinate_descent schedule=edge loss=exponential",
        "steepest_descent": "optimizer=nsd norm=l2",
    },
    "norm": {
        "max": "norm=linf",
        "fro": "norm=l2",
        "frobenius": "norm=l2",
        "euclidean": "norm=l2",
        "operator": "norm=spectral",
        "trace": "norm=nuclear",
    },
    "dataset": {
        **dict.fromkeys(("csv", "npz", "own", "custom"), "dataset=file dataset.path=my.npz"),
        **{name: f"dataset=sklearn dataset.name={name}" for name in ("iris", "wine", "breast_cancer")},
        "gaussian": "dataset=gaussian_mixture",
        "synthetic": "dataset=gaussian_mixture",
    },
    "loss": {
        **dict.fromkeys(("ce", "logistic", "softmax", "crossentropy"), "loss=cross_entropy"),
        "exp": "loss=exponential",
    },
    "model": {"logistic": "model=linear", "softmax": "model=linear", "nn": "model=mlp", "fc": "model=mlp"},
    "schedule": {"sqrt": "schedule=power", "inverse_sqrt": "schedule=power"},
}


def key_meant(word: str) -> str | None:
    """What the last part of a key that is called otherwise elsewhere is here, ``schedule.lr`` for ``lr``; None: not known."""
    return KEYS.get(word.casefold().replace("-", "_"))


def is_data_file(word: str) -> bool:
    """Whether a word is the name of a file of data."""
    return word.casefold().endswith(DATA_FILES)


def option_meant(group: str, word: str) -> str | None:
    """What to type for an option that is called otherwise elsewhere, or a file of data; None: not known."""
    if group == "dataset" and is_data_file(word):
        return f"dataset=file dataset.path={word}"
    return OPTIONS.get(group, {}).get(word.casefold().replace("-", "_"))


def asked(meant: str) -> str:
    """``; did you mean ...?``, behind what is not known."""
    return f"; did you mean {meant}?"


def of_options(key: str, group: str, owners: Sequence[str], most: int = 4) -> str:
    """``optimizer.eps (of optimizer=adam, shampoo, ...)``."""
    more = ", ..." if len(owners) > most else ""
    return f"{key} (of {group}={', '.join(owners[:most])}{more})"
