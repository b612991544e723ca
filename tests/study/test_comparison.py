"""Paired differences and claims: against brute force, known distributions and hand-computed verdicts."""

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from result_files import write_run

from ovenet_core.evaluation.evaluate import Evaluation, ImageScores, image_counts
from ovenet_core.study.claims import claims, gain_decomposition, verdict_of, widths
from ovenet_core.study.comparison import Study
from ovenet_core.study.efficiency import costs, gpu_tables
from ovenet_core.study.report import BEGIN, END, Report, with_section
from ovenet_core.study.results import find_runs, select_runs
from ovenet_core.study.statistics import (
    Estimate,
    accuracy,
    block_bootstrap_weights,
    class_iou,
    interval_hull,
    miou,
    paired_difference,
    share_of_gains,
    t_interval,
)
from ovenet_core.study.tables import variant_label
from ovenet_core.training.presets import VARIANTS

ROOT = Path(__file__).parents[2]


def matrices(random: np.random.Generator, right: float, count: int = 40) -> np.ndarray:
    """Confusion matrices of three classes, in which a share of the pixels is right."""
    wrong = (1 - right) / 2
    shares = np.where(np.eye(3) > 0, right, wrong)
    return np.stack([[random.multinomial(100, row) for row in shares] for _ in range(count)]).astype(float)


def tallied(confusion: np.ndarray) -> np.ndarray:
    """Hits, pixels of the label and of the prediction of each class."""
    return np.stack([np.diagonal(confusion, axis1=1, axis2=2), confusion.sum(2), confusion.sum(1)], axis=1)


def images(random: np.random.Generator, right: float, count: int = 40) -> np.ndarray:
    return tallied(matrices(random, right, count))


# -- Scores


def test_scores_of_a_confusion_matrix_computed_by_hand():
    confusion = tallied(np.array([[[8, 2, 0], [1, 9, 0], [0, 0, 0]]], float))
    assert class_iou(confusion)[0] == pytest.approx([100 * 8 / 11, 75, np.nan], nan_ok=True)
    assert miou(confusion) == pytest.approx([(100 * 8 / 11 + 75) / 2])
    assert accuracy(confusion) == pytest.approx([85])


def test_share_of_gains_leaves_out_classes_that_do_not_occur_or_do_not_differ():
    gains = np.array([[1, -1, 2, np.nan], [0, 0, 3, -1], [0, 0, 0, np.nan]])
    assert share_of_gains(gains) == pytest.approx([200 / 3, 50, np.nan], nan_ok=True)


# -- Differences


def test_the_difference_is_that_of_the_sums_over_all_images():
    random = np.random.default_rng(0)
    pairs = [(images(random, 0.8), images(random, 0.7)) for _ in range(3)]
    expected = np.mean([miou(a.sum(0)[None]) - miou(b.sum(0)[None]) for a, b in pairs])
    found = paired_difference(pairs)
    assert found.value == pytest.approx(expected) and found.seeds == 3
    assert found.low < found.value < found.high


def test_the_interval_of_one_pair_is_that_of_a_bootstrap_by_hand():
    random = np.random.default_rng(1)
    one, other = images(random, 0.8), images(random, 0.78)
    drawn = []
    for _ in range(3000):
        chosen = random.integers(40, size=40)
        drawn.append(miou(one[chosen].sum(0)[None])[0] - miou(other[chosen].sum(0)[None])[0])
    low, high = np.quantile(drawn, [0.025, 0.975])
    found = paired_difference([(one, other)])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.15 * (high - low))


def test_where_all_images_are_alike_the_interval_is_the_t_interval_over_seeds():
    random = np.random.default_rng(1)
    pairs = [
        (np.repeat(images(random, 0.8, 1), 40, axis=0), np.repeat(images(random, 0.7, 1), 40, axis=0)) for _ in range(3)
    ]
    expected = t_interval([float(miou(a[:1])[0] - miou(b[:1])[0]) for a, b in pairs])
    found = paired_difference(pairs)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=0.05)


