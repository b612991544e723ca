"""Inference: normalisation, predictions at the size of the label, scores over samples."""

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from ovenet_core.benchmarks import CITYSCAPES
from ovenet_core.inference import DEVIATION, MEAN, classes, evaluate, normalise, predict
from ovenet_core.ovenet import Logits, Prediction, build
from ovenet_core.scenes import write_scenes


class Oracle(nn.Module):
    """Predicts the class that the red channel of the normalised picture stands for."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, image):
        red = (image[:, 0] * DEVIATION[0] + MEAN[0]) * 255
        number = torch.arange(19).view(1, 19, 1, 1)
        return Prediction(Logits(-((red[:, None] - number) ** 2) * self.scale))


def test_normalise_gives_zero_for_the_mean_and_one_for_a_deviation_above():
    colours = torch.tensor([MEAN, [m + d for m, d in zip(MEAN, DEVIATION, strict=True)]]) * 255
    image = colours.round().to(torch.uint8).view(2, 3, 1, 1)
    expected = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    assert torch.allclose(normalise(image), expected, atol=0.01)


def test_normalise_keeps_red_first():
    image = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    image[:, 0] = 255
    assert normalise(image)[0, :, 0, 0].tolist() == pytest.approx(
        [(v - m) / d for v, m, d in zip((1, 0, 0), MEAN, DEVIATION, strict=True)], rel=1e-5
    )


def test_channels_last_changes_the_layout_and_not_the_values():
    image = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    assert normalise(image, True).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(normalise(image, True), normalise(image))


@pytest.mark.parametrize("size", [(64, 96), (61, 95), (128, 200)])
def test_classes_come_at_the_size_that_is_asked_for(size):
    network = build(width=8, blocks=1).eval()
    prediction = predict(network, np.zeros((64, 96, 3), np.uint8))
    found = classes(prediction, size)
    assert list(found) == ["S_i", "S_s", "S_f"]
    assert {ids.shape for ids in found.values()} == {torch.Size(size)}


def test_the_picture_is_resized_before_the_network_sees_it():
    prediction = predict(Oracle(), np.zeros((64, 96, 3), np.uint8), picture_size=(32, 48))
    assert prediction.initial.main.shape[-2:] == (32, 48)


def test_a_perfect_prediction_scores_one_and_the_mode_is_kept(tmp_path):
    root = write_scenes(tmp_path, split_sizes={"val": 2}, size=(64, 128), progress=False)
    samples = CITYSCAPES.samples(root, "val")
    for sample in samples:  # paint each picture with its own train ids
        label = CITYSCAPES.read_label(sample)
        cv2.imwrite(str(sample.image), np.where(label == 255, 0, label)[..., None].repeat(3, 2))
    network = Oracle().train()
    scores = evaluate(network, CITYSCAPES, samples, progress=False)
    assert scores["S_i"].miou == 1
    assert network.training
