"""What is distributed is whole: the wheel has all that the package reads, the source distribution all that its tests need."""

import re
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

from implicit_bias import __version__

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (path,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"])
    return Path(path)


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def package_data(folder: Path) -> set[str]:
    """The files below a folder of the checkout that are no modules, relative to the checkout."""
    files = {path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".py"}
    return {path.relative_to(ROOT).as_posix() for path in files}


def test_the_wheel_has_all_that_the_package_reads(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    data = package_data(ROOT / "implicit_bias")
    known = {"py.typed", "engine/steppers/native/linear.c", "report/page/vendor/uplot/LICENSE"}
    assert {f"implicit_bias/{name}" for name in known} < data
    assert any("/templates/" in name for name in data)
    assert data <= names
    configs = package_data(ROOT / "configs")
    assert "configs/config.yaml" in configs
    assert {f"implicit_bias/{name}" for name in configs} <= names
    assert not [name for name in names if name.startswith(("tests/", "results/"))]


def test_the_metadata_names_version_licences_and_papers(wheel: Path) -> None:
    metadata = metadata_of(wheel)
    assert metadata["Version"] == __version__
    assert metadata["License-Expression"] == "MIT"
    vendored = {path.relative_to(ROOT).as_posix() for path in (ROOT / "implicit_bias").rglob("LICENSE*")}
    assert vendored
    assert set(metadata.get_all("License-File", [])) == {"LICENSE", *vendored}
    addresses = [address.split(", ")[1] for address in metadata.get_all("Project-URL", [])]
    assert len(addresses) == len({*addresses}) > 0
    assert all(re.fullmatch(r"https://arxiv\.org/abs/\d{4}\.\d{5}", address) for address in addresses)


def test_the_version_to_cite_is_that_of_the_package() -> None:
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_the_source_distribution_has_the_tests_and_what_they_read(tmp_path: Path) -> None:
    (path,) = SdistBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"pyproject.toml", "LICENSE", "Makefile", "constraints.txt", "docs/extending.md", "scripts/readme_tables.py"}
    tests = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py")}
    assert wanted | tests | package_data(ROOT / "configs") <= names
    assert not [name for name in names if name.startswith("results/")]