def test_a_class_that_a_draw_lacks_costs_no_network_in_it():
    """Of 20 images one has the rare class; the other network takes a single pixel elsewhere for it."""
    confusion = np.zeros((2, 20, 2, 2))
    confusion[:, 1:, 0, 0], confusion[:, 0, 1, 1] = 100, 100
    confusion[1, 5, 0] = [99, 1]
    one, other = (tallied(found) for found in confusion)
    found = paired_difference([(one, other)])
    assert 0 < found.value < 1 and found.high < 5  # a half of its IoU, 50, if the one pixel counted against it


def test_neighbours_are_drawn_together_and_equally_often():
    weights = block_bootstrap_weights(10, 4, 5000, np.random.default_rng(0))
    assert (weights.sum(1) == 10).all() and weights.mean(0) == pytest.approx(np.ones(10), abs=0.05)
    neighbours = np.minimum(weights, np.roll(weights, 1, axis=1)).sum(1)
    assert (neighbours >= 7).all()  # two blocks of four and one of two, in each of which all but one follow another


def test_intervals_over_frames_of_one_video_are_wider_and_hold_the_truth_oftener():
    """Blocks of ten frames in which the one network or the other is better."""
    hits, widths = np.zeros(2), np.zeros(2)
    for trial in range(60):
        random = np.random.default_rng(trial)
        advantage = np.repeat(0.08 * random.standard_normal(10), 10)
        one, other = (
            np.concatenate([images(random, right, 1) for right in shares])
            for shares in (0.6 + advantage, np.full(100, 0.6))
        )
        for place, alike in enumerate((1, 20)):
            found = paired_difference([(one, other)], draws=300, alike=alike)
            hits[place] += found.low <= 0 <= found.high
            widths[place] += found.high - found.low
    assert widths[1] > 1.7 * widths[0] and hits[1] - hits[0] > 12


def test_ends_of_an_interval_hardly_depend_on_the_random_numbers():
    random = np.random.default_rng(3)
    pairs = [(images(random, 0.8), images(random, right)) for right in (0.77, 0.79)]
    ends = np.array([(found.low, found.high) for found in (paired_difference(pairs, seed=s) for s in range(6))])
    assert ends.std(0).max() < 0.03 * (ends[:, 1] - ends[:, 0]).mean()


def test_the_same_predictions_differ_by_nothing_with_certainty():
    same = images(np.random.default_rng(2), 0.8)
    assert paired_difference([(same, same)] * 3) == Estimate(0, 0, 0, 3)


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
@pytest.mark.parametrize("between", [0.0, 0.01, 0.05])
def test_intervals_hold_the_truth_about_as_often_as_they_say(seeds, between):
    """Of one seed only where seeds do not differ: nothing can be known of what one does not see."""
    if seeds == 1 and between:
        pytest.skip("one seed says nothing of others")
    hits = 0
    for trial in range(100):
        random = np.random.default_rng(trial)
        right = 0.7 + between * random.standard_normal((seeds, 2))
        found = paired_difference([(images(random, a), images(random, b)) for a, b in right], draws=300)
        hits += found.low <= 0 <= found.high
    assert 88 <= hits <= 100


def test_no_pairs_no_number():
    found = paired_difference([])
    assert np.isnan(found.value) and found.seeds == 0 and str(found) == "–"


def test_t_interval_of_three_seeds_by_hand():
    found = t_interval([1.0, 2.0, 3.0])
    assert (found.value, found.seeds) == (2, 3)
    assert found.high - 2 == pytest.approx(4.303 / 3**0.5, rel=1e-3) and found.low == pytest.approx(4 - found.high)
    assert np.isnan(t_interval([1.0]).low)


