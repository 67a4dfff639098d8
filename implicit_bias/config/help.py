"""The text of ``--help``: of the command, of a group, of an option with its keys, and of one key.

Names come from the configuration files, meanings and ranges from what the classes declare with ``hyper``. The text of ``--help``
alone, and the refusal of what there is not, need the standard library only: neither torch nor Hydra is imported for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from implicit_bias.cli.wrapping import entry, fitted, terminal_width, wrapped
from implicit_bias.config.files import Page, groups, main_page, options_of
from implicit_bias.config.run_settings import SECTIONS, RunSettings
from implicit_bias.config.typed import meant_key
from implicit_bias.core.errors import BadInput
from implicit_bias.core.kinds import Kind, kinds
from implicit_bias.core.registry import hyper_fields
from implicit_bias.core.words import no_such_option, shown, suggestion

#: What lists the probes: they are the values of a key, ``log.probes``, and no group of options.
PROBE_TOPICS = ("probe", "probes")
COMMANDS = """\
implicit_bias: on data that can be separated, which margin does an optimizer maximise, how fast, and how do we know?
(implicit-bias is short for python -m implicit_bias.run)

USAGE
  python -m implicit_bias.run [group=option ...] [key=value ...]      one run
  python -m implicit_bias.run -m key=value,value key=range(20) ...    a sweep over every combination
  python -m implicit_bias.compare RUN RUN ...                         any runs in the same plots (see its --help)
  python -m implicit_bias.identify RUN ...                            which norm's margin they maximise (see its --help)
  python -m implicit_bias.report runs=RUN,...                         a page of any runs, to filter and overlay
  make figures                                                        every figure of the papers, with its claims

  A run writes results/runs/<name>-<hash>/ (trajectory.csv, summary.csv, config.yaml, final.npz, provenance.json) and prints \
the margin that was reached under every norm beside the best possible one, which is certified, and what that says. \
A run that is finished is not computed again; a sweep that was interrupted goes on where it \
stopped when the same command is given again.

EXAMPLES
  python -m implicit_bias.run optimizer=muon
  python -m implicit_bias.run optimizer=nsd norm=lp norm.p=4 steps=2000
  python -m implicit_bias.run optimizer=adam optimizer.eps=1e-8 steps=20000
  python -m implicit_bias.run dataset=file dataset.path=my.csv
  python -m implicit_bias.run -m optimizer=signgd,ngd,spectral_gd 'seed=range(20)'
  python -m implicit_bias.run -m optimizer=nsd norm=lp 'norm.p=1.5,3,6' schedule.lr=auto,0.1
  python -m implicit_bias.run -m optimizer=muon 'seed=range(500)' hydra.launcher.cluster=local hydra.launcher.workers=8

FLAGS
  -m, --multirun   sweep: key=a,b,c and key=range(start,stop) take several values (quote parentheses for the shell)
  --json           print the answer for programs, all of it; --md, --latex: its table for a page or a paper
  --cfg            print the composed configuration and stop; nothing is computed or written
  -h, --help       this text; --help optimizer: the options of a group; --help optimizer=adam: the keys of an option; \
--help schedule.lr, --help steps: a key, with what is allowed; --help probes: further columns
  --version        the version
"""

MORE = "implicit-bias --help says what each is, with all keys, their defaults and what is allowed."
ENDING = """\
FROM PYTHON
  from implicit_bias import run
  trajectory, summary = run(optimizer="muon", **{"dataset.noise": 0.5})

OPTIONS OF YOUR OWN
  IMPLICIT_BIAS_PLUGINS=folder[:folder]   folders with optimizers/, norms/, losses/ ... as docs/extending.md describes them; \
or installed packages with entry points in the groups implicit_bias.optimizers, ...

EXIT CODES
  0    done
  1    a run or cell failed
  2    bad input (nothing was computed), or classes that cannot be separated
  130  interrupted (Ctrl-C)
  143  SIGTERM
