"""The reported numbers: read whole or not at all, held against the paper's own arithmetic and against our presets.

Where the paper does not agree with itself, a test has the list, and docs/paper_inconsistencies.md the numbers.
"""

import csv
import itertools
import re
from pathlib import Path

import pandas as pd
import pytest

from ovenet_core.data import CITYSCAPES, DATASETS
from ovenet_core.hrnet import BACKBONE_MODULES
from ovenet_core.offset_head import OFFSET_MODULES
from ovenet_core.study.paper import FOLDER, read
from ovenet_core.training.config import Experiment
from ovenet_core.training.presets import PRESETS, TABLE_5
from ovenet_core.utils import DataError

TABLES = ("table1", "table2", "table3", "table4", "table5", "table6", "text")
DOCUMENT = (Path(__file__).parents[2] / "docs" / "paper_inconsistencies.md").read_text()
CLASSES = list(CITYSCAPES.class_names)
CONDITIONS = ["fog", "night", "rain", "snow"]
PRINTED = {
    "miou": "mIoU",
    "mean_instance_iou": "iIoU cla.",
    "mean_category_iou": "IoU cat.",
    "mean_category_instance_iou": "iIoU cat.",
    "iou": "IoU",
}
TABLE = {name: read(name) for name in TABLES}


def half(decimals: int) -> float:
    """Half a unit of the last printed decimal, and a little for binary fractions."""
    return 0.5 * 10.0**-decimals + 1e-9


def documented(*header: str) -> list[tuple[str, ...]]:
    """The rows of the document's tables under this header."""
    line = r"^\| " + re.escape(" | ".join(header)) + r" \|\n\|[-|]+\n((?:\|.*\n)*)"
    rows = "".join(re.findall(line, DOCUMENT, re.M)).splitlines()
    return [tuple(field.strip() for field in row.strip("|").split("|")) for row in rows]


def value(table: str, **where: str) -> float:
    """The one number with these values in its columns."""
    rows = TABLE[table]
    for column, wanted in where.items():
        rows = rows[rows[column] == wanted]
    (number,) = rows["value"]
    return number


def shown(row) -> str:
    return f"{row.method} {row.value:.{row.decimals}f}"


# -- Reading


@pytest.mark.parametrize("table", TABLES)
def test_value_and_decimals_are_those_of_the_file(table):
    with open(FOLDER / f"{table}.csv", encoding="utf-8") as file:
        printed = [row["value"] for row in csv.DictReader(file)]
    assert [f"{row.value:.{row.decimals}f}" for row in TABLE[table].itertuples()] == printed


def test_flags_are_true_or_false_and_the_rest_is_text():
    kinds = read("table5").dtypes.astype(str)
    assert (kinds[["frozen", "ohem", "bold"]] == "bool").all() and kinds["value"] == "float64"
    assert kinds["tau"] == kinds["source"] and set(read("table1")["preset"]) > {""}


@pytest.mark.parametrize(
    ("text", "where", "found"),
    [
        ("", ", line 1", "the columns"),
        ("source,metric\nTable 9,miou\n", ", line 1", "the columns source, metric"),
        ("source,metric,value\nTable 9,miou,81.8\nTable 9,miou\n", ", line 3", "2 fields"),
        ("source,metric,value\nTable 9,miou,81.8%\n", ", line 2, value", "'81.8%'"),
        ("source,metric,value,bold\nTable 9,miou,81.8,yes\n", ", line 2, bold", "'yes'"),
    ],
)
def test_a_damaged_table_is_named(tmp_path, text, where, found):
    (tmp_path / "table9.csv").write_text(text)
    with pytest.raises(DataError) as caught:
        read("table9", tmp_path)
    assert caught.value.where == f"{tmp_path / 'table9.csv'}{where}" and caught.value.found.strip() == found