@pytest.mark.parametrize(
    ("estimate", "verdict"),
    [
        (Estimate(1, 0.5, 1.5, 3), "confirmed"),
        (Estimate(-1, -1.5, -0.5, 3), "refuted"),
        (Estimate(1, -0.1, 2, 3), "undecided"),
        (Estimate(1, 0.5, 1.5, 2), "undecided"),  # too few seeds
        (Estimate(1, np.nan, np.nan, 3), "undecided"),
        (Estimate(), "not testable here"),
    ],
)
def test_verdicts(estimate, verdict):
    assert verdict_of(estimate) == verdict


def test_a_bound_other_than_zero():
    assert verdict_of(Estimate(60, 55, 65, 3), 50) == "confirmed"
    assert verdict_of(Estimate(40, 35, 45, 3), 50) == "refuted"
    assert verdict_of(Estimate(40, 35, 45, 3), 50, below=True) == "confirmed"
    assert verdict_of(Estimate(60, 55, 65, 3), 50, below=True) == "refuted"
    assert verdict_of(Estimate(50, 45, 55, 3), 50, below=True) == "undecided"


# -- Runs


def write_scored(folder: Path, name: str, seed: int, right: float, random: np.random.Generator) -> Path:
    """A run with images.csv.gz as 04_evaluation leaves it; half of the pixels are near a boundary."""
    rows, scores = [], {}
    for output in ("S_i",) if "hrnet" in name else ("S_i", "S_s", "S_f"):
        found = matrices(random, right, 10)
        scores[output] = {"miou": miou(tallied(found.sum(0)[None]))[0] / 100}
        for place, matrix in enumerate(found):
            rows += [(output, f"p{place}", a, b, 2 * matrix[a, b], matrix[a, b]) for a, b in np.ndindex(3, 3)]
    write_run(folder, name, seed, 0.5, metrics=scores)
    columns = ["output", "image", "label", "prediction", "pixels", "near"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "images.csv.gz", index=False)
    return folder


@pytest.fixture
def study(tmp_path) -> Study:
    """Three seeds in which OVeNet is better by much, with nothing gained by fusion."""
    random = np.random.default_rng(0)
    for seed in range(3):
        write_scored(tmp_path / f"h{seed}", "synthetic/hrnet", seed, 0.7, random)
        ovenet = write_scored(tmp_path / f"o{seed}", "synthetic/ovenet", seed, 0.8, random)
        row = {
            "condition": "all",
            "by": "all",
            "group": "all",
            "length_median": 3 + seed / 10,
            "seed_deeper": 0.3 + seed / 100,
            "random_deeper": 0.1,
            "brier": 0.03,
            "brier_of_rate": 0.02 + seed / 1000,
            "f_right": 0.8,
            "f_wrong": 0.75 + seed / 100,
        }
        lengths = {
            "below 1": (10, 1.0, 0.5, 0.6),
            "1 to 2": (0, None, None, None),
            "2 to 4": (30, 1.5 + seed / 10, 0.9, 0.8),
            "4 to 8": (90, 9.0, 1.0, 1.0),
        }
        bands = [
            row
            | {
                "by": "distance",
                "group": group,
                "pixels": pixels,
                "length_median": length,
                "brier": 0.01,
                "seed_has_label": rate,
                "confidence": f,
                "brier_of_rate": None,
            }
            for group, (pixels, length, rate, f) in lengths.items()
        ]
        analysis = {"split": "val", "offset_analysis": {"table": [row, *bands], "reliability": []}}
        (ovenet / "offset_analysis.json").write_text(json.dumps(analysis))
    return Study("synthetic", select_runs(*find_runs(tmp_path)))


