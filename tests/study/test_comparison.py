"""Runs paired by seed: their class counts, their analyses of offsets, and files that are not theirs."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest
from class_counts import counted

from ovenet_core.evaluation.evaluate import Evaluation, ImageScores, image_counts
from ovenet_core.study.claims import claims
from ovenet_core.study.comparison import Study
from ovenet_core.utils import ConfigError, RunError


def test_f_at_right_and_wrong_seeds_is_as_uncertain_as_in_the_file(study, tmp_path):
    path = tmp_path / "o0/offset_analysis.json"
    analysis = json.loads(path.read_text())
    analysis["offset_analysis"]["table"][0] |= {"f_right": [0.7, 0.9], "f_wrong": None}
    path.write_text(json.dumps(analysis))
    found = study.analyses()[0]
    assert found["f_right"] == (0.7, 0.9) and np.isnan(found["f_wrong"]).tolist() == [True, True]


def test_scores_of_images_that_are_not_the_runs_own_are_refused(study, tmp_path):
    counts = pd.read_csv(tmp_path / "h0/images.csv.gz")
    counts.loc[counts["label"] == 0, "prediction"] = 1
    counts.to_csv(tmp_path / "h0/images.csv.gz", index=False)
    with pytest.raises(RunError) as caught:
        study.pairs("ovenet", "hrnet")
    assert caught.value.where == tmp_path / "h0/images.csv.gz" and "S_i" in caught.value.found
    assert "result.json" in caught.value.expected and "04_evaluation" in caught.value.fix


@pytest.mark.parametrize(
    ("file", "content", "notebook"),
    [
        ("images.csv.gz", b"", "04_evaluation"),
        ("images.csv.gz", gzip.compress(b"output,image\n" * 99)[:-9], "04_evaluation"),
        ("images.csv.gz", gzip.compress(b"output,image,label,prediction,pixels\nS_f,a,0,0,1\n"), "04_evaluation"),
        (
            "images.csv.gz",
            gzip.compress(b"output,image,label,prediction,pixels,near\nS_f,a,140,0,1,1\n"),
            "04_evaluation",
        ),
        ("offset_analysis.json", b'{"split"', "08_offset_analysis"),
        ("offset_analysis.json", b'{"split": "val"}', "08_offset_analysis"),
        ("offset_analysis.json", b'{"split": "val", "offset_analysis": {"table": []}}', "08_offset_analysis"),
    ],
    ids=["empty", "cut", "column", "class", "cut json", "nothing found", "no rows"],
)
def test_a_damaged_file_is_named_with_the_remedy(study, tmp_path, file, content, notebook):
    (tmp_path / "o1" / file).write_bytes(content)
    with pytest.raises(RunError) as caught:
        claims(study)
    assert caught.value.where == tmp_path / "o1" / file and notebook in caught.value.fix


def test_names_of_images_are_text(study, tmp_path):
    """Of which pandas would take 001 and 01 for one number, and NA for none."""
    for folder in ("h0", "o0"):
        counts = pd.read_csv(tmp_path / folder / "images.csv.gz")
        counts.replace({"image": {"p1": "001", "p2": "01", "p3": "NA"}}).to_csv(
            tmp_path / folder / "images.csv.gz", index=False
        )
    assert len(study.pairs("ovenet", "hrnet")) == 3
    assert {"001", "01", "NA"} <= {*study.class_counts(study.runs("hrnet")[0])[0]}


def test_a_band_without_a_number_leaves_the_others(study, tmp_path):
    """No offset of that band leaves its pixel, so that nothing is known of where they point."""
    path = tmp_path / "o0/offset_analysis.json"
    analysis = json.loads(path.read_text())
    for row in analysis["offset_analysis"]["table"]:
        row |= {"seed_deeper": 0.5} if row["group"] == "2 to 4" else {}
        row |= {"seed_deeper": None} if row["group"] == "below 1" else {}
    path.write_text(json.dumps(analysis))
    assert study.analyses()[0]["near_seed_deeper"] == pytest.approx(0.5)


def test_an_unknown_protocol_is_refused_with_the_nearest(study):
    with pytest.raises(ConfigError) as caught:
        Study("camvid-haf", study.selection)
    error = caught.value
    assert (error.where, error.found, error.expected) == ("protocol", "'camvid-haf'", "'camvid-half'")


def test_an_analysis_of_another_split_is_refused(study, tmp_path):
    (tmp_path / "o0/offset_analysis.json").write_text(json.dumps({"split": "train"}))
    with pytest.raises(RunError) as caught:
        study.analyses()
    assert caught.value.where == tmp_path / "o0/offset_analysis.json"
    assert "'train'" in caught.value.found and caught.value.expected == "'val'"


def test_pairs_need_the_same_images(study, tmp_path):
    counts = pd.read_csv(tmp_path / "h0/images.csv.gz")
    counts.replace({"image": {"p3": "another"}}).to_csv(tmp_path / "h0/images.csv.gz", index=False)
    assert len(study.pairs("ovenet", "hrnet")) == 2


def test_near_and_far_are_parts_of_all_pixels(study):
    run = study.runs("hrnet")[0]
    every, near, far, both = (study.class_counts(run, pixels=p)[1] for p in ("pixels", "near", "far", "near, far"))
    assert every.any() and (near + far == every).all() and (np.concatenate([near, far], axis=2) == both).all()


def test_class_counts_of_a_file_are_those_of_its_confusion_matrices(study, tmp_path):
    """Rows in any order, of classes and images that not every image has."""
    rows = pd.read_csv(tmp_path / "o0/images.csv.gz").sample(frac=1, random_state=0)
    rows.to_csv(tmp_path / "o0/images.csv.gz", index=False)
    names, found = study.class_counts(study.runs("ovenet")[0], "S_s", "near")
    assert names == sorted(rows["image"].unique())
    for name, mine in zip(names, found, strict=True):
        confusion = np.zeros((1, study.dataset.num_classes, study.dataset.num_classes))
        of_it = rows[(rows["image"] == name) & (rows["output"] == "S_s")]
        for label, prediction, near in of_it[["label", "prediction", "near"]].itertuples(index=False):
            confusion[0, label, prediction] += near
        assert (mine == counted(confusion)[0]).all()


def test_counts_of_images_are_their_confusion_matrices():
    evaluation = Evaluation.__new__(Evaluation)
    object.__setattr__(evaluation, "images", (ImageScores("a", 0.5, 0.5, ((0, 0, 9, 3), (1, 0, 4, 4))),))
    frame = image_counts({"S_i": evaluation})
    assert frame.to_dict("list") == {
        "output": ["S_i"] * 2,
        "image": ["a"] * 2,
        "label": [0, 1],
        "prediction": [0, 0],
        "pixels": [9, 4],
        "near": [3, 4],
    }
