"""The numbers that the paper reports, read from `results/paper/`; none of them was reproduced here."""

import csv
import re
from pathlib import Path

import pandas as pd

from ovenet_core.data import DataError, load

FOLDER = Path(__file__).parents[2] / "results" / "paper"
FORMS = {  # what may stand in a column; in the others, text
    "value": r"\d+(\.\d+)?",
    "bold": "true|false",
    "frozen": "true|false",
    "ohem": "true|false",
}


def read(table: str, folder: Path = FOLDER) -> pd.DataFrame:
    """One table of the paper, long: a row for each printed number. Scores are in percent.

    Args:
        table: "table1" to "table6", or "text".

    Returns:
        The columns of the file (results/paper/README.md) as text, "" where the paper says nothing. But `value` is a
        float, with the number of its printed decimals in `decimals`; `bold`, `frozen` and `ohem` are true or false.

    Raises:
        DataError: naming the file, and the line: there is no such table, or a row is not whole.
    """
    path = Path(folder) / f"{table}.csv"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.csv"))) or "the folder results/paper"
        raise DataError(f"{path}: no such table, expected {known}; correct the name, or take it from the repository")
    columns, *rows = list(csv.reader(load(path).decode(errors="replace").splitlines())) or [[]]
    if missing := {"source", "metric", "value"}.difference(columns):
        raise DataError(f"{path}: no column {', '.join(sorted(missing))} in the first line; restore the file")
    for line, row in enumerate(rows, start=2):
        if len(row) != len(columns):
            raise DataError(f"{path}, line {line}: {len(row)} fields, expected {len(columns)}; correct the line")
        for column, field in zip(columns, row, strict=True):
            if column in FORMS and not re.fullmatch(FORMS[column], field):
                raise DataError(f"{path}, line {line}: {column} is {field!r}, expected {FORMS[column]}; correct it")
    frame = pd.DataFrame(rows, columns=columns)
    frame["decimals"] = [len(text.partition(".")[2]) for text in frame["value"]]
    flags = {column: frame[column] == "true" for column in FORMS if column in columns and column != "value"}
    return frame.assign(value=frame["value"].astype(float), **flags)
