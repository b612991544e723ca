"""The claims of the paper put to the test, and the parts of a gain."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ovenet_core.evaluation import NEAR_PIXELS, ratio
from ovenet_core.study.comparison import EVALUATION_FILE, FINAL, Study, readable
from ovenet_core.study.results import IMAGE_COUNTS_FILE, OFFSET_ANALYSIS_FILE, Run
from ovenet_core.study.statistics import Estimate, accuracy, interval_hull, iou_percent, miou, share_of_gains
from ovenet_core.study.tables import NEXT_SEED_COMMAND, command_for

MIN_SEEDS = 3  # of each system for a verdict: fewer say too little of how much seeds differ
BAND_WIDTHS = (4, 8, 16)  # of the band at boundaries, in pixels of the label to each side
INTERVAL = "number [interval]"  # a column
OUTPUT_PIXELS = "output pixels"  # a unit: pixels of the network's output, at 1/4 of its input's resolution


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, or a part of a gain; with the fields from `unit` on, what the runs say of it."""

    id: str  # of a claim, its number in the study's list ("4a" is a part of the fourth); of a part, a word
    statement: str  # what is claimed; of a part, what the gain is due to
    source: str
    measured: str  # a key of `MEASURES`
    ours: str = "ovenet"  # the variant that is compared …
    theirs: str = "hrnet"  # … with this one
    outputs: tuple[str, str] = FINAL  # of theirs, which are compared; "" is the final one
    bound: float = 0.0  # confirmed if the whole interval lies above it, or with `below`, below it
    below: bool = False
    kind: str = "claim"  # or "gain_part"
    comparison: str = ""  # of a part, what is subtracted from what
    unit: str = ""
    metric: str = ""  # the score whose difference `estimate` is: "miou", "accuracy" …; or "offsets"
    measure: str = ""  # what `estimate` is, in words
    estimate: Estimate = field(default_factory=Estimate)
    folders: tuple[str, ...] = ()  # the runs that the estimate is made of
    command: str = ""  # what would add the next random seed
    missing: str = "not run"  # why there is no estimate, if there is none

    @property
    def verdict(self) -> str:
        return verdict(self.estimate, self.bound, self.below)

    @property
    def interval(self) -> str:
        """The number with its interval as printed, or why there is none."""
        return str(self.estimate) if self.estimate.seeds else self.missing


def verdict(estimate: Estimate, bound: float = 0.0, below: bool = False) -> str:
    """Judge a claim: confirmed if the whole interval lies above the bound (or below it), refuted on its other side.

    It is undecided if the interval holds the bound or has too few seeds, and not testable here without any seed.
    """
    if estimate.seeds == 0:
        return "not testable here"
    if estimate.seeds < MIN_SEEDS or np.isnan(estimate.low) or estimate.low <= bound <= estimate.high:
        return "undecided"
    return "confirmed" if (estimate.high < bound) == below else "refuted"


class _Measure(NamedTuple):
    """A number that tests a claim: of offsets, averaged over seeds, or the difference of two variants in a score."""

    unit: str
    words: str
    score: Callable  # of a row of `Study.analyses`, a number or its (least, most); or a `Score` of class counts
    metric: str = "offsets"
    summary: Callable = np.asarray
    pixels: str = "pixels"


def _hits_near_minus_far(sums: np.ndarray) -> np.ndarray:
    """Subtract the hits far from boundaries from those near them, in % of all pixels."""
    (near, far), pixels = np.split(sums[:, 0], 2, axis=1), sums[:, 1].sum(1)
    return 100 * ratio(near.sum(1) - far.sum(1), pixels)


def _accuracy_near_minus_far(sums: np.ndarray) -> np.ndarray:
    near, far = np.split(sums, 2, axis=2)
    return accuracy(near) - accuracy(far)


