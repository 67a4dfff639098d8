"""Data files as people have them: what is read, what is said of it, what is doubted and what is refused."""

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from implicit_bias.core.errors import BadInput
from implicit_bias.datasets.classes import classes_of
from implicit_bias.datasets.columns import is_index_name
from implicit_bias.run import main
from tests.support.data_files import QUICK, labelled, load


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(path: str, **keys: Any) -> str:
    """The line with which a file is refused, by the command and by itself."""
    with pytest.raises(BadInput) as caught:
        load(path, **keys)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def cautions(text: str, **keys: Any) -> list[str]:
    Path("my.csv").write_text(text, encoding="utf-8")
    found = list(load("my.csv", **keys).cautions)
    assert all(line.startswith("dataset.path=my.csv: ") and "\n" not in line for line in found)
    return found


# --- columns that are an index


@pytest.mark.parametrize(
    ("header", "part"),
    [
        (",a,label", "column 1 has no name"),
        ('"",a,label', "column 1 has no name"),
        ("Unnamed: 0,a,label", "column 1 is called 'Unnamed: 0'"),
        ("a,unnamed: 0.1,label", "column 2 is called 'unnamed: 0.1'"),  # an index of an index
        ("a,label,", "column 3 has no name (a row index, or a comma at the end of the line?)"),
    ],
)
def test_an_index_without_a_name_is_refused(folder: Path, header: str, part: str) -> None:
    columns = header.split(",")
    rows = [",".join("xyxy"[i] if name == "label" else str(7 + i) for name in columns) for i in range(4)]
    Path("my.csv").write_text("\n".join([header, *rows]))
    assert part in refusal("my.csv") and "index=False" in refusal("my.csv")


@pytest.mark.parametrize("name", ["Id", "ID", "id", "index", "Index", "row", "rownames", "row.names", "row_id", "PassengerId",
                                  "customer_id", "sample id", "#"])  # fmt: skip
def test_an_index_by_name_is_doubted(folder: Path, name: str) -> None:
    assert is_index_name(name)
    values = [31, 7, 90, 12, 55]
    (line,) = cautions("\n".join([f"{name},a,label", *(f"{v},{v * v % 17}.5,{'xy'[i % 2]}" for i, v in enumerate(values))]))
    assert repr(name) in line and "row index" in line


@pytest.mark.parametrize("name", ["acid", "humid", "width", "rowing", "idea", "index of refraction", "acidity", "hybrid"])
def test_a_feature_of_another_name_is_none(name: str) -> None:
    assert not is_index_name(name)


@pytest.mark.parametrize(
    ("values", "index"),
    [
        (range(6), True),
        (range(1, 7), True),
        (range(100, 106), True),
        (range(6, 0, -1), True),
        ([3, 0, 7, 1, 9, 4, 8, 2, 6, 5], True),  # shuffled with the samples
        ([3, 1, 7, 10, 9, 4, 8, 2, 6, 5], True),
        ([0.5, 1.5, 2.5, 3.5], False),
        ([0, 2, 4, 6], False),
        ([1, 2, 3, 5], False),
        ([2, 1, 3], False),
        ([1, 2], False),
        ([0, 0, 1, 1, 0, 1, 1, 0, 1, 0], False),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "npz"])
def test_a_column_that_counts_the_samples_is_doubted(folder: Path, values: Sequence[float], index: bool, kind: str) -> None:
    x = [[9 * math.sin(i), value] for i, value in enumerate(values)]
    y = ["ab"[i * i % 3 == 1] for i in range(len(x))]
    if kind == "csv":
        found = cautions("\n".join(["s,t,label", *(f"{a},{b},{c}" for (a, b), c in zip(x, y, strict=True))]))
    else:
        np.savez("my.npz", X=x, y=y)
        found = list(load("my.npz").cautions)
    assert len(found) == index
    assert all(("column 't'" if kind == "csv" else "column 2") in line and "counts the samples" in line for line in found)