"""


def help_text(width: int | None = None) -> str:
    """What ``--help`` prints: commands, examples, every group with its options, every key with its default, exit codes.

    Args:
        width: Of the lines; without it that of the terminal.
    """
    width = width or terminal_width()
    parts = [fitted(COMMANDS, width), *_group_lines(width), *_key_lines(width), fitted(ENDING, width).rstrip()]
    return "\n".join(parts)


def overview_text(width: int | None = None) -> str:
    """What ``implicit-bias`` alone prints: commands, examples, and what every group has, without keys.

    Args:
        width: Of the lines; without it that of the terminal.
    """
    width = width or terminal_width()
    named = {f"{group}=": ", ".join(options) for group, options in groups().items() if options}
    column = max(map(len, named))
    lines = [line for term, names in named.items() for line in entry(term, names, column=column, indent=2, width=width)]
    return "\n".join([fitted(COMMANDS, width), "GROUPS", *lines, "", *wrapped(MORE, indent=0, width=width)])


def topics_text(topics: Sequence[str], width: int | None = None) -> str:
    """What ``--help`` prints about the given groups, options or keys.

    Args:
        topics: A group (``optimizer``), an option (``optimizer=adam``), a key (``schedule.lr``, ``steps``) or ``probes`` each;
            the value that is given to a key (``steps=100``) plays no part.
        width: Of the lines; without it that of the terminal.

    Raises:
        BadInput: One of them is none of those.
    """
    width = width or terminal_width()
    return "\n\n".join("\n".join(_topic(topic, width)) for topic in topics)


def _topic(topic: str, width: int) -> list[str]:
    name, equals, option = topic.removeprefix("hydra.").partition("=")
    group, dot, key = name.partition(".")
    if name in groups():
        return _option(name, option, width) if equals else _group(name, width)
    if name in PROBE_TOPICS:
        return ["log.probes=[<probe>,...]", "", *_probes(option if equals else None, width)]
    if name in SECTIONS:
        return [f"{name}.<key>=...", "", *_described(name, SECTIONS[name], width)]
    owner = SECTIONS.get(group) if dot else RunSettings
    if owner is not None and (key or name) in hyper_fields(owner):
        lines = _described(group if dot else "", owner, width, only=key or name)
        return [*lines, "", *_probes(None, width)] if (group, key) == ("log", "probes") else lines
    if dot and any(key in page.keys for page in groups().get(group, {}).values()) and key != "name":
        return _key_of_options(group, key, width)
    raise _unknown(name)


def _group(group: str, width: int) -> list[str]:
    """The options of a group, one line each."""
    lines = [f"{group}=...  (default {_default_option(group)})", ""]
    column = max(map(len, groups()[group]), default=0)
    for option, page in groups()[group].items():
        lines += entry(option, page.help, column=column, indent=2, width=width)
    return [*lines, "", *wrapped(f"--help {group}=<option> describes its keys", indent=0, width=width)]


def _probes(only: str | None, width: int) -> list[str]:
    """The probes that there are, or one, each with the columns that it writes."""
    from implicit_bias.probes import PROBES  # imports torch

    pages = options_of("probe")
    if only is not None and only not in pages:
        raise no_such_option("probe", only, list(pages))
    chosen = pages if only is None else {only: pages[only]}
    column, lines = max(map(len, chosen), default=0), list[str]()
    for name, page in chosen.items():
        said = f"{page.help} " if page.help else ""
        text = f"{said}Columns: {', '.join(PROBES.get(name).writes())}"
        lines += entry(name, text, column=column, indent=2, width=width)
    return lines


def _option(group: str, option: str, width: int) -> list[str]:
    """One option: what it is, and each of its keys."""
    pages = groups()[group]
    if option not in pages:
        raise no_such_option(group, option, list(pages))
    lines = [f"{group}={option}", *wrapped(pages[option].help, indent=2, width=width)]
    if group == "experiment":
        return [*lines, "", *(f"  {key}={key_of.default}" for key, key_of in pages[option].keys.items())]
    cls = _registered(group, option)
    described = _described(group, cls, width, defaults=pages[option]) or ["  (no keys)"]
    return [*lines, "", *described]


def _key_of_options(group: str, key: str, width: int) -> list[str]:
    """A key of a group: its meaning, once for all options that agree on it."""
    alike: dict[str, list[str]] = {}
    for option, page in groups()[group].items():
        if key in page.keys:
            text = "\n".join(_described(group, _registered(group, option), width, only=key, defaults=page))
            alike.setdefault(text, []).append(option)
    lines = []
    for text, options in alike.items():
        lines += [text, *wrapped(f"of {group}={','.join(options)}", indent=4, width=width)]
    return lines


def _registered(group: str, option: str) -> type:
    from implicit_bias.config.schema import declared_in  # imports torch

    return declared_in(group, option)


def _described(prefix: str, cls: type, width: int, *, only: str | None = None, defaults: Page | None = None) -> list[str]:
    """Every key of a class, or one: its default, its meaning and what is allowed.

    Args:
        defaults: The page of the option: a default may refer to another key there (``${seed}``).
    """
    lines = []
    for name, kind in kinds(cls).items():
        if only in (None, name):
            written = defaults.keys.get(name) if defaults else None
            default = written.default if written else _shown_default(cls, name)
            lines += [f"  {_dotted(prefix, name)}={default}", *wrapped(_meaning(kind), indent=6, width=width)]
    return lines


def _dotted(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _meaning(kind: Kind) -> str:
    """The meaning of a key, and what it may be."""
    return f"{kind.spec.help}. Allowed: {kind.allowed}"


def _unknown(name: str) -> BadInput:
    """The error for a topic that there is not."""
    prefix, dot, _ = name.partition(".")
    if dot and (prefix in SECTIONS or prefix in groups()):
        pages = groups().get(prefix, {}).values()
        names = hyper_fields(SECTIONS[prefix]) if prefix in SECTIONS else [key for page in pages for key in page.keys]
        known = list(dict.fromkeys(f"{prefix}.{key}" for key in names if key != "name")) or [prefix]
    else:
        known = [*groups(), *SECTIONS, *hyper_fields(RunSettings), PROBE_TOPICS[-1]]
    close = (suggestion(name, known) if dot else meant_key(name, known)) or ";"
    return BadInput(f"--help {shown(name)}: no such group or key{close} allowed: {', '.join(known)}, or group=option")


def _default_option(group: str) -> str:
    default = main_page().defaults[group]
    return "none" if default == "null" else default


def _group_lines(width: int) -> Iterator[str]:
    yield fitted("GROUPS, group=option, each with its own keys and their defaults (what they mean: --help group=option)", width)
    for group, options in groups().items():
        if not options:
            continue
        yield f"\n  {group}=... (default {_default_option(group)})"
        for option, page in options.items():
            yield from entry(option, page.help, column=18, indent=4, width=width)
            if group != "experiment":
                own = [f"{group}.{key}={value.default}" for key, value in page.keys.items() if key != "name"]
                yield from wrapped("  ".join(own), indent=min(24, width // 4), width=width)
    yield ""


def _key_lines(width: int) -> Iterator[str]:
    yield fitted("KEYS, with their defaults and what is allowed", width)
    for prefix, cls in {"": RunSettings, **SECTIONS}.items():
        for name, kind in kinds(cls).items():
            term = f"{_dotted(prefix, name)}={_shown_default(cls, name)}"
            yield from entry(term, _meaning(kind), column=24, indent=2, width=width)
    yield ""


def _shown_default(cls: type, name: str) -> str:
    default: Any = hyper_fields(cls)[name].default
    return shown(default)
