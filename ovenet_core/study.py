"""The study's own answers: paired differences with intervals, and the claims of the paper put to the test."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from ovenet_core.benchmarks import benchmark
from ovenet_core.collection import Collection, Run
from ovenet_core.evaluation import NEAR
from ovenet_core.experiments import SCALES, Experiment
from ovenet_core.inference import GRID
from ovenet_core.inspection import CAMERA_SIZES
from ovenet_core.metrics import ratio
from ovenet_core.tables import command_for

DRAWS = 2000
LEVEL = 0.95
PICTURES = "pictures.csv.gz"  # what 04_evaluation counted of each picture
FEWEST = 3  # seeds of each system for a verdict: of fewer, nothing is known of how they differ

Matrices = Float[np.ndarray, "pictures label prediction"]
Confusion = Float[np.ndarray, "draws label prediction"]
Score = Callable[[np.ndarray], np.ndarray]


# -- Differences


@dataclass(frozen=True)
class Estimate:
    """A number with its interval, and from how many seeds; NaN where there is none."""

    value: float = np.nan
    low: float = np.nan
    high: float = np.nan
    seeds: int = 0

    def __str__(self) -> str:
        if np.isnan(self.value):
            return "–"
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]" if self.low == self.low else f"{self.value:.2f}"


def class_iou(confusion: Confusion) -> Float[np.ndarray, "draws classes"]:
    """IoU in % of each class of several confusion matrices; NaN for one that does not occur."""
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    return 100 * ratio(hits, confusion.sum(1) + confusion.sum(2) - hits)


def miou(confusion: Confusion) -> Float[np.ndarray, " draws"]:
    """mIoU in %, over the classes that occur."""
    return np.nanmean(class_iou(confusion), axis=1)


def accuracy(confusion: Confusion) -> Float[np.ndarray, " draws"]:
    """Pixel accuracy in %."""
    return 100 * ratio(np.trace(confusion, axis1=1, axis2=2), confusion.sum((1, 2)))


def share_of_gains(gains: Float[np.ndarray, "draws classes"]) -> Float[np.ndarray, " draws"]:
    """The share, in %, of gains among the classes that differ; one that neither network finds says nothing."""
    return 100 * ratio((gains > 0).sum(1), ((gains > 0) | (gains < 0)).sum(1))


def paired_difference(
    pairs: Sequence[tuple[Matrices, Matrices]],
    score: Score = miou,
    summary: Score = np.asarray,
    draws: int = DRAWS,
    seed: int = 0,
) -> Estimate:
    """The mean difference in a score over pairs of runs, with an interval over pictures and seeds.

    In each draw the same pictures are drawn for all runs, and to the mean over pairs an error is added that follows the
    t distribution of the mean of so few seeds (with several scores, the multivariate one): a bootstrap of three seeds
    would give too narrow an interval. With one pair nothing is known of seeds, and the interval is one over pictures.

    Args:
        pairs: for each seed, the confusion matrices of each picture of the one system and of the other.
        score: of sums of confusion matrices.
        summary: of the mean differences, where `score` gives several numbers.
    """
    if not pairs:
        return Estimate()
    random = np.random.default_rng(seed)
    count = len(pairs[0][0])
    weights = random.multinomial(count, np.full(count, 1 / count), draws).astype(float)
    exact, drawn = (np.array([_summed(one, w, score) - _summed(other, w, score) for one, other in pairs])
                    for w in (np.ones((1, count)), weights))
    noisy = drawn.mean(0) + _error_of_mean(exact[:, 0], draws, random)
    low, high = np.quantile(summary(noisy), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(summary(exact.mean(0))[0]), float(low), float(high), len(pairs))


def _error_of_mean(values: np.ndarray, draws: int, random: np.random.Generator) -> np.ndarray:
    """Draws of the error of the mean of a few values (seeds, or seeds x scores), after Student; 0 for one value."""
    count = len(values)
    if count < 2:
        return np.zeros((draws, *values.shape[1:]))
    normal = random.standard_normal((draws, count)) / np.sqrt(count * (count - 1))
    scale = np.sqrt(random.chisquare(count - 1, draws) / (count - 1))
    return (normal / scale[:, None]) @ (values - values.mean(0))


def _summed(matrices: Matrices, weights: Float[np.ndarray, "draws pictures"], score: Score) -> np.ndarray:
    sums = weights @ matrices.reshape(len(matrices), -1)
    return score(sums.reshape(-1, *matrices.shape[1:]))


def over_seeds(values: Sequence[float]) -> Estimate:
    """The mean of one number of each seed, with the t interval of the mean where there are two seeds or more."""
    if len(values) < 2:
        return Estimate(*values, seeds=len(values))
    # Of eleven seeds or more the interval is that of eleven: rather too wide than too narrow.
    t = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
    half = t.get(len(values), 2.228) * np.std(values, ddof=1) / len(values) ** 0.5
    mean = float(np.mean(values))
    return Estimate(mean, float(mean - half), float(mean + half), len(values))


# -- Runs with what was counted of each picture


@dataclass(frozen=True)
class Study:
    """The runs of one scale, with the scores of each picture (`04_evaluation`) and offsets (`08_offset_analysis`)."""

    scale: str
    found: Collection

    @cached_property
    def classes(self) -> int:
        return benchmark(SCALES[self.scale][0].benchmark).num_classes

    def runs(self, variant: str) -> dict[int, Run]:
        """The counted runs of a variant, by seed."""
        return self.found.by_preset.get(f"{self.scale}/{variant}", {})

    def scored(self, variant: str) -> dict[int, Run]:
        """Those of them that `04_evaluation` has scored picture by picture."""
        return {seed: run for seed, run in self.runs(variant).items() if (run.folder / PICTURES).exists()}

    def matrices(self, run: Run, output: str = "", pixels: str = "pixels") -> dict[str, np.ndarray]:
        """By picture, the confusion matrix of an output, by default the answer; of all pixels, `near` or `far`.

        Raises:
            ValueError: they are not those of the run's own scores, but of other weights, another split or other scales.
        """
        output = output or run.answer
        made = _matrices(run.folder, output, pixels, self.classes)
        if made and pixels == "pixels":
            found, own = float(miou(sum(made.values())[None])[0]), run.score("miou", output=output)
            if not abs(found - own) < 0.5:
                raise ValueError(f"{run.folder / PICTURES}: mIoU of {output} {found:.2f}%, in result.json {own:.2f}%; "
                                 "run 04_evaluation of this run again, at one scale, on the split of result.json")
        return made

    def pairs(
        self, one: str, other: str, outputs: tuple[str, str] = ("", ""), pixels: str = "pixels"
    ) -> list[tuple[Matrices, Matrices]]:
        """The runs of two variants that have the same seed, with the pictures that both were scored on."""
        ours, theirs = self.runs(one), self.runs(other)
        made = []
        for seed in sorted(ours.keys() & theirs.keys()):
            both = self.matrices(ours[seed], outputs[0], pixels), self.matrices(theirs[seed], outputs[1], pixels)
            if both[0] and both[0].keys() == both[1].keys():
                made.append(tuple(np.stack([found[name] for name in sorted(found)]) for found in both))
        return made

    def difference(self, one: str, other: str, outputs: tuple[str, str] = ("", ""), pixels: str = "pixels",
                   score: Score = miou) -> Estimate:
        """`paired_difference` of two variants, or of two outputs of one."""
        return paired_difference(self.pairs(one, other, outputs, pixels), score)

    def analyses(self, variant: str = "ovenet") -> list[dict[str, Any]]:
        """What `08_offset_analysis` found of each run of a variant: its row of all pixels, by name.

        Beside it `f_right` and `f_wrong`, the mean of F where the seed has the pixel's label and where it has not, and
        `cell`, the side of a cell of the network's grid in pixels of the label.
        """
        rows = []
        for run in self.runs(variant).values():
            path = run.folder / "offset_analysis.json"
            if path.exists():
                analysis = json.loads(path.read_text())
                if analysis.get("split") != run.result["split"]:
                    raise ValueError(f"{path}: of the split {analysis.get('split')!r}, the run's is "
                                     f"{run.result['split']!r}; run 08_offset_analysis on that split again")
                found = analysis["offset_analysis"]
                row = next(r for r in found["table"] if (r["condition"], r["by"]) == ("all", "all"))
                rows.append(row | _confidence_by_truth(found["reliability"]) | {"cell": _cell(run.experiment)})
        return rows


def _confidence_by_truth(reliability: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The mean of F over the pixels whose seed has their label, and over the others, from bins of F."""
    pixels, f, rate = (np.array([row[name] or 0 for row in reliability]) for name in ("pixels", "confidence", "rate"))
    right, wrong = pixels * rate, pixels * (1 - rate)
    return {"f_right": float(ratio((right * f).sum(), right.sum())),
            "f_wrong": float(ratio((wrong * f).sum(), wrong.sum()))}


