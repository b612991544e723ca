"""The claims of the paper put to the test, and what a gain is made of."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ovenet_core.evaluation import NEAR_PIXELS, ratio
from ovenet_core.study.comparison import IMAGE_COUNTS_FILE, OFFSET_ANALYSIS_FILE, Study, readable
from ovenet_core.study.results import Run
from ovenet_core.study.statistics import (
    ClassCounts,
    Estimate,
    accuracy,
    class_iou,
    interval_hull,
    share_of_gains,
    t_interval,
)
from ovenet_core.study.tables import command_for

GAINED = "pixels that become right minus those that become wrong,"
MIN_SEEDS = 3  # seeds of each system for a verdict: of fewer, nothing is known of how they differ
WIDTHS = (4, 8, 16)  # of the band at boundaries, in pixels of the label to each side
SCORES = "evaluation.json"  # of 04_evaluation
NEXT = "command for the next seed"
AS_KNOWN = "mean of F there (of files without it, the middle of what Brier score and bins of F allow)"


@dataclass(frozen=True)
class Claim:
    """A claim of the paper and what the runs say of it.

    Attributes:
        number: of the study's list; a part of a claim has a letter.
        measure: what `estimate` is.
        unit: of the estimate.
        bound: beyond which the whole interval confirms the claim: "> 0".
        variants: whose runs it needs.
        folders: the runs that the estimate is made of.
        command: what would add the next random seed.
        missing: why there is no estimate, if there is none.
    """

    number: str
    claim: str
    source: str
    measure: str
    unit: str
    bound: str
    estimate: Estimate
    verdict: str
    variants: tuple[str, ...]
    folders: tuple[str, ...] = ()
    command: str = ""
    missing: str = "not run"


def verdict_of(estimate: Estimate, bound: float = 0.0, below: bool = False) -> str:
    """Confirmed if the whole interval lies above the bound (or below it), refuted if on its other side.

    Undecided if the interval holds the bound, or is of too few seeds; not testable here without any.
    """
    if estimate.seeds == 0:
        return "not testable here"
    if estimate.seeds < MIN_SEEDS or np.isnan(estimate.low) or estimate.low <= bound <= estimate.high:
        return "undecided"
    return "confirmed" if (estimate.high < bound) == below else "refuted"


def claims(study: Study) -> list[Claim]:
    """The twelve claims, each with its verdict, number, interval and the command that would add to it.

    What the paper says of offsets and confidence at boundaries is asked there as well: most pixels are far from any.
    """
    by_seed = study.analyses()
    near = f"the same within {NEAR_PIXELS} pixels of a boundary (bands of distance weighed by their pixels)"

    def mean(
        number: str,
        claim: str,
        source: str,
        measure: str,
        unit: str,
        value: Callable[[Mapping], float],
        bound: float = 0.0,
        below: bool = False,
    ) -> Claim:
        estimate, seeds = _over_seeds(by_seed, value)
        found = _claim(
            number,
            claim,
            source,
            f"{measure}; t interval over random seeds",
            unit,
            estimate,
            ("ovenet",),
            study,
            seeds,
            bound,
            below,
            OFFSET_ANALYSIS_FILE,
        )
        return found if seeds or not by_seed else replace(found, missing="no pixels to measure it by")

    most, places = study.pairs("ovenet", "hrnet"), _near_and_far(study, "ovenet", "hrnet")
    rates = {p: study.difference("ovenet", "hrnet", pixels=p, score=accuracy) for p in ("near", "far")}
    return [
        _gain("1", "OVeNet beats HRNet", "Tables 1 to 5", study, "ovenet", "hrnet"),
        _gain("2", "OVeNet on OCR beats HRNet + OCR", "Table 1", study, "ovenet-ocr", "hrnet-ocr"),
        _claim(
            "3",
            "OVeNet beats HRNet in most classes",
            "Tables 2 and 3",
            "share of gains among the classes whose IoU differs",
            "%",
            study.over([*most.values()], class_iou, share_of_gains),
            ("ovenet", "hrnet"),
            study,
            most,
            50,
        ),
        _claim(
            "4a",
            "OVeNet's gain lies mainly near boundaries",
            "Sections 1 and 3.2",
            f"{GAINED} within {NEAR_PIXELS} pixels of a boundary minus that further away",
            "% of all pixels",
            study.over([*places.values()], _gained_near),
            ("ovenet", "hrnet"),
            study,
            places,
        ),
        _claim(
            "4b",
            "OVeNet's gain is larger near boundaries",
            "Sections 1 and 3.2",
            f"gain in pixel accuracy within {NEAR_PIXELS} pixels of a boundary ({rates['near']}) minus that further "
            "away "
            f"({rates['far']})",
            "points",
            study.over([*places.values()], _accuracy_near),
            ("ovenet", "hrnet"),
            study,
            places,
        ),
        mean(
            "5a",
            "offsets do not collapse to zero",
            "Section 3.2",
            "median length in cells of the network's grid; a half is that up to which a pixel's own cell weighs most",
            "cells",
            lambda r: r["length_median"] / r["cell"],
            0.5,
        ),
        mean("5b", "offsets reach beyond half a cell near boundaries", "Section 3.2", near, "cells", _near_length, 0.5),
        mean(
            "6a",
            "offsets point away from the boundary, into the segment",
            "Section 3.2",
            "share of the seed pixels that have the pixel's label and lie deeper in it, minus that in random "
            "directions",
            "points",
            lambda r: 100 * (r["seed_deeper"] - r["random_deeper"]),
        ),
        mean("6b", "offsets point into the segment near boundaries", "Section 3.2", near, "points", _near_deeper),
        mean(
            "7a",
            "F is high where the seed pixel has the pixel's class",
            "Section 3.3",
            AS_KNOWN,
            "%",
            lambda r: 100 * np.array(r["f_right"]),
            50,
        ),
        mean(
            "7b",
            "F is low where the seed pixel has another class",
            "Section 3.3",
            f"{AS_KNOWN}; below a half fusion follows the initial prediction",
            "%",
            lambda r: 100 * np.array(r["f_wrong"]),
            50,
            below=True,
        ),
        mean(
            "7c",
            "F tells right seed pixels from wrong ones",
            "Section 3.3",
            "what F explains of the seed pixels' labels: 1 - Brier score / that of their mean rate",
            "%",
            lambda r: 100 * (1 - ratio(r["brier"], r["brier_of_rate"])),
        ),
        mean("7d", "F tells them apart near boundaries", "Section 3.3", near, "%", _near_explained),
        mean(
            "7e",
            "F tells more than how far the boundary is",
            "Section 3.3",
            "mean of F where the seed pixel has another class, as in 7b, minus what it would be there if F were the "
            "same for all pixels of a band of distance",
            "points",
            lambda r: 100 * (np.array(r["f_wrong"]) - r["f_wrong_by_distance"]),
            below=True,
        ),
        _gain("8", "the confidence loss helps", "Section 3.3", study, "ovenet", "ovenet-no-confidence-loss"),
        _gain("9a", "tau 0.5 is better than 0.2", "Table 5", study, "ovenet", "ovenet-tau-0.2"),
        _gain("9b", "tau 0.5 is better than 1", "Table 5", study, "ovenet", "ovenet-tau-1"),
        _gain("10", "OHEM helps", "Table 5", study, "ovenet", "ovenet-ce"),
        _gain("11a", "a branch from stage 4 beats one from stage 3", "Table 5", study, "ovenet", "ovenet-branch-3"),
        _gain("11b", "joint training beats a frozen backbone", "Table 5", study, "ovenet", "ovenet-frozen"),
        _gain("12", "fusing logits beats fusing probabilities", "Section 4.1", study, "ovenet", "ovenet-probabilities"),
    ]


def _near_length(row: Mapping) -> float:
    return row["near_length_median"] / row["cell"]


def _near_deeper(row: Mapping) -> float:
    return 100 * (row["near_seed_deeper"] - row["near_random_deeper"])


def _near_explained(row: Mapping) -> float:
    return 100 * float(1 - ratio(row["near_brier"], row["near_brier_of_rate"]))


def widths(study: Study) -> pd.DataFrame:
    """What the claims about boundaries say of bands of other widths, all with t intervals over random seeds."""
    asked = {
        "5b": ("offsets reach beyond half a cell", "cells", _near_length, 0.5),
        "6b": ("offsets point into the segment", "points", _near_deeper, 0.0),
        "7d": ("F tells right seed pixels from wrong ones", "%", _near_explained, 0.0),
    }
    names = [("4a", "OVeNet's gain lies mainly there", "% of all pixels"), *((n, *a[:2]) for n, a in asked.items())]
    found = pd.DataFrame(names, columns=["", "claim", "unit"])
    systems = ("ovenet", "hrnet")
    scored = set.intersection(*({*study.having(system, SCORES)} for system in systems))
    for width in WIDTHS:
        by_seed = study.analyses(near=width)
        share = next((row["near_share"] for row in by_seed.values()), None)  # of the labels, which are the same for all
        seeds = [seed for seed in study.pairs(*systems) if seed in scored and share is not None]
        gains = [_gained_within(width, share, *(study.runs(system)[seed] for system in systems)) for seed in seeds]
        estimates = [(t_interval(gains), 0.0), *((_over_seeds(by_seed, a[2])[0], a[3]) for a in asked.values())]
        found[f"within {width} pixels"] = [
            f"{estimate}: {verdict_of(estimate, bound)}" for estimate, bound in estimates
        ]
    return found


def _gained_within(width: int, share: float, ours: Run, theirs: Run) -> float:
    """Hits within some pixels of a boundary minus those further away, in % of all pixels: gain of a run over another.

    Args:
        share: of such pixels in all.
    """
    gained = []
    for run in (ours, theirs):
        with readable(run.folder / SCORES, "04_evaluation"):
            found = json.loads((run.folder / SCORES).read_text())["metrics"][run.answer]
            near = share * found["boundaries"]["trimap"][str(width)]["pixel_accuracy"]
            gained.append(100 * (2 * near - found["pixel_accuracy"]))
    return gained[0] - gained[1]


def gain_decomposition(study: Study) -> list[Claim]:
    """What a gain of OVeNet is made of, and the controls that the paper does not have."""
    parts = {
        "of fusion itself": ("S_f minus S_i of the same network", ("ovenet", "ovenet"), ("S_f", "S_i")),
        "of the seed pixels alone": ("S_s minus S_i of the same network", ("ovenet", "ovenet"), ("S_s", "S_i")),
        "of joint training": ("S_i of OVeNet minus HRNet", ("ovenet", "hrnet"), ("S_i", "S_i")),
        "of the loss's weight": ("HRNet with twice the loss minus HRNet", ("hrnet-double-loss", "hrnet"), ("", "")),
        "of parameters alone": ("HRNet as large as OVeNet minus HRNet", ("hrnet-wide", "hrnet"), ("", "")),
        "over twice the loss": ("OVeNet minus HRNet with twice the loss", ("ovenet", "hrnet-double-loss"), ("", "")),
        "over as many parameters": ("OVeNet minus HRNet as large as it", ("ovenet", "hrnet-wide"), ("", "")),
    }
    made = [
        _claim(
            "",
            name,
            "ours",
            f"mIoU: {what}",
            "points",
            study.difference(*variants, outputs),
            variants,
            study,
            study.pairs(*variants, outputs),
        )
        for name, (what, variants, outputs) in parts.items()
    ]
    places = _near_and_far(study, "ovenet", "ovenet", ("S_f", "S_i"))
    of_places = _claim(
        "",
        "of fusion, near boundaries",
        "ours",
        f"{GAINED} by fusion within {NEAR_PIXELS} pixels of a boundary minus that further away",
        "% of all pixels",
        study.over([*places.values()], _gained_near),
        ("ovenet",),
        study,
        places,
    )
    return [*made[:1], of_places, *made[1:]]


def table(found: Sequence[Claim]) -> pd.DataFrame:
    """One row per claim, as printed."""
    rows = [
        {
            "": c.number,
            "claim": c.claim,
            "source": c.source,
            "unit": c.unit,
            "confirmed if": c.bound,
            "verdict": c.verdict,
            "number [interval]": str(c.estimate) if c.estimate.seeds else c.missing,
            "seeds": c.estimate.seeds,
            "measure": c.measure,
            "runs": " ".join(c.folders),
            NEXT: c.command,
        }
        for c in found
    ]
    return pd.DataFrame(rows)


def _over_seeds(by_seed: Mapping[int, Mapping], value: Callable[[Mapping], float]) -> tuple[Estimate, list[int]]:
    """The mean over random seeds of a number, or of its (least, most), of each run's analysis; and of which seeds."""
    ends = {seed: np.broadcast_to(np.asarray(value(row), float), 2).tolist() for seed, row in by_seed.items()}
    ends = {seed: pair for seed, pair in ends.items() if not np.isnan(pair).any()}
    return interval_hull([low for low, _ in ends.values()], [high for _, high in ends.values()]), [*ends]


