"""docs/divergences.md states what the presets have: every field, every value, every published configuration.

A cell of the column "here" ends with statements: `field` VALUE, then "; VALUE in `pattern`, `pattern`" for the presets
that a pattern names. A later one wins, in the cell and in the page.
"""

import ast
import re
from dataclasses import fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from ovenet_core.data import get_dataset
from ovenet_core.training import PRESETS, sources
from ovenet_core.training.config import Experiment
from ovenet_core.training.presets import AUTHORS

ROOT = Path(__file__).parents[2]
PATH = ROOT / "docs" / "divergences.md"
PAGE = PATH.read_text()
FIELDS = [field.name for field in fields(Experiment)]
WORDS = {"nothing": "", "None": None}


def rows(text: str, column: str) -> list[dict[str, str]]:
    """The rows, by column, of all tables that have this column."""
    found = []
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.M):
        header, _, *lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in block.splitlines()]
        if column in header:
            found += [dict(zip(header, line, strict=True)) for line in lines]
    return found


def spans(text: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", text)


def statements(cell: str) -> list[tuple[str, str, list[str]]]:
    """(field, value, patterns) of each statement of a cell; what comes before the first one is prose."""
    found, name = [], ""
    for part in cell.split("; "):
        begin = re.match(rf"`({'|'.join(FIELDS)})` (?=\S)", part)
        if begin:
            name, part = begin[1], part[begin.end() :]
        if name:
            match = re.fullmatch(r"(\(.*?\)|\S+)(?: in (`[^`]+`(?:, `[^`]+`)*))?", part)
            assert match, f"{part!r} is no statement of {name}"
            found.append((name, match[1], spans(match[2] or "`*`")))
    return found


def read(name: str, value: str, preset: str) -> Any:
    """The value that a text means for a field of a preset."""
    if value in WORDS:
        return WORDS[value]
    if name == "class_weights":  # by the name of the dataset that has them
        return get_dataset(value).class_weights
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value.replace("PROTOCOL", preset.split("/")[0])


PUBLIC, OWN = (rows(part, "here") for part in PAGE.split("## Our own protocols"))
CONFIGURATIONS = {spans(row["preset"])[0]: row for row in rows(PAGE, "preset")}


def decided(row: dict[str, str]) -> list[str]:
    """The fields that decide the point of a row, without those that a row above has."""
    return [name for name in spans(re.sub(r"`\w+` \(above\)", "", row["field"])) if name in FIELDS]


@pytest.mark.parametrize("row", PUBLIC + OWN, ids=lambda row: row["point"].replace(" ", "-"))
def test_row_states_the_fields_that_decide_it(row):
    stated = statements(row["here"])
    assert {name for name, *_ in stated} == set(decided(row))
    for _, _, patterns in stated:
        for pattern in patterns:
            assert any(fnmatchcase(preset, pattern) for preset in PRESETS), pattern


def test_every_field_has_one_row():
    assert sorted(name for row in PUBLIC for name in decided(row)) == sorted(FIELDS)
    ours = [name for row in OWN for name in decided(row)]
    assert len(ours) == len(set(ours))
    above = re.findall(r"`(\w+)` \(above\)", PAGE)
    assert above and set(above) <= set(FIELDS)


@pytest.mark.parametrize("name", FIELDS)
def test_page_states_the_value_of_every_preset(name):
    stated = {}
    for row in PUBLIC + OWN:
        for field, value, patterns in statements(row["here"]):
            if field == name:
                named = [preset for preset in PRESETS if any(fnmatchcase(preset, pattern) for pattern in patterns)]
                stated |= {preset: read(name, value, preset) for preset in named}
    assert stated == {preset: getattr(experiment, name) for preset, experiment in PRESETS.items()}


def test_every_published_configuration_has_its_row():
    assert sorted(CONFIGURATIONS) == sorted(name for name in PRESETS if name.split("/")[0] in AUTHORS)


@pytest.mark.parametrize("preset", CONFIGURATIONS)
def test_row_of_a_published_configuration_has_its_values(preset):
    row, experiment = CONFIGURATIONS[preset], PRESETS[preset]
    stated = {name: cell.split()[0] for name in FIELDS if (cell := row.get(f"`{name}`", "–")) != "–"}
    assert {name: read(name, cell, preset) for name, cell in stated.items()} == {
        name: getattr(experiment, name) for name in stated
    }
    assert int(row["GPUs"]) * experiment.images_counted_together == experiment.batch_size
    files = spans(row["starts from"])
    assert set(files) <= {experiment.init_from, experiment.pretrained}
    assert ("frozen" in row["starts from"]) == experiment.freeze_backbone == (experiment.init_from in files)


def test_every_field_has_a_source():
    assert all(set(sources(name)) == set(FIELDS) for name in PRESETS)


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings."""
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.*)", page, re.M)}


def test_links_and_names_lead_somewhere():
    for link in re.findall(r"\]\(([^)]+)\)", PAGE):
        file, _, anchor = link.partition("#")
        target = PATH.parent / file if file else PATH
        assert "://" in link or (target.exists() and (not anchor or anchor in anchors(target.read_text()))), link
    for name in spans(PAGE):
        if name.startswith("tests/"):
            assert (ROOT / name).exists()
        elif re.fullmatch(r"[a-z\d-]+/(hrnet|ovenet)[\w.-]*", name):
            assert name in PRESETS


def test_notes_are_numbered_and_used():
    notes = re.findall(r"^(\d+)\. ", PAGE.partition("## Notes")[2], re.M)
    assert notes == [str(number + 1) for number in range(len(notes))]
    assert set(notes) == set(re.findall(r"\[(\d+)\]\(#notes\)", PAGE))
