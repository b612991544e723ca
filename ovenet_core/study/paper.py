"""The numbers that the paper reports, read from `results/paper/`; none of them was reproduced here."""

import csv
import re
from pathlib import Path

import pandas as pd

from ovenet_core.data import load
from ovenet_core.utils import DataError, right_name

FOLDER = Path(__file__).parents[2] / "results" / "paper"
FORMATS = {"value": r"\d+(\.\d+)?"} | dict.fromkeys(("bold", "frozen", "ohem"), "true|false")  # other columns: text


def read(table: str, folder: Path = FOLDER) -> pd.DataFrame:
    """Read "table1" to "table6" or "text" in long form: a row for each printed number. Scores are in percent.

    Columns are those of the file (results/paper/README.md) as text, "" where the paper says nothing. But `value` is a
    float, with the number of its printed decimals in `decimals`; `bold`, `frozen` and `ohem` are true or false.
    A DataError names the file, the line and the column that are not whole.
    """
    path = Path(folder) / f"{table}.csv"
    if not path.is_file():
        tables = sorted(file.stem for file in path.parent.glob("*.csv"))
        raise DataError(path, "no such table", right_name(table, tables), "correct the name, or restore the folder")
    columns, *rows = list(csv.reader(load(path).decode(errors="replace").splitlines())) or [[]]
    if missing := {"source", "metric", "value"}.difference(columns):
        expected = f"also {', '.join(sorted(missing))}"
        raise DataError(f"{path}, line 1", f"the columns {', '.join(columns)}", expected, "restore the file")
    for line, row in enumerate(rows, start=2):
        if len(row) != len(columns):
            raise DataError(f"{path}, line {line}", f"{len(row)} fields", str(len(columns)), "correct the line")
        for column, text in zip(columns, row, strict=True):
            if column in FORMATS and not re.fullmatch(FORMATS[column], text):
                raise DataError(f"{path}, line {line}, {column}", repr(text), FORMATS[column], "correct the field")
    numbers = pd.DataFrame(rows, columns=columns)
    numbers["decimals"] = [len(text.partition(".")[2]) for text in numbers["value"]]
    flags = {column: numbers[column] == "true" for column in FORMATS if column in columns and column != "value"}
    return numbers.assign(value=numbers["value"].astype(float), **flags)