@pytest.mark.parametrize(("table", "expected"), [("table7", "table"), ("x", "table1, table2")])
def test_an_unknown_table_is_named_with_those_that_exist(table, expected):
    with pytest.raises(DataError) as caught:
        read(table)
    assert caught.value.where == FOLDER / f"{table}.csv" and expected in caught.value.expected


# -- Rows


def test_sources_are_the_tables_named_by_the_files():
    found = {table: set(frame["source"]) for table, frame in TABLE.items()}
    assert found.pop("text") == {"Section 4.1", "Section 4.2", "Section 4.3"}
    assert found.pop("table6") == {"Table 6", "Appendix A"}
    assert found == {f"table{n}": {f"Table {n}"} for n in range(1, 6)}


@pytest.mark.parametrize("table", ["table1", "table2", "table3", "table4", "table5"])
def test_no_number_is_there_twice(table):
    frame = TABLE[table]
    assert not frame.duplicated(list(frame.columns.difference(["value", "decimals", "bold"]))).any()


@pytest.mark.parametrize("table", ["table2", "table3"])
def test_each_system_has_the_classes_of_cityscapes_in_order_and_the_mean(table):
    frame = TABLE[table]
    groups = [
        list(rows)
        for _, rows in itertools.groupby(frame.itertuples(), lambda row: (row.preset, getattr(row, "condition", "")))
    ]
    assert len(groups) == {"table2": 4, "table3": 10}[table]
    for rows in groups:
        assert [(row.metric, row[frame.columns.get_loc("class") + 1]) for row in rows] == [
            *(("iou", name) for name in CLASSES),
            ("miou", ""),
        ]


@pytest.mark.parametrize("table", ["table1", "table2", "table3", "table4", "table5", "text"])
def test_a_preset_is_the_system_of_its_row(table):
    frame = TABLE[table]
    for row in frame[frame["preset"] != ""].itertuples():
        experiment = PRESETS[row.preset]
        assert experiment.benchmark == row.benchmark
        assert (experiment.branch_stage is None) == row.method.startswith("HRNet"), row
        assert (experiment.backbone == "hrnet_ocr") == ("OCR" in row.method), row
        assert experiment.train_split == getattr(row, "trained_on", experiment.train_split), row
    assert not frame[frame["preset"] == ""]["method"].str.contains("HRNet|OVeNet").any()


def test_table_5_has_the_settings_of_its_presets():
    assert TABLE["table5"]["preset"].tolist() == [f"cityscapes/{name}" for name in TABLE_5]
    for row in TABLE["table5"].itertuples():
        experiment = PRESETS[row.preset]
        assert (row.frozen, row.ohem) == (experiment.freeze_backbone, experiment.ohem), row
        if experiment.branch_stage is None:
            assert (row.branch, row.tau) == ("", "")
        else:
            assert (int(row.branch), float(row.tau)) == (experiment.branch_stage, experiment.tau), row


# -- Means


def test_printed_means_are_those_of_the_classes():
    wrong, rows = [], []
    for table, by in (("table2", ["method"]), ("table3", ["condition", "method"])):
        for key, group in TABLE[table].groupby(by, sort=False):
            (printed,) = group[group["metric"] == "miou"].itertuples()
            classes = group[group["metric"] == "iou"]
            computed = classes["value"].mean()
            if abs(printed.value - computed) > half(printed.decimals) + half(classes["decimals"].max()):
                wrong.append(key)
                digits = printed.decimals + 1
                rows.append(
                    (
                        f"{printed.source}, {', '.join(key)}",
                        f"{printed.value:.{printed.decimals}f}",
                        f"{computed:.{digits}f}",
                        f"{printed.value - computed:+.{digits}f}",
                    )
                )
    assert wrong == [("HRNet",), ("HRNet + OCR",), ("fog", "HRNet"), ("rain", "HRNet")]
    assert documented("where", "printed mIoU", "mean of the classes", "difference") == rows


# -- One number in two places