def _cell(experiment: Experiment) -> float:
    if experiment.picture_size is None:
        return GRID
    return GRID * CAMERA_SIZES[experiment.benchmark][0] / experiment.picture_size[0]


def _matrices(folder: Path, output: str, pixels: str, classes: int) -> dict[str, np.ndarray]:
    path = folder / PICTURES
    if not path.exists():
        return {}
    counts = _counts(path, path.stat().st_mtime_ns)
    made = {}
    for name, group in counts[counts["output"] == output].groupby("picture"):
        made[name] = np.zeros((classes, classes))
        made[name][group["label"], group["prediction"]] = group[pixels]
    return made


@lru_cache(maxsize=64)
def _counts(path: Path, changed: int) -> pd.DataFrame:
    """The table of a file, read once as long as it is not changed."""
    return pd.read_csv(path).assign(far=lambda counts: counts["pixels"] - counts["near"])


# -- Claims


@dataclass(frozen=True)
class Claim:
    """A claim of the paper and what the runs say of it.

    Attributes:
        number: of the study's list; a part of a claim has a letter.
        measure: what `estimate` is, and what would confirm the claim.
        variants: whose runs it needs.
        folders: the runs that the estimate is made of.
    """

    number: str
    claim: str
    source: str
    measure: str
    estimate: Estimate
    verdict: str
    variants: tuple[str, ...]
    folders: tuple[str, ...] = ()
    command: str = ""


