"""Parity of `averaging="reference"` with the authors' multi-scale inference: every image of the golden data."""

import json
import re

import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from ovenet_core.evaluation.inference import InferenceConfig, predict_classes, predict_scores
from ovenet_core.layers import upsample
from ovenet_core.ovenet import Logits, Prediction, build
from ovenet_core.weights import load_official

SETTINGS = {  # scales and flip
    "one": ((1.0,), False),
    "one_flip": ((1.0,), True),
    "small_flip": ((0.75,), True),
    "large_flip": ((1.5,), True),
    "six_flip": ((0.5, 0.75, 1.0, 1.25, 1.5, 1.75), True),
}


@pytest.fixture(scope="module")
def golden(shared):
    """The arrays of inference, the window that they were made with, and the network."""
    file = shared / "golden_protocol" / "inference_and_augmentation.safetensors"
    if not file.is_file():
        pytest.skip(f"needs {file}")
    with safe_open(file, "pt") as tensors:
        config = json.loads(tensors.metadata()["config"])
        arrays = {name: tensor for name, tensor in load_file(file).items() if name.startswith("inference")}
    weights = f"{config['weights']}.safetensors"
    with safe_open(shared / "golden" / weights, "pt") as tensors:
        blocks = json.loads(tensors.metadata()["config"])["num_blocks"]
    network = build(7, width=8, blocks=blocks, seed_align_corners=False)  # as the authors' code on torch of today
    state = load_file(shared / "golden" / weights).items()
    load_official(network, {n.removeprefix("state/"): t for n, t in state if n.startswith("state/")}, weights)
    return arrays, tuple(config["test_size"]), network


def test_every_array_is_of_a_known_setting(golden):
    names = {re.fullmatch(r"inference\d+/(\w+)", name)[1] for name in golden[0]}
    assert names == {"image_rgb", *SETTINGS}


@pytest.mark.parametrize("setting", SETTINGS)
def test_scores_and_classes_are_the_authors(golden, setting):
    arrays, window, network = golden
    scales, flip = SETTINGS[setting]
    inference = InferenceConfig(scales, flip, window, averaging="reference")
    images = sorted(name.partition("/")[0] for name in arrays if name.endswith("/image_rgb"))
    assert images
    for name in images:
        image, expected = arrays[f"{name}/image_rgb"].numpy(), arrays[f"{name}/{setting}"]
        scores = predict_scores(network, image, inference, outputs=["S_f"])["S_f"]
        assert (scores - expected).abs().max() <= 1e-4 * expected.abs().max(), name
        found = predict_classes(network, image, inference)["S_f"]
        assert (found == expected.argmax(0)).float().mean() >= 0.999, name


class Wide(nn.Module):
    """Scores that depend on all that the network sees, so that it matters how an image is cut into windows."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.mix = nn.Conv2d(3, 5, 9, padding=4)
        self.seen = []

    def forward(self, image, min_side=32):
        assert min(image.shape[2:]) >= min_side
        self.seen.append(tuple(image.shape[2:]))
        x = nn.functional.avg_pool2d(image, 4, ceil_mode=True)
        return Prediction(Logits(self.mix(x) + 0.1 * x.mean()))


@pytest.mark.parametrize("size", [(50, 120), (131, 77), (64, 300)])
def test_windows_by_hand(size):
    """At scale 1.3, pixel by pixel: each mean is over the windows that have the pixel."""
    network, window = Wide(), (64, 100)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    found = predict_scores(network, image, InferenceConfig((1.3,), True, window, averaging="reference"))["S_i"]

    longer = int(max(size) * 1.3 + 0.5)
    height, width = (longer if side == max(size) else int(side * longer / max(size) + 0.5) for side in size)
    scaled = cv2.resize(image.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    total, count = np.zeros((5, height, width)), np.zeros((height, width))
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    for row in range(int(np.ceil(max(height - window[0], 0) / window[0])) + 1):
        for column in range(int(np.ceil(max(width - window[1], 0) / window[1])) + 1):
            bottom, right = min((row + 1) * window[0], height), min((column + 1) * window[1], width)
            place = np.s_[max(bottom - window[0], 0) : bottom, max(right - window[1], 0) : right]
            shown = torch.from_numpy(((scaled[place] / 255 - mean) / deviation).transpose(2, 0, 1)[None]).float()
            with torch.no_grad():
                plain, mirrored = (
                    upsample(network(x).initial.main, x.shape[2:], False) for x in (shown, shown.flip(3))
                )
            total[:, *place] += ((plain + mirrored.flip(3)) / 2).exp()[0].numpy()
            count[place] += 1
    expected = upsample(torch.from_numpy(total / count)[None], size, False)[0]
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)


def test_up_to_scale_one_the_image_is_seen_whole_however_large_it_is():
    network, image = Wide(), np.zeros((96, 128, 3), np.uint8)
    inference = InferenceConfig((0.25, 1.0), window=(64, 64), averaging="reference", max_whole_pixels=0)
    predict_classes(network, image, inference)
    assert network.seen == [(24, 32), (96, 128)]