def test_the_label_as_a_feature_is_doubted(folder: Path) -> None:
    y = [5, 7, 7, 5, 9, 5, 9, 9, 7, 5]
    rows = [f"{math.sin(i)},{label},{(label - 5) // 2},{-label},{label}" for i, label in enumerate(y)]
    (line,) = cautions("\n".join(["a,copy,code,minus,label", *rows]))
    assert "each of column 'copy', column 'code' is the label itself" in line


# --- labels


@pytest.mark.parametrize("word", ["NA", "N/A", "na", "null", "None", "?", "-", ".", "missing", "<NA>", "#N/A", "NaT"])
def test_a_missing_word_among_numbers_is_refused_and_among_words_doubted(folder: Path, word: str) -> None:
    Path("my.csv").write_text(labelled(["1", "1", "0", "0", word, "1"]))
    assert f"the label of sample 5 is {word!r}, a missing value among numbers" in refusal("my.csv")
    (line,) = cautions(labelled(["dog", "dog", "cat", "cat", word, "cat"]))
    assert f"{word!r} (1 sample) is a class like any other" in line
    np.savez("my.npz", X=np.eye(4)[:, 1:], y=["2.5", word, "3", "3"])
    assert "missing value" in refusal("my.npz")


@pytest.mark.parametrize("word", ["", "  ", "nan", "NaN"])
def test_a_label_that_is_missing_is_refused(folder: Path, word: str) -> None:
    Path("my.csv").write_text(labelled(["dog", "cat", word]))
    assert "the label of sample 3 is missing" in refusal("my.csv")


@pytest.mark.parametrize(
    ("one", "other", "classes"),
    [
        ("1_0", "10", 3),
        ("1_10", "11_0", 3),
        ("1E1", "10", 2),
        ("01", "1", 2),
        ("+1", "1", 2),
        ("1.0", "1", 2),
        ("1.", "1", 2),
        (".5", "0.50", 2),
        ("-0", "0", 2),
        (" 1", "1", 2),
        ("\uff11", "1", 3),
        ("\u0661", "1", 3),
        ("\u22121", "-1", 3),
        ("inf", "Infinity", 3),
        ("1e400", "1e500", 3),
        ("0x10", "16", 3),
        ("1,000", "1000", 3),
        ("1,5", "1.5", 3),
        ("1 000", "1000", 3),
        ("1'000", "1000", 3),
        ("9007199254740993", "9007199254740992", 3),
        ("9007199254740993", "9007199254740993.0", 3),
        ("0.1", "0.10000000000000000001", 2),
        ("1.0000000001", "1", 3),
    ],
)
@pytest.mark.parametrize("third", ["2", "word"])
def test_texts_that_are_one_number_to_somebody(folder: Path, one: str, other: str, classes: int, third: str) -> None:
    text = labelled([one, other, third, third, one, other])
    found = cautions(text)
    names = load("my.csv").names
    assert names is not None
    if third == "2":
        assert len(names) == classes
    elif not one.startswith(" "):
        assert len(names) == 3  # words: each text is its own
    if third == "2" or one != "1.0000000001":
        (line,) = found
        assert repr(one) in line
        assert repr(other) in line or one == " 1"
        assert ("one class" in line) == (len(names) == 2)


@pytest.mark.parametrize("labels", [["10", "9", "1"], ["a", "b", "A"], ["1.1", "1.10a"], ["v1", "v1.0"], ["0", "1"], ["-1", "1"],
                                    ["2001", "2002", "2010"], ["1-2", "1-3"], ["x_1", "x1"], ["0.1", "0.2", "0.3"]])  # fmt: skip
def test_labels_that_nobody_merges_are_not_doubted(folder: Path, labels: list[str]) -> None:
    assert cautions(labelled([*labels, *labels])) == []


@given(st.lists(st.text(alphabet="01_.,eE+- xan\uff11", max_size=5), min_size=2, max_size=6))
def test_no_two_texts_are_silently_one_number(texts: list[str]) -> None:
    """Whatever Python's own reading of numbers merges, or we merge, is told of or refused."""
    try:
        found = classes_of(np.array(texts, dtype=str), "dataset.path=my.csv")
    except BadInput:
        return
    different = set(np.array(texts, dtype=str).tolist())
    merged = len(found.names) < len(different)
    read = []
    for text in different:
        try:
            read.append(float(text))
        except ValueError:
            continue
    if merged or len(set(read)) < len(read):
        assert any("one" in line and "labels" in line for line in found.cautions)