def judge(estimate: Estimate, bound: float = 0.0, below: bool = False) -> str:
    """Confirmed if the whole interval lies above the bound (or below it), refuted if on its other side.

    Undecided if the interval holds the bound, or is of too few seeds.
    """
    if estimate.seeds < FEWEST or np.isnan(estimate.low) or estimate.low <= bound <= estimate.high:
        return "undecided"
    return "confirmed" if (estimate.high < bound) == below else "refuted"


def claims(study: Study) -> list[Claim]:
    """The twelve claims, each with its verdict, number, interval and the command that would add to it."""
    gain = "mIoU gain in points, paired by seed; interval over pictures (bootstrap) and seeds (Student's t)"
    places = {p: study.difference("ovenet", "hrnet", pixels=p, score=accuracy) for p in ("near", "far")}
    by_seed = study.analyses()

    def mean(value: Callable[[Mapping], float]) -> Estimate:
        return over_seeds([value(row) for row in by_seed])

    return [
        _gain("1", "OVeNet beats HRNet", "Tables 1 to 5", gain, study, "ovenet", "hrnet"),
        _gain("2", "OVeNet on OCR beats HRNet + OCR", "Table 1", gain, study, "ovenet-ocr", "hrnet-ocr"),
        _claim("3", "in most classes", "Tables 2 and 3", "share of gains among the classes that differ, in %; above 50",
               paired_difference(study.pairs("ovenet", "hrnet"), class_iou, share_of_gains), ("ovenet", "hrnet"), study,
               bound=50),
        _claim("4", "mainly near boundaries", "Sections 1 and 4",
               f"gain in pixel accuracy within {NEAR} pixels of a boundary ({places['near']}) minus that further away "
               f"({places['far']}), in points",
               _boundary_excess(study), ("ovenet", "hrnet"), study),
        _claim("5", "offsets do not collapse to zero", "Section 3.2",
               "median length in cells of the network's grid; above a half, up to which a pixel's own cell weighs "
               "most; t interval over seeds",
               mean(lambda r: r["length_median"] / r["cell"]), ("ovenet",), study, bound=0.5),
        _claim("6", "offsets point away from the boundary, into the segment", "Section 1",
               "share of the seeds that have the pixel's label and lie deeper in it, minus that in random directions, "
               "in points; t interval over seeds",
               mean(lambda r: 100 * (r["seed_deeper"] - r["random_deeper"])), ("ovenet",), study),
        _claim("7a", "F is high where the seed has the pixel's class", "Section 3.3",
               "mean of F there, in %; above 50; t interval over seeds",
               mean(lambda r: 100 * r["f_right"]), ("ovenet",), study, bound=50),
        _claim("7b", "F is low where the seed has another class", "Section 3.3",
               "mean of F there, in %; below 50, where fusion follows the initial prediction; t interval over seeds",
               mean(lambda r: 100 * r["f_wrong"]), ("ovenet",), study, bound=50, below=True),
        _claim("7c", "F tells the one from the other", "Section 3.3",
               "what F explains of the seeds' labels: 1 - Brier score / that of their mean rate, in %; t interval over "
               "seeds",
               mean(lambda r: 100 * (1 - r["brier"] / r["brier_of_rate"])), ("ovenet",), study),
        _gain("8", "the confidence loss helps", "Section 3.3", gain, study, "ovenet", "ovenet-no-confidence-loss"),
        _gain("9a", "tau 0.5 is better than 0.2", "Table 5", gain, study, "ovenet", "ovenet-tau-0.2"),
        _gain("9b", "tau 0.5 is better than 1", "Table 5", gain, study, "ovenet", "ovenet-tau-1"),
        _gain("10", "OHEM helps", "Table 5", gain, study, "ovenet", "ovenet-ce"),
        _gain("11a", "a branch from stage 4 beats one from stage 3", "Table 5", gain, study, "ovenet",
              "ovenet-branch-3"),
        _gain("11b", "joint training beats a frozen body", "Table 5", gain, study, "ovenet", "ovenet-frozen"),
        _gain("12", "fusing logits beats fusing probabilities", "Section 4.1", gain, study, "ovenet",
              "ovenet-probabilities"),
    ]