_AT = f"within {NEAR_PIXELS} pixels of a boundary"
_GAIN = "mIoU gain, paired by random seed; interval over images (bootstrap) and random seeds (Student's t)"
_HITS = f"pixels that become right minus those that become wrong, {_AT} minus that further away"
_ACCURACY = f"gain in pixel accuracy {_AT} ({{near}}) minus that further away ({{far}})"
_NEAR = f"the same {_AT} (bands of distance weighted by their pixels)"
_LENGTH = "median length; up to a half, the output pixel that an offset starts from weighs most"
_DEEPER = "share of the seed pixels that have the pixel's label and lie deeper in it, minus that in random directions"
_F = "mean of F there; the middle, where a run notes only its least and most"
_FOLLOWS = f"{_F}; below a half fusion follows the initial prediction"
_EXPLAINED = "what F explains of the seed pixels' labels: 1 - Brier score / Brier score of their mean rate"
_BEYOND = (
    "mean of F where the seed pixel has another class, as in 7b, minus what it would be there if F were the same for "
    "all pixels of a band of distance"
)
MEASURES = {
    "gain": _Measure("points", _GAIN, miou, "miou"),
    "part": _Measure("points", "mIoU: {comparison}", miou, "miou"),
    "classes": _Measure("%", "share of gains among the classes whose IoU differs", iou_percent, "iou", share_of_gains),
    "hits": _Measure("% of all pixels", _HITS, _hits_near_minus_far, "hits", pixels="near, far"),
    "accuracy": _Measure("points", _ACCURACY, _accuracy_near_minus_far, "accuracy", pixels="near, far"),
    "length": _Measure(OUTPUT_PIXELS, _LENGTH, lambda r: r["length_median"] / r["output_pixel"]),
    "near_length": _Measure(OUTPUT_PIXELS, _NEAR, lambda r: r["near_length_median"] / r["output_pixel"]),
    "deeper": _Measure("points", _DEEPER, lambda r: 100 * (r["seed_deeper"] - r["random_deeper"])),
    "near_deeper": _Measure("points", _NEAR, lambda r: 100 * (r["near_seed_deeper"] - r["near_random_deeper"])),
    "f_right": _Measure("%", _F, lambda r: 100 * np.array(r["f_right"])),
    "f_wrong": _Measure("%", _FOLLOWS, lambda r: 100 * np.array(r["f_wrong"])),
    "explained": _Measure("%", _EXPLAINED, lambda r: 100 * (1 - ratio(r["brier"], r["brier_of_rate"]))),
    "near_explained": _Measure("%", _NEAR, lambda r: 100 * (1 - ratio(r["near_brier"], r["near_brier_of_rate"]))),
    "beyond": _Measure("points", _BEYOND, lambda r: 100 * (np.array(r["f_wrong"]) - r["f_wrong_by_distance"])),
}


def _part(id_: str, due_to: str, ours: str, theirs: str, comparison: str, outputs=FINAL, measured="part") -> Claim:
    return Claim(id_, due_to, "ours", measured, ours, theirs, outputs, kind="gain_part", comparison=comparison)