def test_verdicts_follow_from_the_runs(study):
    found = {claim.number: claim for claim in claims(study)}
    assert len({number.rstrip("abcde") for number in found}) == 12
    assert found["1"].verdict == "confirmed" and found["1"].estimate.seeds == 3 and found["1"].estimate.value > 5
    assert found["3"].verdict == "confirmed" and found["3"].estimate.value == 100
    assert found["4a"].verdict == found["4b"].verdict == "undecided"  # as much near boundaries as elsewhere
    assert found["5a"].verdict == "confirmed" and found["5a"].estimate.value == pytest.approx(3.1 / 4)
    assert found["5b"].verdict == "refuted" and found["5b"].estimate.value == pytest.approx((10 + 30 * 1.6) / 40 / 4)
    assert found["6a"].verdict == "confirmed" and found["6a"].estimate.value == pytest.approx(21)
    assert found["6b"].estimate == found["6a"].estimate
    assert found["7a"].verdict == "confirmed" and found["7a"].estimate.value == pytest.approx(80)
    assert found["7b"].verdict == "refuted" and found["7b"].estimate.value == pytest.approx(76)
    assert found["7c"].verdict == "refuted" and found["7d"].verdict == "confirmed"
    assert found["7d"].estimate.value == pytest.approx(100 * (1 - 0.01 / (0.8 * 0.2)))  # (10 x 0.5 + 30 x 0.9) / 40
    # Of 5 wrong seeds below 1 pixel F would be 0.6, of 3 at 2 to 4 pixels 0.8.
    assert found["7e"].estimate.value == pytest.approx(76 - 100 * (5 * 0.6 + 3 * 0.8) / 8)
    assert found["7e"].verdict == "refuted"
    untested = ("2", "8", "9a", "10", "12")
    assert all(found[n].verdict == "not testable here" and found[n].estimate.seeds == 0 for n in untested)


@pytest.mark.parametrize("bins", [5, 20])
def test_f_at_right_and_wrong_seeds_lies_between_what_its_bins_allow(bins, study, tmp_path):
    """As in files that were made before both were noted, and against F of each pixel."""
    path = tmp_path / "o0/offset_analysis.json"
    analysis = json.loads(path.read_text())
    random, row = np.random.default_rng(0), analysis["offset_analysis"]["table"][0]
    f = random.beta(6, 1, 2000)
    right = random.random(2000) < f**2
    place = (f * bins).astype(int)
    binned = [
        {
            "pixels": n,
            "confidence": f[place == b].mean() if n else None,
            "rate": right[place == b].mean() if n else None,
        }
        for b, n in enumerate(np.bincount(place, minlength=bins).tolist())
    ]
    for name in ("f_right", "f_wrong"):
        assert study.analyses()[0][name] == (row[name], row[name])
        del row[name]
    row["brier"] = ((f - right) ** 2).mean()
    analysis["offset_analysis"]["reliability"] = binned
    path.write_text(json.dumps(analysis))
    found = study.analyses()[0]
    for name, exact in (("f_right", f[right].mean()), ("f_wrong", f[~right].mean())):
        low, high = found[name]
        assert low < exact < high and high - low < 0.5 / bins


def test_of_bounds_the_middle_is_given_in_the_intervals_of_both():
    least, most = [1.0, 2.0, 3.0], [2.0, 4.0, 3.0]
    found = interval_hull(least, most)
    assert (found.value, found.low, found.high) == (2.5, t_interval(least).low, t_interval(most).high)
    assert interval_hull(least, least) == t_interval(least)


def test_what_is_near_a_boundary_is_asked_at_several_widths(study, tmp_path):
    """The gain against sums of pixels; HRNet has 40 near (of 100), OVeNet 40 + seed, and 5 more of the others."""
    for seed in range(3):
        for folder, near, every in (("h", 40, 100), ("o", 40 + seed, 105 + seed)):
            answer = {
                "pixel_accuracy": every / 130,
                "boundaries": {
                    "trimap": {
                        str(width): {"pixel_accuracy": near / {4: 40, 8: 130, 16: 130}[width]} for width in (4, 8, 16)
                    }
                },
            }
            outputs = {"S_i": answer} if folder == "h" else {"S_f": answer}
            (tmp_path / f"{folder}{seed}/evaluation.json").write_text(json.dumps({"metrics": outputs}))
    table = widths(study).set_index("")
    assert table.loc["4a", "within 4 pixels"] == f"{t_interval([100 * (s - 5) / 130 for s in range(3)])}: refuted"
    assert table.loc["5b", "within 4 pixels"].endswith("refuted")  # (10 x 1 + 30 x 1.6) / 40 = 1.45 of 4 pixels
    assert table.loc["5b", "within 8 pixels"].endswith("confirmed")  # 90 more of 9 pixels
    assert table["within 8 pixels"].tolist()[1:] == table["within 16 pixels"].tolist()[1:]