def causes(study: Study) -> list[Claim]:
    """What a gain of OVeNet is made of, and the controls that the paper does not have."""
    parts = {
        "of fusion itself": ("S_f minus S_i of the same network", ("ovenet", "ovenet"), ("S_f", "S_i")),
        "of the seeds alone": ("S_s minus S_i of the same network", ("ovenet", "ovenet"), ("S_s", "S_i")),
        "of joint training": ("S_i of OVeNet minus HRNet", ("ovenet", "hrnet"), ("S_i", "S_i")),
        "of the loss's weight": ("HRNet with twice the loss minus HRNet", ("hrnet-loss-2", "hrnet"), ("", "")),
        "of parameters alone": ("HRNet as large as OVeNet minus HRNet", ("hrnet-wide", "hrnet"), ("", "")),
        "over twice the loss": ("OVeNet minus HRNet with twice the loss", ("ovenet", "hrnet-loss-2"), ("", "")),
        "over as many parameters": ("OVeNet minus HRNet as large as it", ("ovenet", "hrnet-wide"), ("", "")),
    }
    return [_claim("", name, "ours", f"mIoU in points: {what}", study.difference(*variants, outputs), variants, study)
            for name, (what, variants, outputs) in parts.items()]


def table(found: Sequence[Claim]) -> pd.DataFrame:
    """One row per claim, as printed."""
    rows = [{"": c.number, "claim": c.claim, "source": c.source, "verdict": c.verdict,
             "number [interval]": str(c.estimate) if c.estimate.seeds else "not run", "seeds": c.estimate.seeds,
             "measure": c.measure, "runs": " ".join(c.folders), "command": c.command} for c in found]
    return pd.DataFrame(rows)


def _boundary_excess(study: Study) -> Estimate:
    """Gain near boundaries minus gain far from them: both matrices of a run, one beside the other."""
    def stacked(pixels: str) -> list[tuple[Matrices, Matrices]]:
        return study.pairs("ovenet", "hrnet", pixels=pixels)

    def excess(confusion: np.ndarray) -> np.ndarray:
        near, far = np.split(confusion, 2, axis=1)
        return accuracy(near) - accuracy(far)

    pairs = [tuple(np.concatenate(parts, axis=1) for parts in zip(near, far, strict=True))
             for near, far in zip(stacked("near"), stacked("far"), strict=True)]
    return paired_difference(pairs, excess)


def _gain(number: str, claim: str, source: str, measure: str, study: Study, one: str, other: str) -> Claim:
    return _claim(number, claim, source, measure, study.difference(one, other), (one, other), study)


def _claim(number: str, claim: str, source: str, measure: str, estimate: Estimate, variants: tuple[str, ...],
           study: Study, bound: float = 0.0, below: bool = False) -> Claim:
    """The claim with its verdict, the runs behind it, and the command that would add the next seed of its systems."""
    names = list(dict.fromkeys(variants))
    scored = [study.scored(name) for name in names]
    seeds = sorted(set.intersection(*(set(runs) for runs in scored))) if estimate.seeds else []
    folders = tuple(str(runs[seed].folder) for runs in scored for seed in seeds)
    # A second run of a seed would not count: of a system that was not scored, another seed is needed.
    taken = {seed for name, runs in zip(names, scored, strict=True) for seed in study.runs(name).keys() - runs.keys()}
    seed = min(set(range(100)) - set(seeds) - taken)
    command = command_for(f"{study.scale}/{names[0]}", seed=seed, beside=",".join(names[1:]))
    return Claim(number, claim, source, measure, estimate, judge(estimate, bound, below), variants, folders, command)