CLAIMS = (
    Claim("1", "OVeNet beats HRNet", "Tables 1 to 5", "gain"),
    Claim("2", "OVeNet on OCR beats HRNet + OCR", "Table 1", "gain", "ovenet-ocr", "hrnet-ocr"),
    Claim("3", "OVeNet beats HRNet in most classes", "Tables 2 and 3", "classes", bound=50),
    Claim("4a", "OVeNet's gain lies mainly near boundaries", "Sections 1 and 3.2", "hits"),
    Claim("4b", "OVeNet's gain is larger near boundaries", "Sections 1 and 3.2", "accuracy"),
    Claim("5a", "offsets do not collapse to zero", "Section 3.2", "length", bound=0.5),
    Claim("5b", "offsets reach beyond half an output pixel near boundaries", "Section 3.2", "near_length", bound=0.5),
    Claim("6a", "offsets point away from the boundary, into the segment", "Section 3.2", "deeper"),
    Claim("6b", "offsets point into the segment near boundaries", "Section 3.2", "near_deeper"),
    Claim("7a", "F is high where the seed pixel has the pixel's class", "Section 3.3", "f_right", bound=50),
    Claim("7b", "F is low where the seed pixel has another class", "Section 3.3", "f_wrong", bound=50, below=True),
    Claim("7c", "F tells right seed pixels from wrong ones", "Section 3.3", "explained"),
    Claim("7d", "F tells them apart near boundaries", "Section 3.3", "near_explained"),
    Claim("7e", "F tells more than how far the boundary is", "Section 3.3", "beyond", below=True),
    Claim("8", "the confidence loss helps", "Section 3.3", "gain", theirs="ovenet-no-confidence-loss"),
    Claim("9a", "tau 0.5 is better than 0.2", "Table 5", "gain", theirs="ovenet-tau-0.2"),
    Claim("9b", "tau 0.5 is better than 1", "Table 5", "gain", theirs="ovenet-tau-1"),
    Claim("10", "OHEM helps", "Table 5", "gain", theirs="ovenet-ce"),
    Claim("11a", "a branch from stage 4 beats one from stage 3", "Table 5", "gain", theirs="ovenet-branch-3"),
    Claim("11b", "joint training beats a frozen backbone", "Table 5", "gain", theirs="ovenet-frozen"),
    Claim("12", "fusing logits beats fusing probabilities", "Section 4.1", "gain", theirs="ovenet-probabilities"),
)
_OWN, _SAME = ("S_f", "S_i"), "of the same network"
GAIN_PARTS = (
    _part("fusion", "of fusion itself", "ovenet", "ovenet", f"S_f minus S_i {_SAME}", _OWN),
    _part("fusion_near", "of fusion, near boundaries", "ovenet", "ovenet", f"S_f minus S_i {_SAME}", _OWN, "hits"),
    _part("seeds", "of the seed pixels alone", "ovenet", "ovenet", f"S_s minus S_i {_SAME}", ("S_s", "S_i")),
    _part("joint_training", "of joint training", "ovenet", "hrnet", "S_i of OVeNet minus HRNet", ("S_i", "S_i")),
    _part("loss", "of the loss's weight", "hrnet-double-loss", "hrnet", "HRNet with twice the loss minus HRNet"),
    _part("size", "of parameters alone", "hrnet-wide", "hrnet", "HRNet as large as OVeNet minus HRNet"),
    _part("over_loss", "over twice the loss", "ovenet", "hrnet-double-loss", "OVeNet minus HRNet with twice the loss"),
    _part("over_size", "over as many parameters", "ovenet", "hrnet-wide", "OVeNet minus HRNet as large as it"),
)


def claims(study: Study) -> list[Claim]:
    """Test the twelve claims: each gets its number, interval, verdict and the command that would add to it."""
    analyses = study.analyses()
    return [_test(claim, study, analyses) for claim in CLAIMS]


def gain_decomposition(study: Study) -> list[Claim]:
    """Measure the parts of a gain of OVeNet, and the controls that the paper does not have."""
    return [_test(part, study, {}) for part in GAIN_PARTS]


def _test(claim: Claim, study: Study, analyses: Mapping[int, Mapping]) -> Claim:
    measure, words, missing = MEASURES[claim.measured], {"comparison": claim.comparison}, {}
    if measure.metric == "offsets":
        variants, file = [claim.ours], OFFSET_ANALYSIS_FILE
        estimate, seeds = _mean_over_seeds(analyses, measure.score)
        missing = {"missing": "no pixels to measure it by"} if analyses and not seeds else {}
    else:
        variants, file = [claim.ours, claim.theirs], IMAGE_COUNTS_FILE
        seeds = study.pairs(*variants, claim.outputs, measure.pixels)
        estimate = study.estimate(seeds, measure.score, measure.summary)
        if measure.metric == "accuracy":
            words |= {p: study.estimate(study.pairs(*variants, pixels=p), accuracy) for p in ("near", "far")}
    measured = {"unit": measure.unit, "metric": measure.metric, "measure": measure.words.format_map(words)}
    return replace(claim, estimate=estimate, **measured, **_provenance(study, variants, seeds, file) | missing)