def test_each_claim_has_a_command_that_adds_a_seed_that_is_not_there(study):
    commands = {claim.number: claim.command for claim in claims(study)}
    assert "'variants=[ovenet,hrnet]' 'seeds=[3]' scores=True" in commands["1"]
    assert "variants=ovenet-tau-1 'seeds=[0]' scores=True" in commands["9b"]  # OVeNet's run of that seed counts
    assert "'variants=[ovenet-ocr,hrnet-ocr]' 'seeds=[0]' scores=True" in commands["2"]
    assert "variants=ovenet 'seeds=[3]'" in commands["5a"]


def test_a_seed_that_counts_and_has_no_scores_of_images_is_not_asked_for_again(study, tmp_path):
    (tmp_path / "h1/images.csv.gz").unlink()
    commands = {claim.number: claim.command for claim in claims(study)}
    assert "'variants=[ovenet,hrnet]' 'seeds=[3]' scores=True" in commands["1"]


def test_each_claim_names_the_runs_that_it_is_made_of(study, tmp_path):
    folders = {claim.number: set(claim.folders) for claim in claims(study)}
    assert folders["1"] == {str(tmp_path / f"{system}{seed}") for system in "ho" for seed in range(3)}
    assert folders["9b"] == set()


def test_scores_of_images_that_are_not_the_runs_own_are_refused(study, tmp_path):
    counts = pd.read_csv(tmp_path / "h0/images.csv.gz")
    counts.loc[counts["label"] == 0, "prediction"] = 1
    counts.to_csv(tmp_path / "h0/images.csv.gz", index=False)
    with pytest.raises(ValueError, match=r"h0/images.csv.gz: mIoU of S_i .*04_evaluation of this run again"):
        study.difference("ovenet", "hrnet")


def test_what_is_not_there_is_said(study, tmp_path):
    missing = {claim.number: claim.missing for claim in claims(study)}
    assert missing["2"] == missing["9a"] == "not run"
    for seed in range(3):
        (tmp_path / f"o{seed}/images.csv.gz").unlink()
        (tmp_path / f"o{seed}/offset_analysis.json").unlink()
    found = {claim.number: claim for claim in claims(study)}
    assert all((found[n].missing, found[n].estimate.seeds) == ("not scored", 0) for n in ("1", "3", "4a", "5a", "7d"))


def test_offsets_are_counted_where_they_were_analysed_and_scores_where_they_were_scored(study, tmp_path):
    (tmp_path / "o1/images.csv.gz").unlink()
    (tmp_path / "o2/offset_analysis.json").unlink()
    found = {claim.number: claim for claim in claims(study)}
    for number, seeds, folders in (("1", 2, "o0 o2 h0 h2"), ("5a", 2, "o0 o1")):
        assert found[number].estimate.seeds == seeds
        assert set(found[number].folders) == {str(tmp_path / folder) for folder in folders.split()}


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
    with pytest.raises(ValueError, match=rf"o1/{file}: damaged.*; run {notebook} of this run again"):
        claims(study)


def test_names_of_images_are_text(study, tmp_path):
    """Of which pandas would take 001 and 01 for one number, and NA for none."""
    for folder in ("h0", "o0"):
        counts = pd.read_csv(tmp_path / folder / "images.csv.gz")
        counts.replace({"image": {"p1": "001", "p2": "01", "p3": "NA"}}).to_csv(
            tmp_path / folder / "images.csv.gz", index=False
        )
    assert study.difference("ovenet", "hrnet").seeds == 3
    assert {"001", "01", "NA"} <= {*study.tallies(study.runs("hrnet")[0])[0]}


