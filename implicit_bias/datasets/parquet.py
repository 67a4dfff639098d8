"""Tables of samples in .parquet files, by pandas with pyarrow, which is installed with ``implicit-bias[parquet]``."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from implicit_bias.core.errors import BadInput
from implicit_bias.core.words import suggestion
from implicit_bias.datasets.base import unreadable
from implicit_bias.datasets.words import listing, quoted, usual_label


def read_parquet(path: Path, label: str, origin: str) -> tuple[NDArray[np.float64], NDArray[Any], list[str]]:
    """Features (n, d), labels (n,) as they are, and the names of the features.

    Args:
        label: The column that holds the labels.
        origin: What a message begins with.

    Raises:
        BadInput: it cannot be read, has no column ``label``, or a feature is no number or missing.
    """
    try:
        import pandas as pd  # only these files need it here, and pyarrow

        table = pd.read_parquet(path)
        if not isinstance(table.index, pd.RangeIndex):  # a column that was an index when it was written
            table = table.reset_index()
    except ImportError:
        raise BadInput(f"{origin}: .parquet files need pyarrow: pip install 'implicit-bias[parquet]', or save as .csv") from None
    except Exception as error:  # noqa: BLE001 - pyarrow has many classes of errors
        raise unreadable(origin, error) from None
    columns = [str(name) for name in table.columns]
    if label not in columns:
        hint = suggestion(label, columns) or usual_label(columns)
        raise BadInput(f"dataset.label={label}: no such column in {path}; it has {listing(columns)}{hint}")
    table.columns = columns
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise BadInput(f"{origin}: two columns are called {quoted(twice[0])}")
    labels = table.pop(label)
    missing = labels.isna().to_numpy()
    if missing.any():
        raise BadInput(f"{origin}: the label of sample {int(missing.argmax()) + 1} is missing")
    for name, column in table.items():
        if not (pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column)) or column.dtype.kind == "c":
            raise BadInput(f"{origin}: column {quoted(str(name))} has type {column.dtype}; must be real numbers")
        if column.isna().any():
            raise BadInput(f"{origin}: row {int(column.isna().to_numpy().argmax()) + 1}, column {quoted(str(name))}: no value")
    given = (
        labels.to_numpy() if pd.api.types.is_numeric_dtype(labels) or pd.api.types.is_bool_dtype(labels) else labels.astype(str)
    )
    return table.to_numpy(dtype=np.float64), np.array(given.tolist()), list(map(str, table.columns))