def test_table_2_has_the_means_of_table_1():
    means = TABLE["table2"].query("metric == 'miou'")
    both = means.merge(TABLE["table1"], on=["preset", "method", "metric"], suffixes=("", "_1"))
    assert len(both) == len(means) == 4
    assert ((both["value"] - both["value_1"]).abs() <= both["decimals_1"].map(half)).all()


def test_table_4_has_the_means_of_table_3():
    ours = TABLE["table4"].query("preset != ''")
    both = ours.merge(TABLE["table3"], on=["preset", "condition", "metric"], suffixes=("", "_3"))
    assert len(both) == len(ours) == 10
    assert (both["value"] == both["value_3"]).all() and (both["decimals"] == both["decimals_3"]).all()


def test_the_text_has_the_first_rows_of_table_5():
    text = TABLE["text"].query("benchmark == 'cityscapes' and split == 'val' and metric == 'miou'")
    both = text.merge(TABLE["table5"], on=["preset", "metric", "split"], suffixes=("", "_5"))
    assert both["preset"].tolist() == TABLE["table5"]["preset"][:2].tolist()
    assert ((both["value"] - both["value_5"]).abs() <= both["decimals"].map(half)).all()


def test_all_conditions_together_lie_between_the_lowest_and_the_highest():
    # The IoU over all images is a weighted mean of the conditions' IoU, the weights being their unions.
    scores = (
        TABLE["table3"].query("metric == 'iou'").pivot(index=["method", "class"], columns="condition", values="value")
    )
    slack = 2 * half(1)
    assert (scores["all"] >= scores[CONDITIONS].min(axis=1) - slack).all()
    assert (scores["all"] <= scores[CONDITIONS].max(axis=1) + slack).all()


# -- Gains


def gains():
    """(row, printed, computed) of each gain that the text names."""
    text = TABLE["text"]
    for row in text[text["metric"].str.endswith(" gain")].to_dict("records"):
        table = "table3" if row["benchmark"] == "acdc" else "table1"
        where = {"metric": row["metric"].removesuffix(" gain")}
        if table == "table3":
            where |= {"class": row["class"], "condition": row["condition"]}
        yield row, value(table, preset=row["preset"], **where) - value(table, preset=row["over"], **where)


def test_gains_are_the_differences_of_the_tables():
    wrong, rows = [], []
    for row, computed in gains():
        if abs(row["value"] - computed) > half(row["decimals"]):
            metric = PRINTED[row["metric"].removesuffix(" gain")]
            what = (row["preset"], metric, row["class"], row["condition"])
            wrong.append(what)
            place = ", ".join(filter(None, what[1:]))
            rows.append(
                (
                    f"{row['source']}, {row['preset']} over {row['over']}, {place}",
                    f"{row['value']:.{row['decimals']}f}",
                    f"{computed:.1f}",
                    f"{row['value'] - computed:+.1f}",
                )
            )
    assert wrong == [
        ("cityscapes/ovenet", "iIoU cat.", "", ""),
        ("acdc/ovenet", "IoU", "bus", "fog"),
        ("acdc/ovenet", "IoU", "truck", "fog"),
    ]
    assert documented("where", "printed gain", "gain in the table", "difference") == rows
    assert len(list(gains())) == 8


def test_the_wrongly_named_gain_is_that_of_the_instances():
    ours, theirs = (
        value("table1", preset=f"cityscapes/{name}", metric="mean_instance_iou") for name in ("ovenet", "hrnet")
    )
    (named,) = [
        row["value"]
        for row, computed in gains()
        if row["benchmark"] == "cityscapes" and abs(row["value"] - computed) > half(row["decimals"])
    ]
    assert named == pytest.approx(ours - theirs)


def test_truck_gains_most_in_fog():
    truck = TABLE["table3"][TABLE["table3"]["class"] == "truck"]
    scores = truck.pivot(index="condition", columns="method", values="value")
    assert (scores["OVeNet"] - scores["HRNet"]).idxmax() == "fog"