def test_a_band_without_a_number_leaves_the_others(study, tmp_path):
    """No offset of that band leaves its pixel, so that nothing is known of where they point."""
    path = tmp_path / "o0/offset_analysis.json"
    analysis = json.loads(path.read_text())
    for row in analysis["offset_analysis"]["table"]:
        row |= {"seed_deeper": 0.5} if row["group"] == "2 to 4" else {}
        row |= {"seed_deeper": None} if row["group"] == "below 1" else {}
    path.write_text(json.dumps(analysis))
    assert study.analyses()[0]["near_seed_deeper"] == pytest.approx(0.5)


def test_draws_without_a_pixel_to_score_leave_an_interval_of_the_others():
    """Five images of which one has pixels: a third of the draws have none."""
    one, other = np.zeros((5, 2, 2)), np.zeros((5, 2, 2))
    one[0], other[0] = [[8, 2], [0, 0]], [[6, 4], [0, 0]]
    found = paired_difference([(tallied(one), tallied(other))] * 2, accuracy)
    assert (found.value, found.low, found.high) == pytest.approx((20, 20, 20))


def test_a_seed_without_a_pixel_to_measure_by_does_not_count(study, tmp_path):
    """As of a network that has one class everywhere."""
    nothing = dict.fromkeys(("seed_deeper", "random_deeper"), None) | {
        "brier": 0.1,
        "brier_of_rate": 0.0,
        "seed_has_label": 1.0,
    }
    for seed, seeds in ((1, 2), (0, 1), (2, 0)):
        path = tmp_path / f"o{seed}/offset_analysis.json"
        analysis = json.loads(path.read_text())
        analysis["offset_analysis"]["table"] = [row | nothing for row in analysis["offset_analysis"]["table"]]
        path.write_text(json.dumps(analysis))
        found = {claim.number: claim for claim in claims(study)}
        assert [found[n].estimate.seeds for n in ("6a", "6b", "7c", "7d", "7e", "5a")] == [seeds] * 5 + [3]
    assert found["6a"].missing == found["7d"].missing == "no pixels to measure it by"


def test_an_unknown_scale_is_refused_with_the_nearest(study):
    with pytest.raises(ValueError, match=r"scale is 'camvid-haf'.*did you mean 'camvid-half'"):
        Study("camvid-haf", study.found)


def test_an_analysis_of_another_split_is_refused(study, tmp_path):
    (tmp_path / "o0/offset_analysis.json").write_text(json.dumps({"split": "train"}))
    with pytest.raises(ValueError, match=r"o0/offset_analysis.json: of the split 'train', the run's is 'val'"):
        study.analyses()


def test_fusion_is_told_from_joint_training(study):
    parts = {part.claim: part.estimate for part in gain_decomposition(study)}
    assert parts["of joint training"].low > 5 and parts["of fusion itself"].low < 0 < parts["of fusion itself"].high


def test_pairs_need_the_same_images(study, tmp_path):
    counts = pd.read_csv(tmp_path / "h0/images.csv.gz")
    counts.replace({"image": {"p3": "another"}}).to_csv(tmp_path / "h0/images.csv.gz", index=False)
    assert study.difference("ovenet", "hrnet").seeds == 2


def test_near_and_far_are_parts_of_all_pixels(study):
    run = study.runs("hrnet")[0]
    every, near, far = (study.tallies(run, pixels=p)[1] for p in ("pixels", "near", "far"))
    assert every.any() and (near + far == every).all()


