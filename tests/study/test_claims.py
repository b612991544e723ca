"""Claims and parts of a gain: verdicts, numbers, runs and commands, held against hand-computed ones."""

import json

import numpy as np
import pytest

from ovenet_core.study.claims import CLAIMS, GAIN_PARTS, band_width_table, claims, gain_decomposition, verdict
from ovenet_core.study.statistics import Estimate, t_interval


@pytest.mark.parametrize(
    ("estimate", "expected"),
    [
        (Estimate(1, 0.5, 1.5, 3), "confirmed"),
        (Estimate(-1, -1.5, -0.5, 3), "refuted"),
        (Estimate(1, -0.1, 2, 3), "undecided"),
        (Estimate(1, 0.5, 1.5, 2), "undecided"),  # too few seeds
        (Estimate(1, np.nan, np.nan, 3), "undecided"),
        (Estimate(), "not testable here"),
    ],
)
def test_verdicts(estimate, expected):
    assert verdict(estimate) == expected


def test_a_bound_other_than_zero():
    assert verdict(Estimate(60, 55, 65, 3), 50) == "confirmed"
    assert verdict(Estimate(40, 35, 45, 3), 50) == "refuted"
    assert verdict(Estimate(40, 35, 45, 3), 50, below=True) == "confirmed"
    assert verdict(Estimate(60, 55, 65, 3), 50, below=True) == "refuted"
    assert verdict(Estimate(50, 45, 55, 3), 50, below=True) == "undecided"


def test_verdicts_follow_from_the_runs(study):
    found = {claim.id: claim for claim in claims(study)}
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
    table = band_width_table(study).set_index("")
    assert table.loc["4a", "within 4 pixels"] == f"{t_interval([100 * (s - 5) / 130 for s in range(3)])}: refuted"
    assert table.loc["5b", "within 4 pixels"].endswith("refuted")  # (10 x 1 + 30 x 1.6) / 40 = 1.45 of 4 pixels
    assert table.loc["5b", "within 8 pixels"].endswith("confirmed")  # 90 more of 9 pixels
    assert table["within 8 pixels"].tolist()[1:] == table["within 16 pixels"].tolist()[1:]


def test_each_claim_has_a_command_that_adds_a_seed_that_is_not_there(study):
    commands = {claim.id: claim.command for claim in claims(study)}
    assert "'variants=[ovenet,hrnet]' 'seeds=[3]' scores=True" in commands["1"]
    assert "variants=ovenet-tau-1 'seeds=[0]' scores=True" in commands["9b"]  # OVeNet's run of that seed counts
    assert "'variants=[ovenet-ocr,hrnet-ocr]' 'seeds=[0]' scores=True" in commands["2"]
    assert "variants=ovenet 'seeds=[3]'" in commands["5a"]


def test_a_seed_that_counts_and_has_no_scores_of_images_is_not_asked_for_again(study, tmp_path):
    (tmp_path / "h1/images.csv.gz").unlink()
    commands = {claim.id: claim.command for claim in claims(study)}
    assert "'variants=[ovenet,hrnet]' 'seeds=[3]' scores=True" in commands["1"]


def test_each_claim_names_the_runs_that_it_is_made_of(study, tmp_path):
    folders = {claim.id: set(claim.folders) for claim in claims(study)}
    assert folders["1"] == {str(tmp_path / f"{system}{seed}") for system in "ho" for seed in range(3)}
    assert folders["9b"] == set()


def test_what_is_not_there_is_said(study, tmp_path):
    missing = {claim.id: claim.missing for claim in claims(study)}
    assert missing["2"] == missing["9a"] == "not run"
    for seed in range(3):
        (tmp_path / f"o{seed}/images.csv.gz").unlink()
        (tmp_path / f"o{seed}/offset_analysis.json").unlink()
    found = {claim.id: claim for claim in claims(study)}
    assert all((found[n].missing, found[n].estimate.seeds) == ("not scored", 0) for n in ("1", "3", "4a", "5a", "7d"))


def test_offsets_are_counted_where_they_were_analysed_and_scores_where_they_were_scored(study, tmp_path):
    (tmp_path / "o1/images.csv.gz").unlink()
    (tmp_path / "o2/offset_analysis.json").unlink()
    found = {claim.id: claim for claim in claims(study)}
    for number, seeds, folders in (("1", 2, "o0 o2 h0 h2"), ("5a", 2, "o0 o1")):
        assert found[number].estimate.seeds == seeds
        assert set(found[number].folders) == {str(tmp_path / folder) for folder in folders.split()}


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
        found = {claim.id: claim for claim in claims(study)}
        assert [found[n].estimate.seeds for n in ("6a", "6b", "7c", "7d", "7e", "5a")] == [seeds] * 5 + [3]
    assert found["6a"].missing == found["7d"].missing == "no pixels to measure it by"


def test_fusion_is_told_from_joint_training(study):
    parts = {part.id: part.estimate for part in gain_decomposition(study)}
    assert parts["joint_training"].low > 5 and parts["fusion"].low < 0 < parts["fusion"].high


def test_identifiers_are_unique():
    ids = [claim.id for claim in (*CLAIMS, *GAIN_PARTS)]
    assert len(set(ids)) == len(ids)
