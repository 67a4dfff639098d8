"""What is committed is true: the README's table, the claims, and the recipes for adding things."""

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from implicit_bias.figures import FIGURES
from implicit_bias.figures.claims import PUBLISHED_KINDS
from implicit_bias.report.page import read_claims
from implicit_bias.run import main

ROOT = Path(__file__).resolve().parents[2]
Followed = Callable[[str], Path]
published = pytest.mark.skipif(not (ROOT / "results").exists(), reason="a source distribution has no committed results")


@published
def test_what_is_committed_of_results_is_under_12_megabytes() -> None:
    listed = subprocess.run(["git", "ls-files", "-z", "results"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("no git checkout")
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    sizes = {path.name: path.stat().st_size for path in paths if path.exists()}
    total = sum(path.stat().st_size for path in paths if path.exists())
    largest = sorted(sizes, key=lambda name: -sizes[name])[:8]
    assert len(paths) > 100 and total < 12e6, f"{total / 1e6:.1f} MB; the largest: {', '.join(largest)}"


@published
def test_readme_table_is_what_results_say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["readme_tables.py", "--check"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "scripts" / "readme_tables.py"), run_name="__main__")
    assert ended.value.code == 0, capsys.readouterr().err


@published
def test_published_numbers_of_the_committed_claims_hold() -> None:
    claims = pd.read_csv(ROOT / "results" / "claims.csv")
    assert set(claims["preset"]) == {"default"}
    papers = claims[claims["figure"].str.startswith("fan_fig") & claims["claim"].str.contains("10,000 steps|maximum margins")]
    assert len(papers) >= 12
    assert papers["holds"].all()


@published
def test_the_number_that_the_readme_shows_of_a_papers_figure_is_the_papers() -> None:
    claims = read_claims(ROOT / "results" / "claims.csv")
    example = runpy.run_path(str(ROOT / "scripts" / "readme_tables.py"))["example"]
    shown = {name: example(name, [c for c in claims if c.figure == name]) for name in {c.figure for c in claims}}
    for name, told in shown.items():
        numbers = any(c.figure == name and c.kind in PUBLISHED_KINDS and c.expected and c.holds is not None for c in claims)
        if FIGURES.get(name).kind in PUBLISHED_KINDS and numbers:
            assert told.kind in PUBLISHED_KINDS and told.expected, name


@pytest.mark.slow
def test_the_first_result_of_the_readme_is_what_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written = (ROOT / "README.md").read_text(encoding="utf-8").split("<!-- run -->\n```\n")[1].split("```\n<!-- /run -->")[0]
    monkeypatch.chdir(tmp_path)
    assert main(["optimizer=muon", "progress=off"]) == 0
    assert capsys.readouterr().out == written


def test_links_between_the_pages_lead_somewhere() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    links = [
        (page, link) for page in pages for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    ]
    assert len(links) > 20
    if not (ROOT / "results").exists():  # a source distribution
        links = [(page, link) for page, link in links if not re.match(r"(\.\./)?results/", link)]
        assert len(links) > 10
    assert [(page.name, link) for page, link in links if not (page.parent / link).exists()] == []


ARXIV = re.compile(r"(?<![\d.])\d{4}\.\d{5}(?!\d)")


def parts_of_the_papers_page() -> dict[str, list[str]]:
    """The arXiv ids of docs/papers.md, by heading."""
    text = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
    sections = [part.split("\n", 1) for part in text.split("\n## ")[1:]]
    return {title: list(dict.fromkeys(ARXIV.findall(body))) for title, body in sections}


def named_in(folder: str) -> set[str]:
    """The arXiv ids that sources and pages of a folder name as such."""
    files = [path for path in (ROOT / folder).rglob("*") if path.suffix in {".py", ".md", ".yaml"} and path.name != "papers.md"]
    text = " ".join(re.sub(r"\s+", " ", path.read_text(encoding="utf-8")) for path in files)
    return set(re.findall(r"arXiv[: ]\s*(\d{4}\.\d{5})", text))


def test_every_paper_that_is_named_is_on_the_page_of_papers_once() -> None:
    tested, used, left = parts_of_the_papers_page().values()
    readme = set(re.findall(r"arXiv (\d{4}\.\d{5})", (ROOT / "README.md").read_text(encoding="utf-8")))
    named = named_in("implicit_bias") | named_in("docs") | named_in("configs") | readme
    assert len(named) > 10
    assert sorted(named - {*tested, *used, *left}) == []
    assert len({*tested, *used, *left}) == len([*tested, *used, *left]), "a paper is in one place"


def test_a_paper_that_has_a_figure_or_a_method_is_not_among_those_that_were_left_out() -> None:
    from implicit_bias.figures.papers import PAPERS

    tested, _, left = (set(ids) for ids in parts_of_the_papers_page().values())
    assert tested == {paper.arxiv for paper in PAPERS.values() if paper.arxiv}
    built = {paper for folder in ("optimizers", "norms", "schedules", "models") for paper in named_in(f"implicit_bias/{folder}")}
    assert len(built) > 5
    assert built & left == set()


RECIPES = (
    "An optimizer",
    "An optimizer that needs more than the gradient",
    "A norm",
    "A loss",
    "A schedule that takes steps back",
    "A column of your own",
    "A dataset",
    "A figure",
)
# Each command is given in a folder of its own, but optima, which take longest, are those of all; `--help` last, in a process in
# which every recipe has been followed.
GIVEN = """
import importlib, json, os, sys
for folder, (flag, module, *arguments) in json.load(sys.stdin):
    assert flag == "-m"
    os.makedirs(os.path.join(folder, "results"))
    os.makedirs("cache", exist_ok=True)
    os.symlink(os.path.abspath("cache"), os.path.join(folder, "results", "cache"))
    os.chdir(folder)
    code = importlib.import_module(module).main(arguments)
    assert code == 0, (module, arguments, code)
    os.chdir(os.pardir)
"""


def recipe(section: str) -> tuple[dict[str, str], list[str]]:
    """The files of a section of docs/extending.md, by path, and the arguments of Python in its command."""
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    body = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
    files = re.findall(r"`(\S+)`:\n\n```(?:python|yaml)\n(.*?)```", body, re.DOTALL)
    assert [Path(path).suffix for path, _ in files] == [".py", ".yaml"]
    (command,) = re.findall(r"```console\n\$ python (.*)\n```", body)
    return dict(files), shlex.split(command)


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Followed:
    """A copy of the package in which every recipe was followed to the letter, and its command given.

    ``followed(section)`` is the folder in which that was; ``followed("help")`` holds what ``run --help`` then says.
    """
    checkout = tmp_path_factory.mktemp("checkout")
    for part in ("implicit_bias", "configs"):
        shutil.copytree(ROOT / part, checkout / part)
    folders = {section: checkout / f"{i}" for i, section in enumerate((*RECIPES, "help"))}
    commands = []
    for section in RECIPES:
        files, command = recipe(section)
        for path, content in files.items():
            assert not (checkout / path).exists()
            (checkout / path).write_text(content)
        commands.append((str(folders[section]), command))
    commands.append((str(folders["help"]), ["-m", "implicit_bias.run", "--help"]))
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    answer = subprocess.run(
        [sys.executable, "-c", GIVEN], input=json.dumps(commands), capture_output=True, text=True, env=environment, cwd=checkout
    )
    assert answer.returncode == 0, answer.stderr
    (folders["help"] / "said").write_text(answer.stdout)
    return folders.__getitem__


def summary_of(folder: Path) -> pd.DataFrame:
    """The summary of the only run there is, by norm."""
    (path,) = folder.glob("results/runs/*/summary.csv")
    return pd.read_csv(path).set_index("norm")


recipes = pytest.mark.xdist_group("recipes")


@recipes
@pytest.mark.slow
def test_an_optimizer_is_added_by_two_files(followed: Followed) -> None:
    table = summary_of(followed("An optimizer"))
    assert table["optimizer"].eq("half_sign").all()
    assert bool(table.loc["linf", "own"])
    assert float(str(table.loc["linf", "margin"])) > 0
    assert "half_sign" in (followed("help") / "said").read_text()


@recipes
@pytest.mark.slow
def test_an_optimizer_that_needs_parameters_and_loss_is_added_by_two_files(followed: Followed) -> None:
    folder = followed("An optimizer that needs more than the gradient")
    table = summary_of(folder)
    assert table["optimizer"].eq("capped_polyak").all()
    assert bool(table.loc["linf", "own"])
    assert float(str(table.loc["linf", "margin"])) > 0
    (run,) = folder.glob("results/runs/*")
    assert "decay: 0.01" in (run / "config.yaml").read_text(encoding="utf-8")


@recipes
@pytest.mark.slow
def test_a_norm_is_added_by_two_files(followed: Followed) -> None:
    own = summary_of(followed("A norm")).loc["row_sum"]
    assert bool(own["own"])
    assert 0.8 < float(str(own["ratio"])) <= 1


@recipes
@pytest.mark.slow
def test_a_loss_is_added_by_two_files(followed: Followed) -> None:
    results = followed("A loss")
    assert bool(summary_of(results).loc["l2", "own"])
    (run,) = results.glob("results/runs/*")
    assert "scale: 3.0" in (run / "config.yaml").read_text(encoding="utf-8")


@recipes
@pytest.mark.slow
def test_a_schedule_that_takes_steps_back_is_added_by_two_files(followed: Followed) -> None:
    results = followed("A schedule that takes steps back")
    (path,) = results.glob("results/runs/*/trajectory.csv")
    table = pd.read_csv(path).drop_duplicates("step")
    assert (table["log_loss"].diff().dropna() <= 0).all()
    rates = table["lr"].dropna()
    assert rates.iloc[0] == 1 and rates.iloc[-1] < 0.5 and (rates.diff().dropna() <= 0).all()


@recipes
@pytest.mark.slow
def test_a_column_is_added_by_two_files(followed: Followed) -> None:
    table = summary_of(followed("A column of your own"))
    assert list(table.columns[-3:]) == ["sparsity", "stable_rank", "effective_rank"]
    assert table["sparsity"].between(0, 1).all()


@recipes
@pytest.mark.slow
def test_a_dataset_is_added_by_two_files(followed: Followed) -> None:
    own = summary_of(followed("A dataset")).loc["l2"]
    # Two vectors of opposite sign: the gap is at least 2 * 1 * |w| for |W| = sqrt(2) |w|.
    assert float(str(own["max_margin"])) >= 2**0.5
    assert float(str(own["ratio"])) > 0.9


@recipes
@pytest.mark.slow
def test_a_figure_is_added_by_two_files(followed: Followed) -> None:
    results = followed("A figure") / "results" / "smoke"
    assert {path.suffix for path in (results / "figures").glob("sign_momentum.*")} == {".png", ".pdf", ".csv"}
    claims = pd.read_csv(results / "claims.csv")
    assert claims["figure"].tolist() == ["sign_momentum"]
    assert claims["holds"].all()
    assert "Sign descent and momentum" in (results / "REPORT.md").read_text(encoding="utf-8")