def test_tallies_of_a_file_are_those_of_its_confusion_matrices(study, tmp_path):
    """Rows in any order, of classes and images that not every image has."""
    rows = pd.read_csv(tmp_path / "o0/images.csv.gz").sample(frac=1, random_state=0)
    rows.to_csv(tmp_path / "o0/images.csv.gz", index=False)
    names, found = study.tallies(study.runs("ovenet")[0], "S_s", "near")
    assert names == sorted(rows["image"].unique())
    for name, mine in zip(names, found, strict=True):
        confusion = np.zeros((1, study.data.num_classes, study.data.num_classes))
        of_it = rows[(rows["image"] == name) & (rows["output"] == "S_s")]
        for label, prediction, near in of_it[["label", "prediction", "near"]].itertuples(index=False):
            confusion[0, label, prediction] += near
        assert (mine == tallied(confusion)[0]).all()


def test_costs_are_those_of_the_networks(study):
    table = costs(study, {(128, 256, "ovenet"): 1.3, (64, 64, "hrnet-wide"): 9.0})
    assert table["training step, of HRNet's"].tolist() == pytest.approx([1, 1.3, np.nan], nan_ok=True)
    assert table["runs"].str.split().map(len).tolist() == [3, 3, 0]
    assert table.loc["HRNet", "parameters, of HRNet's"] == 1
    assert table["hours by the clock"].notna().tolist() == [True, True, False]  # there is no run of the third
    assert table.loc["OVeNet", "parameters, million"] == pytest.approx(1.127286)
    assert 1 < table.loc["OVeNet", "GFLOP, of HRNet's"] < 2


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


# -- What is committed


@pytest.fixture(scope="module")
def report() -> Report:
    return Report()


@pytest.mark.parametrize(("page", "section"), [("README.md", "readme"), ("docs/gpu.md", "gpu")])
def test_pages_have_the_results_that_there_are(page, section, report, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = Path(page).read_text()
    assert BEGIN in text and END in text
    assert with_section(text, getattr(report, section)()) == text, f"{page} is stale: run make results"


def test_costs_on_a_gpu_are_shares_of_what_was_measured(tmp_path):
    row = {"experiment": "cityscapes/ovenet", "batch_size": 12, "crop": [512, 1024], "channels_last": False}
    rows = [
        row | {"precision": "float32", "images_per_second": 10.0, "peak_gib": 30.0},
        row | {"precision": "bfloat16", "channels_last": True, "images_per_second": 25.0, "peak_gib": 15.0},
    ]
    (tmp_path / "switches.json").write_text(json.dumps({"rows": rows[:1]}))
    (tmp_path / "compiled.json").write_text(json.dumps({"rows": [rows[1] | {"compile": True}]}))
    (tmp_path / "compiled-study.json").write_text(json.dumps({"rows": [rows[1] | {"experiment": "camvid/ovenet"}]}))
    too_large = row | {"precision": "bfloat16", "images_per_second": None, "peak_gib": None}
    (tmp_path / "compiled-ocr.json").write_text(json.dumps({"rows": [too_large]}))
    (tmp_path / "benchmarks.json").write_text(json.dumps({"rows": rows[1:]}))
    tables = gpu_tables(tmp_path)
    assert tables["gpu_switches"]["switches"].tolist() == ["float32", "bfloat16, channels_last, compile", "bfloat16"]
    assert tables["gpu_switches"]["of float32's"].tolist() == pytest.approx([1, 2.5, np.nan], nan_ok=True)
    assert tables["gpu_switches"]["of its memory"].tolist() == pytest.approx([1, 0.5, np.nan], nan_ok=True)
    assert tables["gpu_recipe"]["hours"].tolist() == [16.0]  # 2975 images x 484 epochs / 25 a second
    assert gpu_tables(tmp_path / "nothing") == {}


def test_the_committed_tables_are_those_of_the_committed_runs(report, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    made = {path.name: path.read_text() for path in report.write(tmp_path)}
    stored = {path.name: path.read_text() for path in Path("results/tables").iterdir()}
    assert made.keys() == stored.keys(), "run make results"
    stale = [name for name in made if made[name] != stored[name]]
    assert not stale, f"{stale} are not of the runs in results/: run make results"


def test_every_variant_of_the_study_has_words(report):
    assert len({variant_label(name) for name in VARIANTS}) == len(VARIANTS)