# -- Bold


def compared():
    """(where, numbers) of each group of numbers that are compared with each other."""
    table2 = TABLE["table2"].assign(pair=TABLE["table2"]["method"].str.contains("OCR").map({True: "OCR", False: ""}))
    frames = {
        "table1": (TABLE["table1"], ["trained_on", "metric"]),
        "table2": (table2, ["pair", "metric", "class"]),
        "table3": (TABLE["table3"], ["condition", "metric", "class"]),
        "table4": (TABLE["table4"], ["condition"]),
        "table5": (TABLE["table5"], ["metric"]),
    }
    for frame, by in frames.values():
        for key, group in frame.groupby(by, sort=False):
            words = [PRINTED.get(word, word) for word in key if word not in ("", "iou", "OCR")]
            yield ", ".join([group["source"].iloc[0], *words]), group


def test_bold_is_the_best_of_its_group():
    wrong, ties = [], []
    for where, group in compared():
        bold, best = group[group["bold"]], group[group["value"] == group["value"].max()]
        if set(bold.index) == set(best.index):
            continue
        others = best.drop(bold.index, errors="ignore")
        found = ties if set(bold.index) < set(best.index) and len(bold) else wrong
        found.append((where, *(" and ".join(map(shown, rows.itertuples())) for rows in (bold, others))))
    assert [where for where, *_ in wrong] == [
        "Table 1, trainval, IoU cat.",
        "Table 2, traffic sign",
        "Table 2, terrain",
    ]
    assert [where for where, *_ in ties] == [
        "Table 3, rain, sky",
        "Table 3, rain, motorcycle",
        "Table 3, rain, bicycle",
    ]
    assert documented("where", "bold", "best") == wrong
    assert documented("where", "bold", "as good") == ties


# -- Table 6


def modules_of(source: str, metric: str) -> pd.DataFrame:
    rows = TABLE["table6"].query("source == @source and metric == @metric")
    return rows.assign(stage=rows["stage"].astype(int))


@pytest.mark.parametrize("metric", ["units", "modules"])
def test_table_6_says_of_a_stage_what_appendix_a_says(metric):
    table, words = modules_of("Table 6", metric), modules_of("Appendix A", metric)
    both = table.merge(words, on=["head", "stage"], suffixes=("", "_a"))
    assert len(both) == len(table[table["head"].isin(words["head"])]) and (both["value"] == both["value_a"]).all()


def test_table_6_has_a_branch_more_in_each_stage():
    semantic = modules_of("Table 6", "modules").query("head == 'Semantic'").groupby("stage")["resolution"]
    branches = modules_of("Appendix A", "branches").set_index("stage")["value"]
    assert semantic.nunique().tolist() == branches.tolist() == [1, 2, 3, 4]
    assert semantic.agg(list)[4] == ["4×", "8×", "16×", "32×"]


def test_units_of_table_6_double_their_channels_with_each_halving():
    for row in modules_of("Table 6", "units").query("stage > 1").itertuples():
        times = int(row.resolution.removesuffix("×")) // 4
        channels = "C" if times == 1 else f"{times}C"
        assert row.unit == f"3×3, {channels}; 3×3, {channels}"


def test_the_networks_are_those_of_table_6():
    modules = modules_of("Table 6", "modules").groupby(["head", "stage"])["value"].agg(set)
    assert modules["Semantic"].to_dict() == {1: {1}} | {stage: {n} for stage, n in BACKBONE_MODULES.items()}
    assert modules["Offset Vector"].to_dict() == {4: {OFFSET_MODULES[4]}}
    assert set(modules_of("Table 6", "units")["value"]) == {Experiment().blocks}


# -- The text


def text_counts(benchmark: str, metric: str) -> dict[str, int]:
    rows = TABLE["text"].query("benchmark == @benchmark and metric == @metric").set_index("split")["value"]
    return {split: int(count) for split, count in rows.items()}