def test_labels_of_half_characters_are_refused(folder: Path) -> None:
    np.savez("my.npz", X=np.eye(2), y=["dog", "a\ud800"])
    assert "the label of sample 2, 'a\\ud800', is no valid text" in refusal("my.npz")


def test_labels_beyond_every_number_are_words(folder: Path) -> None:
    labels = ["1" * 400, "1" * 5000, "2"]
    np.savez("my.npz", X=np.sin(np.arange(12.0)).reshape(6, 2), y=labels * 2)
    assert load("my.npz").num_classes == 3


def test_numbers_in_npz_that_are_nearly_one(folder: Path) -> None:
    x = np.sin(np.arange(8.0)).reshape(4, 2)
    for labels, number in (([1.0, 1.0000000001, 2, 2], 1), ([2**53, 2**53 + 1, 0, 0], 1), ([1.0, 1.1, 1, 1.1], 0)):
        np.savez("my.npz", X=x, y=np.array(labels))
        assert len(load("my.npz").cautions) == number


def test_latin_1_bytes_are_kept_apart(folder: Path) -> None:
    x = np.sin(np.arange(12.0)).reshape(6, 2)
    np.savez("my.npz", X=x, y=np.array([text.encode("latin-1") for text in ["é", "è", "a"] * 2]))
    data = load("my.npz")
    assert data.names == ("a", "è", "é") and data.y.tolist() == [2, 1, 0] * 2
    assert [line for line in data.cautions if "Latin-1" in line] == list(data.cautions) and data.reading
    np.savez("my.npz", X=x, y=np.array([text.encode() for text in ["é", "è", "a"] * 2]))
    assert load("my.npz").names == ("a", "è", "é") and load("my.npz").cautions == () and not load("my.npz").reading


@pytest.mark.parametrize(
    ("labels", "doubt"),
    [
        (["a", "b", "c", "d"], "a label of its own each"),
        (["1", "2", "3"], "a label of its own each"),
        ([f"{i * 7 % 40 / 3:.2f}" for i in range(60)], "40 different labels"),  # a measurement
        ([str(i * 7 % 23) for i in range(40)], "23 different labels"),  # hardly ever the same twice
        ([f"{i % 12}.5" for i in range(120)], "12 different labels"),  # ratings
        (["a", "b"], ""),
        (["a", "b", "c", "b"], ""),
        ([str(i % 12) for i in range(120)], ""),
        ([f"{i % 5}.5" for i in range(50)], ""),
    ],
)
def test_labels_that_may_be_no_classes(folder: Path, labels: list[str], doubt: str) -> None:
    found = cautions(labelled(labels))
    assert len(found) == bool(doubt)
    assert all(doubt in line and "taken for a class" in line for line in found)


def test_a_measurement_of_many_samples_is_refused(folder: Path) -> None:
    np.savez("my.npz", X=np.random.RandomState(0).randn(1500, 2), y=np.random.RandomState(1).randn(1500))
    assert "have a label of its own each" in refusal("my.npz") and "not measurements" in refusal("my.npz")


# --- the form of a table


