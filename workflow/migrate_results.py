"""Bring the files in a folder of results to today's names, once; every number stays as it is.

python workflow/migrate_results.py results
"""

import gzip
import hashlib
import json
import re
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save_file

from ovenet_core.training import Experiment

FIELDS = {
    "body": "backbone",
    "offset_branch": "branch_stage",
    "frozen": "freeze_backbone",
    "frozen_norm": "freeze_batchnorm",
    "initial_weights": "pretrained",
    "initial_run": "init_from",
    "widened": "widen_pretrained",
    "scale": "scale_range",
    "picture_size": "image_size",
    "micro_batch": "micro_batch_size",
    "power": "poly_power",
}
KEYS = {
    "pictures": "images",
    "picture": "image",
    "data_set": "dataset",
    "spoilt": "degraded",
    "whole": "max_whole_pixels",
    "pictures_per_second": "images_per_second",
    "seconds_a_picture": "seconds_an_image",
}
TEXTS = [
    (r"\bpicture\b", "image"),
    (r"\bpictures\b", "images"),
    (r"\bspoilt\b", "degraded"),
    (r"perfect F", "oracle confidence"),
    (r"best seed", "oracle seed"),
    (r"\btrunk\b", "backbone"),
    (r"hrnet-loss-2", "hrnet-double-loss"),
    (r"\bscenes(-short|-acdc|-ade20k)?/", r"synthetic\1/"),
]


def renamed(text: str) -> str:
    for old, new in TEXTS:
        text = re.sub(old, new, text)
    return text


def migrated(value, hashes: dict[str, str]):
    if isinstance(value, dict):
        found = {}
        for key, inner in value.items():
            key = KEYS.get(key, renamed(key))
            if key == "experiment" and isinstance(inner, dict):
                fields = {FIELDS.get(name, name): migrated(v, hashes) for name, v in inner.items()}
                found[key] = json.loads(json.dumps(asdict(Experiment.from_json(fields))))
            else:
                found[key] = migrated(inner, hashes)
        if isinstance(found.get("experiment"), dict) and "config_hash" in found:
            found["config_hash"] = Experiment.from_json(found["experiment"]).config_hash
        return found
    if isinstance(value, list):
        return [migrated(inner, hashes) for inner in value]
    if isinstance(value, str):
        for old, new in hashes.items():
            value = value.replace(old, new).replace(old[:12], new[:12])
        return renamed(value)
    return value


def pair_confidences(analysis: dict) -> None:
    """Store the mean of F at right and at wrong seeds as [least, most] in each row of an offset analysis.

    The oldest files have neither, but the Brier score, which is the mean of F² - 2 F s + s (s is 1 where the seed has
    the pixel's label), and bins of F, of all images. These bound the sum of F², and so that of F s: F is spread least
    in a bin where all have its mean, most where all are at its ends.
    """
    for row in analysis["table"]:
        for name in ("f_right", "f_wrong"):
            if isinstance(row.get(name), float):
                row[name] = [row[name]] * 2
        if "f_wrong" in row:
            continue
        row |= {"f_right": None, "f_wrong": None}
        if (row["condition"], row["by"]) == ("all", "all"):
            bins = analysis["reliability"]
            pixels, f, rate = (np.array([b[name] or 0 for b in bins]) for name in ("pixels", "confidence", "rate"))
            low, high = np.arange(len(f)) / len(f), np.arange(1, len(f) + 1) / len(f)
            squares = np.array([pixels @ f**2, pixels @ (f * (low + high) - low * high)])
            count, right = pixels.sum(), pixels @ rate
            of_right = (squares + right - (row["brier"] or 0) * count) / 2
            row["f_right"] = (of_right / right).tolist()
            row["f_wrong"] = ((pixels @ f - of_right) / (count - right)).tolist()[::-1]


def migrate_analyses(root: Path) -> None:
    for file in root.rglob("offset_analysis.json"):
        value = json.loads(file.read_text())
        pair_confidences(value["offset_analysis"])
        file.write_text(json.dumps(value, indent=1, allow_nan=False))


def main(root: Path) -> None:
    hashes = {}
    for file in root.rglob("*.safetensors"):
        state, before = load_file(file), hashlib.sha256(file.read_bytes()).hexdigest()
        if any(name.startswith("trunk.") for name in state):
            save_file({re.sub(r"^trunk\.", "backbone.", name): tensor for name, tensor in state.items()}, file)
            hashes[before] = hashlib.sha256(file.read_bytes()).hexdigest()
    for file in root.rglob("*.json"):
        value = json.loads(file.read_text())
        file.write_text(json.dumps(migrated(value, hashes), indent=1, allow_nan=False))
    migrate_analyses(root)
    for file in root.rglob("offset_analysis.csv"):
        head, _, rest = file.read_text().partition("\n")
        file.write_text(f"{renamed(head)}\n{rest}")
    for file in root.rglob("pictures.csv.gz"):
        head, _, rest = gzip.decompress(file.read_bytes()).decode().partition("\n")
        file.with_name("images.csv.gz").write_bytes(gzip.compress(f"{renamed(head)}\n{rest}".encode(), mtime=0))
        file.unlink()
    for file in root.rglob("*"):
        if file.name == "hrnet-loss-2":
            file.rename(file.with_name("hrnet-double-loss"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
