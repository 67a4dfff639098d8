"""The classes of torch's and of packages that figures run as they are shipped, and how each looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from implicit_bias.config.spec import RunSpec
from implicit_bias.plotting.style import DASHED, DOTTED, GREY, Look, optimizer_look

#: What is differentiated: what training has, and what does not shrink.
TRUE, OF_LOG = "loss", "log_loss"


@dataclass(frozen=True, eq=False)
class TorchClass:
    """A class with what it is made with.

    Attributes:
        look: How it is drawn; its label is its name.
        target: ``optimizer.target``.
        kwargs: ``optimizer.kwargs``.
        lr: ``schedule.lr``, where ``auto`` means nothing for it.
        as_given: Whether it keeps its own rate, where it chooses its steps by itself.
    """

    look: Look
    target: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    lr: float | None = None
    as_given: bool = False

    @property
    def label(self) -> str:
        """Its name in tables and pictures."""
        return self.look.label

    @property
    def package(self) -> str:
        """The package that it is of."""
        return self.target.partition(".")[0]

    @property
    def installed(self) -> bool:
        """Whether that package is there; it is not imported for the answer."""
        return find_spec(self.package) is not None

    def words(self, feed: str) -> list[str]:
        """What is typed for its runs."""
        kwargs = [f"optimizer.kwargs.{key}={value}" for key, value in self.kwargs.items()]
        rate = ["schedule=as_given"] if self.as_given else [] if self.lr is None else [f"schedule.lr={self.lr:g}"]
        return ["optimizer=torch", f"optimizer.target={self.target}", f"optimizer.feed={feed}", *kwargs, *rate]

    def made(self, spec: RunSpec) -> bool:
        """Whether it makes the steps of a run."""
        chosen = spec.optimizer
        if chosen.name != "torch":
            return False
        return bool(spec.value("optimizer.target") == self.target and dict(spec.value("optimizer.kwargs")) == dict(self.kwargs))


def class_of(classes: Sequence[TorchClass], spec: RunSpec) -> TorchClass:
    """The class that makes the steps of a run."""
    return next(one for one in classes if one.made(spec))


def left_out(classes: Sequence[TorchClass]) -> str:
    """A sentence on the classes that are missing here, and why; empty where there are none."""
    missing = [one for one in classes if not one.installed]
    if not missing:
        return ""
    packages = ", ".join(sorted({one.package for one in missing}))
    names = ", ".join(dict.fromkeys(one.label for one in missing))
    return f" Left out, as {packages} cannot be imported (pip install 'implicit-bias[optimizers]'): {names}."


def _plain(name: str, target: str, **keys: Any) -> TorchClass:
    """A class that no curve is drawn of."""
    return TorchClass(Look(name, GREY, "x"), target, **keys)


NO_DECAY = {"weight_decay": 0.0}
ADAM = TorchClass(Look("Adam (.9, .999)", optimizer_look("adam").color, "X"), "torch.optim.Adam")
ADAM_WITHOUT_EPS = TorchClass(Look("Adam (.9, .999), eps 0", "#2C7FB8", "X", DASHED), "torch.optim.Adam", {"eps": 0.0})
ADAM_SHORT = TorchClass(Look("Adam (.9, .95)", "#1F4E79", "P"), "torch.optim.Adam", {"betas": [0.9, 0.95]})
ADAM_SHORT_WITHOUT_EPS = TorchClass(
    Look("Adam (.9, .95), eps 0", ADAM_SHORT.look.color, "p", DOTTED), "torch.optim.Adam", {"betas": [0.9, 0.95], "eps": 0.0}
)
LION = TorchClass(Look("Lion", "#D6009A", "<"), "pytorch_optimizer.Lion")
MADGRAD = TorchClass(Look("MADGRAD", "#661100", ">"), "pytorch_optimizer.MADGRAD", lr=1e-3)
SHAMPOO = TorchClass(Look("Shampoo", optimizer_look("shampoo").color, "d"), "pytorch_optimizer.Shampoo")
MUON = TorchClass(Look("Muon, Newton-Schulz", optimizer_look("muon_ns").color, "D"), "torch.optim.Muon", NO_DECAY)
SGD = TorchClass(Look("SGD", optimizer_look("gd").color, "h"), "torch.optim.SGD")
ADAGRAD = TorchClass(Look("Adagrad", "#5E2750", "8"), "torch.optim.Adagrad")

#: All of torch.optim that steps by dense gradients and without a closure.
OF_TORCH = (
    SGD,
    _plain("ASGD", "torch.optim.ASGD"),
    ADAM,
    _plain("AdamW", "torch.optim.AdamW"),
    _plain("NAdam", "torch.optim.NAdam"),
    _plain("RAdam", "torch.optim.RAdam", lr=0.1),
    _plain("Adamax", "torch.optim.Adamax"),
    ADAGRAD,
    _plain("Adadelta", "torch.optim.Adadelta"),
    _plain("RMSprop", "torch.optim.RMSprop"),
    _plain("Rprop", "torch.optim.Rprop", as_given=True),
    _plain("Adafactor", "torch.optim.Adafactor", lr=0.3),
    MUON,
)
OF_PACKAGES = (
    LION,
    _plain("Lion (lion-pytorch)", "lion_pytorch.Lion"),
    _plain("Adan", "pytorch_optimizer.Adan"),
    _plain("AdaBelief", "pytorch_optimizer.AdaBelief", lr=0.02),
    _plain("ADOPT", "pytorch_optimizer.ADOPT"),
    _plain("AdEMAMix", "pytorch_optimizer.AdEMAMix"),
    _plain("Yogi", "pytorch_optimizer.Yogi"),
    _plain("schedule-free AdamW", "schedulefree.AdamWScheduleFree"),
    _plain("schedule-free SGD", "schedulefree.SGDScheduleFree"),
    _plain("Prodigy", "prodigyopt.Prodigy", as_given=True),
    _plain("LAMB", "pytorch_optimizer.Lamb", lr=0.03),
    _plain("NovoGrad", "pytorch_optimizer.NovoGrad", lr=0.04),
    _plain("SM3", "pytorch_optimizer.SM3"),
    _plain("CAME", "pytorch_optimizer.CAME"),
    MADGRAD,
    SHAMPOO,
    _plain("SOAP", "pytorch_optimizer.SOAP", kwargs=NO_DECAY, lr=0.1),
    _plain("SCION", "pytorch_optimizer.SCION"),
)