@pytest.mark.parametrize(
    ("text", "label", "part"),
    [
        ("5.1,3.5,setosa\n4.9,3.0,setosa\n6,2,other\n", "label", "its first line holds data"),
        ("5.1,3.5,setosa\n4.9,3.0,setosa\n6,2,other\n", "setosa", "line 1 is data (5.1, 3.5, setosa)"),
        ("5.1,NA,setosa\n4.9,3.0,setosa\n6,2,other\n", "setosa", "line 1 is data"),
        ("5.1,3.5,1\n4.9,3.0,0\n6,2,1\n", "1", "line 1 is data"),
        ("0,0,setosa\n4.9,3.0,setosa\n6,2,other\n", "setosa", "is line 1 data?"),
        ("a;b;label\n1;2;x\n3;4;y\n", "label", "separated by semicolons"),
        ("a;b;label\n1,5;2,5;x\n3,5;4;y\n", "label", "separated by semicolons"),
        ("a;b;kind\n1;2;x\n3;4;y\n", "label", "separated by semicolons"),
        ("a\tb\tlabel\n1\t2\tx\n3\t4\ty\n", "label", "separated by tabs"),
        ("a|b|label\n1|2|x\n3|4|y\n", "label", "separated by vertical bars"),
        ("a b label\n1 2 x\n3 4 y\n", "label", "separated by blanks"),
        ("# made by hand\na,label\n1,x\n3,y\n", "label", "its first line is a comment"),
        ("a,label\n1,x\n# three\n3,y\n", "label", "line 3 has 1 cells; the header has 2 (a comment?)"),
        ("a,label\n1,x,\n3,y,\n", "label", "line 2 has 3 cells; the header has 2 (a comma at the end?)"),
        ("a,label\nr1,1,x\nr2,3,y\n", "label", "(row names, as R writes them without a name in the header, or a decimal comma?)"),
        ("a,label\n1,x\n2,000,y\n", "label", "line 3 has 3 cells; the header has 2 (a comma within a number?)"),
        ('a,label\n"1,000",x\n2,y\n', "label", "line 2, column 'a': '1,000' is not a number (decimals have points"),
        ("a,label\n1_000,x\n2,y\n", "label", "line 2, column 'a': '1_000' is not a number (an underscore"),
        ("a,label\n1,x\n\uff12,y\n", "label", "line 3, column 'a': '\uff12' is not a number (its characters must be ASCII)"),
        ("a,label\n1,x\nNA,y\n", "label", "line 3, column 'a': 'NA' is not a number (a missing value)"),
        ("a,label\n1,x\n0x1F,y\n", "label", "line 3, column 'a': '0x1F' is not a number"),
        ("a,label\n1,x\n1e400,y\n", "label", "line 3, column 'a': '1e400' is beyond double precision"),
        ("a,label\n1,x\n1e-310,y\n", "label", "line 3, column 'a': '1e-310' is too small for double precision"),
        ("a,label\n1,x\n-1E-0400,y\n", "label", "line 3, column 'a': '-1E-0400' is too small"),
        ("a,label\n1,x\nInfinity,y\n", "label", "line 3, column 'a': inf; must be finite"),
        ('a,label\n1,"x\n2,y\n3,z\n4,x\n', "label", "the label goes over several lines (a quotation mark too many?)"),
        ("a,Label\n1,x\n2,y\n", "label", "it has a, Label; did you mean Label?"),
        ("\0a,label\n1,x\n2,y\n", "label", "no text; must be UTF-8"),
        ("\n\na,label\n1,x\n2,y\n", "label", "empty"),
    ],
)
def test_a_table_of_another_form_is_refused_with_the_reason(folder: Path, text: str, label: str, part: str) -> None:
    Path("my.csv").write_text(text, encoding="utf-8", newline="")
    assert part in refusal("my.csv", label=label)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_a_table_in_utf_16(folder: Path, encoding: str) -> None:
    Path("my.csv").write_bytes("a,label\n1,x\n2,y\n".encode(encoding))
    assert "UTF-16, or no text; must be UTF-8" in refusal("my.csv")


def test_a_table_in_latin_1_is_refused_with_the_line(folder: Path) -> None:
    Path("my.csv").write_bytes("a,label\n1,x\n2,café\n".encode("latin-1"))
    assert "line 3: the byte 0xe9 is no UTF-8 (Latin-1?)" in refusal("my.csv")


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_endings_byte_order_marks_and_blank_lines(folder: Path, ending: str, mark: str) -> None:
    text = mark + ending.join(["a,label", "1.5,x", "", "2e-5,y", "", ""])
    Path("my.csv").write_bytes(text.encode())
    data = load("my.csv")
    assert data.x.tolist() == [[1.5], [2e-5]] and data.y.tolist() == [0, 1] and data.cautions == ()


def test_extreme_numbers_that_are_there_are_read(folder: Path) -> None:
    cells = ["1e-100", "2.2250738585072014e-308", "0e-400", "-0", "1E+99", "+.5", "7."]
    Path("my.csv").write_text("\n".join(["a,label", *(f"{cell},{'xy'[i % 2]}" for i, cell in enumerate(cells))]))
    assert load("my.csv").x[:, 0].tolist() == [float(cell) for cell in cells]