def _near_and_far(
    study: Study, one: str, other: str, outputs: tuple[str, str] = ("", "")
) -> dict[int, tuple[ClassCounts, ClassCounts]]:
    """By seed, the runs of two variants, the tallies of pixels near boundaries and of those far away side by side."""
    near, far = (study.pairs(one, other, outputs, pixels) for pixels in ("near", "far"))
    return {
        seed: tuple(np.concatenate(parts, axis=2) for parts in zip(near[seed], far[seed], strict=True)) for seed in near
    }


def _gained_near(sums: np.ndarray) -> np.ndarray:
    """Hits near boundaries minus those far away, in % of all pixels."""
    (near, far), pixels = np.split(sums[:, 0], 2, axis=1), sums[:, 1].sum(1)
    return 100 * ratio(near.sum(1) - far.sum(1), pixels)


def _accuracy_near(sums: np.ndarray) -> np.ndarray:
    near, far = np.split(sums, 2, axis=2)
    return accuracy(near) - accuracy(far)


def _gain(number: str, claim: str, source: str, study: Study, one: str, other: str) -> Claim:
    measure = "mIoU gain, paired by random seed; interval over images (bootstrap) and random seeds (Student's t)"
    return _claim(
        number,
        claim,
        source,
        measure,
        "points",
        study.difference(one, other),
        (one, other),
        study,
        study.pairs(one, other),
    )


