"""The keys and options that the configuration files offer, how they are spelled, and the text of ``--help``.

Everything is read from the comments of the YAML files, by the standard library alone: ``--help`` imports neither
torch nor Hydra. The comment lines at the top of a file are its help text, a comment behind a key explains the key.
"""

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from implicit_bias.errors import BadInput

#: Keys that do not change what a run computes: they are no part of its hash, and cannot be swept.
RUNTIME_KEYS = ("device", "reference_timeout", "results_dir", "name", "force", "progress", "compile", "hydra", "launcher")

WIDTH = 100
_PLAIN = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|true|false|null", re.IGNORECASE)
_KEY = re.compile(r"(?P<indent> *)(?P<key>\w+):(?: +(?P<value>.*?))?(?: +# (?P<help>.*))?$")
_DEFAULT = re.compile(r" +- (?P<group>\w+): (?P<option>\w+)$")

COMMANDS = """\
implicit_bias: on data that can be separated, which margin does an optimizer maximise, how fast, and how do we know?

USAGE
  python -m implicit_bias.run [group=option ...] [key=value ...]      one run
  python -m implicit_bias.run -m key=value,value key=range(20) ...    a sweep over every combination
  python -m implicit_bias.compare RUN RUN ...                         any runs in the same plots (see its --help)
  make figures                                                        every figure of the papers, with its claims

  A run writes results/runs/<name>-<hash>/ (trajectory.csv, summary.csv, config.yaml, final.npz, provenance.json) and
  prints the margin that was reached under every norm beside the certified optimum. A run that is finished is not
  computed again; a sweep that was interrupted goes on where it stopped when the same command is given again.

EXAMPLES
  python -m implicit_bias.run optimizer=muon
  python -m implicit_bias.run optimizer=nsd norm=lp norm.p=4 steps=2000
  python -m implicit_bias.run optimizer=adam optimizer.eps=1e-8 schedule.lr=0.01 dataset.noise=0.5
  python -m implicit_bias.run dataset=file dataset.path=my.npz reference=certified
  python -m implicit_bias.run -m optimizer=signgd,ngd,spectral_gd 'seed=range(20)'
  python -m implicit_bias.run -m optimizer=nsd norm=lp 'norm.p=1.5,3,6' schedule.lr=auto,0.1
  python -m implicit_bias.run -m optimizer=muon 'seed=range(500)' hydra.launcher.cluster=local hydra.launcher.workers=8

FLAGS
  -m, --multirun   sweep: key=a,b,c and key=range(start,stop) take several values (quote parentheses for the shell)
  --cfg            print the composed configuration and stop; nothing is computed or written
  -h, --help       this text
  --version        the version
"""

ENDING = """\
FROM PYTHON
  from implicit_bias import run
  trajectory, summary = run(optimizer="muon", steps=1000, **{"dataset.noise": 0.5})

EXIT CODES
  0 done    1 a run or cell failed    2 bad input (nothing was computed), or classes that cannot be separated
  130 interrupted (Ctrl-C)    143 SIGTERM
"""


@dataclass(frozen=True)
class Key:
    """A key of a file: its default as written, and its comment."""

    default: str
    help: str


@dataclass(frozen=True)
class Page:
    """What one file offers: its help text, its keys, and the options that it chooses by default."""

    help: str
    keys: dict[str, Key] = field(default_factory=dict)
    defaults: dict[str, str] = field(default_factory=dict)


@cache
def config_directory() -> Path:
    """The folder of the configuration files: inside an installed package, or beside it in a checkout.

    Raises:
        FileNotFoundError: there is neither, so the installation is broken.
    """
    package = Path(__file__).resolve().parent
    for candidate in (package / "configs", package.parent / "configs"):
        if (candidate / "config.yaml").is_file():
            return candidate
    raise FileNotFoundError(f"no configs folder in or beside {package}; install implicit_bias again")


@cache
def groups() -> dict[str, dict[str, Page]]:
    """Config group to option to page. Groups stand in the order of the defaults, options in alphabetical order."""
    return {group: _options(group) for group in main_page().defaults}