@pytest.mark.parametrize(
    ("names", "labels", "doubted"),
    [
        (["400", "410", "425", "kind"], ["x", "y"], True),  # channels, or the first sample
        (["0", "1", "2", "kind"], ["x", "y"], False),  # pandas' names
        (["1", "2", "3", "kind"], ["x", "y"], False),
        (["0", "1", "2", "3"], ["x", "y"], False),
        (["0", "1", "2", "3"], ["3", "7"], True),
        (["400", "410", "width", "kind"], ["x", "y"], False),
    ],
)
def test_columns_whose_names_are_numbers(folder: Path, names: list[str], labels: list[str], doubted: bool) -> None:
    rows = [f"{math.sin(i)},{math.cos(i)},{i * i},{labels[i % 2]}" for i in range(4)]
    found = cautions("\n".join([",".join(names), *rows]), label=names[-1])
    assert len(found) == doubted and all("if line 1 is data" in line for line in found)


def test_labels_with_and_without_blanks(folder: Path) -> None:
    (line,) = cautions("a,b,label\n1.5,2, x\n2.5,1,x\n-1,0, y\n3,1, y\n")
    assert "' x'" in line and "one class" in line
    assert cautions("a,b,label\n1.5,2, x\n2.5,1, x\n-1,0, y\n3,1, y\n") == []


def test_a_path_that_cannot_be_one(folder: Path) -> None:
    for path in ("x" * 5000 + ".csv", "a\0b.csv"):
        line = refusal(path)
        assert line.startswith("dataset.path=") and len(line) < 400


# --- .npz files that are damaged


def member(name: str, content: bytes, method: int = zipfile.ZIP_STORED) -> None:
    """An archive whose ``X`` is whole, and whose member ``name`` has this content."""
    np.savez("my.npz", X=np.eye(3)[:, 1:])
    with zipfile.ZipFile("my.npz", "a", method) as archive:
        archive.writestr(name, content)


HEADER = b"{'descr': '<i8', 'fortran_order': False, 'shape': (%s,), }"


def npy(header: bytes, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


@pytest.mark.parametrize(
    ("name", "content", "method"),
    [
        ("y", b"no array", zipfile.ZIP_STORED),
        ("y.npy", b"", zipfile.ZIP_STORED),
        ("y.npy", npy(HEADER % b"3" + b"\n")[:30], zipfile.ZIP_STORED),
        ("y.npy", npy(b"{'descr': '<i8', 'shape': (3,"), zipfile.ZIP_STORED),
        ("y.npy", npy(HEADER % b"1000000000000" + b"\n", b"\0" * 24), zipfile.ZIP_STORED),
        ("y.npy", npy(HEADER % b"1000000000000" + b"\n", b"\0" * 24), zipfile.ZIP_DEFLATED),
        ("y.npy", npy(HEADER % b"3" + b"\n", b"\0" * 8), zipfile.ZIP_LZMA),
        ("y.npy", npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (3,), }\n", b"cos\nsystem\n."), zipfile.ZIP_STORED),
    ],
)
def test_damaged_members(folder: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, method: int) -> None:
    member(name, content, method)
    assert main([*QUICK, "dataset.path=my.npz"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: dataset.path=my.npz: the array y ") and error.count("\n") == 1


def test_long_doubles_beyond_double_precision(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if np.finfo(np.longdouble).max <= np.finfo(np.float64).max:
        pytest.skip("long doubles are doubles here")
    np.savez("my.npz", X=np.array([["1"], ["1e400"]], dtype=np.longdouble), y=[0, 1])
    assert main([*QUICK, "dataset.path=my.npz"]) == 2
    assert capsys.readouterr().err == "error: dataset.path=my.npz: inf in row 2, column 1; must be finite\n"


def test_numbers_below_full_precision_in_npz(folder: Path) -> None:
    np.savez("my.npz", X=[[1.0, 2.0], [3.0, 5e-324]], y=[0, 1])
    assert "5e-324 in row 2, column 2 is too small" in refusal("my.npz")