def _claim(
    number: str,
    claim: str,
    source: str,
    measure: str,
    unit: str,
    estimate: Estimate,
    variants: tuple[str, ...],
    study: Study,
    seeds: Iterable[int],
    bound: float = 0.0,
    below: bool = False,
    file: str = IMAGE_COUNTS_FILE,
) -> Claim:
    """The claim with its verdict, the runs behind it, and the command that would add the next seed of its systems.

    Args:
        seeds: those that the estimate is made of.
        file: what a run has to have for it.
    """
    names, seeds = list(dict.fromkeys(variants)), sorted(seeds)
    every = [study.runs(name) for name in names]
    folders = tuple(str(runs[seed].folder) for runs in every for seed in seeds)
    # A second run of a seed would not count: of a system whose run has no such file, another seed is needed; of one
    # whose run has it, none.
    taken = {seed for name in names for seed in study.runs(name).keys() - study.having(name, file).keys()}
    seed = min(set(range(100)) - {*seeds} - taken)
    wanted = [name for name, runs in zip(names, every, strict=True) if seed not in runs] or names
    command = command_for(f"{study.scale}/{wanted[0]}", seed=seed, beside=",".join(wanted[1:]))
    missing = "not scored" if set.intersection(*({*runs} for runs in every)) else "not run"
    beyond, verdict = f"{'<' if below else '>'} {bound:g}", verdict_of(estimate, bound, below)
    return Claim(number, claim, source, measure, unit, beyond, estimate, verdict, variants, folders, command, missing)