def _mean_over_seeds(by_seed: Mapping[int, Any], value: Callable) -> tuple[Estimate, list[int]]:
    """Average a number, or its (least, most), over the seeds that have it; return the estimate and these seeds."""
    bounds = {seed: np.broadcast_to(np.asarray(value(row), float), 2).tolist() for seed, row in by_seed.items()}
    bounds = {seed: pair for seed, pair in bounds.items() if not np.isnan(pair).any()}
    return interval_hull([low for low, _ in bounds.values()], [high for _, high in bounds.values()]), [*bounds]


def _provenance(study: Study, variants: Iterable[str], seeds: Iterable[int], file: str) -> dict[str, Any]:
    """Return the folders behind an estimate, the command that would add a seed, and why there may be no estimate."""
    runs, seeds = {name: study.runs(name) for name in variants}, sorted(seeds)
    folders = tuple(str(by_seed[seed].folder) for by_seed in runs.values() for seed in seeds)
    # A second run of a seed would not count: a system whose run lacks the file needs another seed.
    taken = {seed for name in runs for seed in runs[name].keys() - study.runs(name, file).keys()}
    seed = min(set(range(100)) - {*seeds} - taken)
    wanted = [name for name in runs if seed not in runs[name]] or [*runs]
    command = command_for(f"{study.protocol}/{wanted[0]}", seed=seed, beside=",".join(wanted[1:]))
    missing = "not scored" if set.intersection(*map(set, runs.values())) else "not run"
    return {"folders": folders, "command": command, "missing": missing}


def tested_table(tested: Sequence[Claim], kind: str = "claim") -> pd.DataFrame:
    """Make a table with one row for each claim, or for each part of a gain (`kind` "gain_part")."""
    rows = [
        {"": c.id, "claim": c.statement, "source": c.source, "unit": c.unit}
        | {"confirmed if": f"{'<' if c.below else '>'} {c.bound:g}", "verdict": c.verdict, INTERVAL: c.interval}
        | {"seeds": c.estimate.seeds, "measure": c.measure, "runs": " ".join(c.folders), NEXT_SEED_COMMAND: c.command}
        for c in tested
        if c.kind == kind
    ]
    dropped = [] if kind == "claim" else ["", "source", "confirmed if", "verdict"]
    return pd.DataFrame(rows).drop(columns=dropped).rename(columns={"claim": kind.removeprefix("gain_")})


def band_width_table(study: Study) -> pd.DataFrame:
    """Make a table of what the claims about boundaries say at other widths, with t intervals over random seeds."""
    asked = [claim for claim in CLAIMS if claim.id in ("4a", "5b", "6b", "7d")]
    rows = [(c.id, c.statement, MEASURES[c.measured].unit) for c in asked]
    table = pd.DataFrame(rows, columns=["", "claim", "unit"])
    ours, theirs = (study.runs(system, EVALUATION_FILE) for system in ("ovenet", "hrnet"))
    seeds = [seed for seed in study.pairs("ovenet", "hrnet") if seed in ours and seed in theirs]
    for width in BAND_WIDTHS:
        analyses = study.analyses(near=width)
        shares = [row["near_share"] for row in analyses.values()][:1]  # of the labels, so the same for all runs
        hits = {s: [_hits_within(width, share, run[s]) for run in (ours, theirs)] for s in seeds for share in shares}
        estimates = [_mean_over_seeds(hits, lambda pair: pair[0] - pair[1])[0]]
        estimates += [_mean_over_seeds(analyses, MEASURES[c.measured].score)[0] for c in asked[1:]]
        judged = [f"{e}: {verdict(e, claim.bound)}" for claim, e in zip(asked, estimates, strict=True)]
        table[f"within {width} pixels"] = judged
    return table


def _hits_within(width: int, share: float, run: Run) -> float:
    """Return a run's hits in a band (a `share` of all pixels) minus those outside it, in % of all pixels."""
    with readable(run.folder / EVALUATION_FILE, "04_evaluation"):
        scores = json.loads((run.folder / EVALUATION_FILE).read_text())["metrics"][run.final_output]
        near = share * scores["boundaries"]["trimap"][str(width)]["pixel_accuracy"]
        return 100 * (2 * near - scores["pixel_accuracy"])