@pytest.mark.parametrize("name", ["cityscapes", "acdc", "ade20k"])
def test_images_and_classes_are_those_of_the_benchmark(name):
    official = {split: sum(counts.values()) for split, counts in DATASETS[name].official_counts.items()}
    images = text_counts(name, "images")
    for split, count in images.items():
        if split not in ("all", "train_extra"):  # of the coarse labels, the paper has a round number
            assert count == official[split]
    parts = [count for split, count in images.items() if split not in ("all", "train_extra")]
    assert images.get("all", sum(parts)) == sum(parts)
    assert text_counts(name, "classes") == {"": DATASETS[name].num_classes}


def test_acdc_cannot_be_divided_evenly():
    images, conditions = text_counts("acdc", "images")["all"], text_counts("acdc", "conditions")["all"]
    assert conditions == len(CONDITIONS) and images % conditions
    row = ("Section 4.1", str(images), str(conditions), str(images / conditions))
    assert documented("where", "images", "conditions", "images of each") == [row]


def test_what_the_text_says_of_table_5_is_true_of_it():
    score = {row.preset.split("/")[1]: row.value for row in TABLE["table5"].itertuples()}
    assert len(score) == TABLE["text"].query("metric == 'variants'")["value"].item()
    assert score["hrnet"] < score["ovenet-frozen"] < score["ovenet"]
    assert max(score["ovenet-tau-1"], score["ovenet-tau-0.2"]) < score["ovenet"]
    assert max(score["ovenet-tau-0.2-ce"], score["ovenet-tau-0.2-branch-3"]) < score["ovenet-tau-0.2"]


def test_ovenet_learned_on_train_is_above_hrnet_learned_on_train_and_val():
    ours, theirs = (
        value("table1", preset=name, metric="miou") for name in ("cityscapes/ovenet", "cityscapes-trainval/hrnet")
    )
    assert ours > theirs


def test_with_ocr_ovenet_excels_in_one_score_of_four():
    scores = TABLE["table1"].query("preset != ''").pivot(index="metric", columns="preset", values="value")
    hrnet, ovenet = (scores[f"cityscapes-trainval/{name}"] for name in ("hrnet-ocr", "ovenet-ocr"))
    lower = [metric for metric in PRINTED if metric in scores.index and ovenet[metric] < hrnet[metric]]
    assert lower == ["mean_instance_iou", "mean_category_iou", "mean_category_instance_iou"]
    rows = [(PRINTED[metric], f"{hrnet[metric]:.1f}", f"{ovenet[metric]:.1f}") for metric in lower]
    assert documented("score", "HRNet + OCR", "OVeNet (HRNet + OCR)") == rows


@pytest.mark.parametrize("method", ["HRNet", "OVeNet"])
def test_claims_about_conditions(method):
    scores = TABLE["table3"].query("method == @method").pivot(index="class", columns="condition", values="value")
    scores = scores[CONDITIONS]
    at_night = ["building", "vegetation", "traffic sign", "sky"]
    assert (scores.idxmin(axis=1)[["person", "bicycle"]] == "fog").all()
    assert (scores.idxmin(axis=1)[at_night] == "night").all()
    assert scores.loc["sidewalk", ["night", "snow"]].max() < scores.loc["sidewalk", ["fog", "rain"]].min()
    assert scores.loc["rider"].idxmax() == "fog"  # though it is said to perform poorly there
    assert scores.loc["road", ["night", "snow"]].max() >= scores.loc["road", "fog"]  # though said to be lowest there
    rows = [(f"{name}, {method}", *(f"{score:.1f}" for score in scores.loc[name])) for name in ("rider", "road")]
    found = documented("class, method", *CONDITIONS)
    assert [row for row in found if row[0].endswith(f", {method}")] == rows and len(found) == 4