@cache
def main_page() -> Page:
    """The page of config.yaml."""
    return read_page(config_directory() / "config.yaml")


def read_page(path: Path) -> Page:
    """The page of one YAML file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return Page(_head(lines), dict(_keys(lines)), {m["group"]: m["option"] for m in map(_DEFAULT.match, lines) if m})


def help_text() -> str:
    """What ``--help`` prints: commands, examples, every group with its options, every key with its default, exit codes."""
    return "\n".join([COMMANDS, "\n".join(_group_lines()), "\n".join(_key_lines()), ENDING.rstrip()])


def suggestion(word: str, known: Iterable[str]) -> str:
    """``; did you mean ...?`` where one of ``known`` is close to ``word``, else nothing."""
    close = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def shown(value: Any) -> str:
    """A value as one would type it, in one line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(map(shown, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{shown(item)}' for key, item in value.items())}}}"
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return f"'{value}'"  # quoted, or an error about it would make no sense
    return " ".join(str(value).split())


def short_keys(keys: Sequence[str]) -> list[str]:
    """Keys without their group where that leaves them different."""
    last = [key.rsplit(".", 1)[-1] for key in keys]
    return [short if last.count(short) == 1 else key for key, short in zip(keys, last, strict=True)]


def either(words: Sequence[str]) -> str:
    """``a, b or c``."""
    return " or ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def no_such_option(group: str, option: Any, names: Sequence[str]) -> BadInput:
    """The error for an option that a group does not have."""
    close = suggestion(str(option), names)
    return BadInput(f"{group}={shown(option)}: no such option{close or ';'} allowed: {', '.join(names)}")


def _options(group: str) -> dict[str, Page]:
    return {path.stem: read_page(path) for path in sorted((config_directory() / group).glob("*.yaml"))}


def _head(lines: list[str]) -> str:
    """The comment lines above the first key, in one line; ``# @package`` is for Hydra and says nothing to a reader."""
    comments = []
    for line in lines:
        if not line.startswith("#"):
            break
        if "@package" not in line:
            comments.append(line.lstrip("# "))
    return " ".join(comments)


def _keys(lines: list[str]) -> Iterator[tuple[str, Key]]:
    """Dotted keys with their defaults; ``name``, which only repeats the option, and the defaults list are no keys of a group."""
    section = ""
    for line in lines:
        match = _KEY.match(line)
        if not match or match["key"] == "defaults":
            continue
        if not match["indent"]:
            section = match["key"]
        key = f"{section}.{match['key']}" if match["indent"] else match["key"]
        if match["value"]:
            yield key, Key(match["value"], match["help"] or "")


def _group_lines() -> Iterator[str]:
    yield "GROUPS, group=option, each option with its own keys and their defaults"
    for group, options in groups().items():
        if not options:
            continue
        default = main_page().defaults[group]
        yield f"\n  {group}=... (default {'none' if default == 'null' else default})"
        for option, page in options.items():
            yield from _entry(option, page.help, width=18, indent=4)
            if group != "experiment":
                own = [f"{group}.{key}={value.default}" for key, value in page.keys.items() if key != "name"]
                yield from _wrapped("  ".join(own), indent=24)
    yield ""


def _key_lines() -> Iterator[str]:
    yield "KEYS, with their defaults"
    for key, page in main_page().keys.items():
        if key not in groups():
            yield from _entry(f"{key}={page.default}", page.help, width=24, indent=2)
    yield ""


def _entry(term: str, text: str, *, width: int, indent: int) -> list[str]:
    """A term and its text in two columns; the text goes below a term that is too long for its column."""
    body = _wrapped(text, indent=indent + width + 2)
    if len(term) > width or not body:
        return [" " * indent + term, *body]
    return [" " * indent + term.ljust(width + 2) + body[0].lstrip(), *body[1:]]


def _wrapped(text: str, *, indent: int) -> list[str]:
    margin = " " * indent
    return textwrap.wrap(
        text, WIDTH, initial_indent=margin, subsequent_indent=margin, break_long_words=False, break_on_hyphens=False
    )
