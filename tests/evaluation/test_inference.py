"""Inference: normalisation, classes at the image's size over scales, flips and windows."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from ovenet_core.evaluation import inference as evaluation_inference
from ovenet_core.evaluation.inference import (
    SIX_SCALES,
    InferenceConfig,
    classes,
    predict,
    predict_classes,
    predict_scores,
)
from ovenet_core.layers import IMAGENET_MEAN, IMAGENET_STD, normalise
from ovenet_core.ovenet import Logits, Prediction, build
from ovenet_core.utils import ConfigError


class Oracle(nn.Module):
    """Predicts the class that the red channel of the normalised image stands for."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, image):
        red = (image[:, 0] * IMAGENET_STD[0] + IMAGENET_MEAN[0]) * 255
        number = torch.arange(19).view(1, 19, 1, 1)
        return Prediction(Logits(-((red[:, None] - number) ** 2) * self.scale))


def test_normalise_gives_zero_for_the_mean_and_one_for_a_deviation_above():
    colours = torch.tensor([IMAGENET_MEAN, [m + d for m, d in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]]) * 255
    image = colours.round().to(torch.uint8).view(2, 3, 1, 1)
    expected = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    assert torch.allclose(normalise(image), expected, atol=0.01)


def test_normalise_keeps_red_first():
    image = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    image[:, 0] = 255
    assert normalise(image)[0, :, 0, 0].tolist() == pytest.approx(
        [(v - m) / d for v, m, d in zip((1, 0, 0), IMAGENET_MEAN, IMAGENET_STD, strict=True)], rel=1e-5
    )


@pytest.mark.parametrize("channels_last", [True, False])
def test_activations_have_the_memory_format_of_the_weights_whatever_the_image_has(channels_last):
    network, seen = build(width=8, blocks=1).eval(), []
    network = network.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
            layer.register_forward_hook(lambda layer, inputs, output: seen.append(output))
    predict(network, image(64, 96))
    assert {activation.is_contiguous(memory_format=torch.channels_last) for activation in seen} == {channels_last}


@pytest.mark.parametrize("size", [(64, 96), (61, 95), (128, 200)])
def test_classes_come_at_the_size_that_is_asked_for(size):
    network = build(width=8, blocks=1).eval()
    prediction = predict(network, np.zeros((64, 96, 3), np.uint8))
    maps = classes(prediction, size)
    assert list(maps) == ["S_i", "S_s", "S_f"]
    assert {ids.shape for ids in maps.values()} == {torch.Size(size)}


def test_the_image_is_resized_before_the_network_sees_it():
    prediction = predict(Oracle(), np.zeros((64, 96, 3), np.uint8), image_size=(32, 48))
    assert prediction.initial.main.shape[-2:] == (32, 48)


# -- Scales, flips and windows


class Local(nn.Module):
    """Scores at 1/4 resolution that depend on the 4x4 pixels there alone, so that windows make no difference."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.mix = nn.Conv2d(3, 19, 1)

    def forward(self, image):
        means = nn.functional.avg_pool2d(image, 4, ceil_mode=True)
        return Prediction(*(Logits(factor * self.mix(means)) for factor in (5.0, -5.0, 2.0)))


class Recorder(Local):
    """Keeps the sizes that it has seen."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, image):
        self.seen.append(tuple(image.shape[-2:]))
        return super().forward(image)


def image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def assert_same(found, expected):
    """The same classes, but for one pixel in a thousand: rounding decides where two scores are all but equal."""
    assert list(found) == list(expected)
    for name, ids in expected.items():
        assert found[name].shape == ids.shape
        assert (found[name] != ids).float().mean() <= 1e-3, name


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (61, 95), (33, 130)])
def test_a_single_scale_gives_the_classes_of_the_prediction(network, size):
    pixels = image(*size)
    assert_same(predict_classes(network, pixels), classes(predict(network, pixels), size))


def test_the_result_has_the_size_of_the_image_and_not_that_of_image_size(network):
    pixels = image(96, 128)
    expected = classes(predict(network, pixels, image_size=(64, 80)), (96, 128))
    assert_same(predict_classes(network, pixels, image_size=(64, 80)), expected)


def every_pass(network, image, scales):
    """The full-size logits at each scale, plain and mirrored, each upsampled in one go."""
    height, width = image.shape[:2]
    for scale in scales:
        scaled = cv2.resize(image, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_LINEAR)
        plain, mirrored = predict(network, scaled), predict(network, scaled[:, ::-1])
        yield {
            name: (
                plain.upsample(plain.outputs()[name].main, (height, width))[0],
                mirrored.upsample(mirrored.outputs()[name].main, (height, width))[0].flip(-1),
            )
            for name in plain.outputs()
        }


def test_softmaxes_of_scales_and_flips_are_summed(network):
    pixels, scales = image(70, 101), (0.5, 1.0, 1.75)
    passes = list(every_pass(network, pixels, scales))
    inference = InferenceConfig(scales, flip=True)
    found, scores = (predict(network, pixels, inference) for predict in (predict_classes, predict_scores))
    for name in passes[0]:
        expected = sum(one.double().softmax(0) for logits in passes for one in logits[name])
        torch.testing.assert_close(scores[name].double(), expected, rtol=0, atol=1e-4)
    assert_same(found, {name: total.argmax(0).to(torch.uint8) for name, total in scores.items()})
    assert not torch.equal(found["S_f"], predict_classes(network, pixels)["S_f"])


def test_the_two_modes_of_averaging_differ(network):
    pixels = image(64, 96)
    one, other = (
        predict_classes(network, pixels, InferenceConfig((0.75, 1.25), flip=True, averaging=mode))["S_f"]
        for mode in ("probabilities", "reference")
    )
    assert not torch.equal(one, other)


def test_with_flip_a_mirrored_image_gives_mirrored_classes(network):
    pixels, inference = image(70, 101), InferenceConfig((0.75, 1.0, 1.5), flip=True, window=(64, 64), stride=(32, 48))
    found, mirrored = (predict_classes(network, i, inference) for i in (pixels, pixels[:, ::-1]))
    assert_same(mirrored, {name: ids.flip(-1) for name, ids in found.items()})


def test_one_output_alone_is_what_it_is_among_all(network):
    image = np.random.default_rng(0).integers(0, 256, (96, 160, 3), dtype=np.uint8)
    inference = InferenceConfig((0.5, 1.25), flip=True, window=(64, 96), stride=(64, 64))
    everything = predict_classes(network, image, inference)
    alone = predict_classes(network, image, inference, outputs=["S_f"])
    assert list(alone) == ["S_f"] and torch.equal(alone["S_f"], everything["S_f"])


def test_an_output_that_the_network_has_not_is_refused(network):
    with pytest.raises(ConfigError) as error:
        predict_classes(network, np.zeros((64, 96, 3), np.uint8), outputs=["S_x"])
    assert error.value.where == "outputs" and "S_x" in error.value.found and "S_i, S_s, S_f" in error.value.expected


def test_a_window_as_large_as_the_image_shows_it_whole(network):
    pixels, scales = image(64, 96), (1.5,)
    whole = predict_classes(network, pixels, InferenceConfig(scales, window=(128, 256), stride=(128, 256)))
    exact = predict_classes(network, pixels, InferenceConfig(scales, window=(96, 144), stride=(4, 4)))
    assert_same(exact, whole)


@pytest.mark.parametrize("stride", [(64, 96), (24, 40)])
@pytest.mark.parametrize("size", [(128, 192), (131, 203), (64, 300)])
def test_windows_are_put_back_where_they_were_taken(size, stride):
    network, pixels = Local(), image(*size)
    inference = InferenceConfig(window=(64, 96), stride=stride, max_whole_pixels=0)
    assert_same(predict_classes(network, pixels, inference), predict_classes(network, pixels))


def test_overlapping_windows_are_averaged_as_probabilities():
    class Alternating(nn.Module):
        """Class 0 with 0.9 in the first window, class 1 with 0.99 in the second, else the third class."""

        def __init__(self):
            super().__init__()
            self.parameter = nn.Parameter(torch.zeros(()))
            self.shares = iter([[0.9, 0.06, 0.04], [0.005, 0.99, 0.005]])

        def forward(self, pixels):
            shares = torch.tensor(next(self.shares)).log().view(1, 3, 1, 1)
            return Prediction(Logits(shares.expand(1, 3, pixels.shape[2] // 4, pixels.shape[3] // 4) + 7))

    inference = InferenceConfig(window=(64, 64), stride=(64, 32), max_whole_pixels=0)
    found = predict_classes(Alternating(), image(64, 96), inference)["S_i"]
    # (0.9 + 0.005) / 2 < (0.06 + 0.99) / 2 in the middle.
    assert [found[:, u].unique().tolist() for u in (0, 31, 48, 95)] == [[0], [0], [1], [1]]


def test_an_image_is_seen_whole_up_to_scale_one_and_through_windows_above():
    network = Recorder()
    predict_classes(network, image(96, 128), InferenceConfig((0.5, 1.0, 1.25), window=(64, 96), stride=(64, 96)))
    assert network.seen == [(48, 64), (96, 128), *[(64, 96), (64, 96), (64, 96), (64, 96)][:4]]


def test_a_large_image_is_seen_through_windows_at_every_scale():
    network = Recorder()
    predict_classes(
        network, image(96, 128), InferenceConfig(window=(64, 64), stride=(64, 64), max_whole_pixels=96 * 128 - 1)
    )
    assert network.seen == [(64, 64)] * 4


def test_a_side_that_a_scale_makes_too_short_has_32_pixels():
    network = Recorder()
    predict_classes(network, image(40, 100), InferenceConfig((0.5,)))
    assert network.seen == [(32, 50)]


def test_an_image_of_one_colour_has_the_same_classes_at_all_scales():
    network, image = Local(), np.full((70, 90, 3), (90, 40, 200), np.uint8)
    single, six = (predict_classes(network, image, inference) for inference in (InferenceConfig(), SIX_SCALES))
    assert all(len(ids.unique()) == 1 for ids in single.values())
    assert_same(six, single)


@pytest.mark.parametrize("logit", [80, 89])
def test_exponentials_that_overflow_are_refused(logit):
    network = Local()
    nn.init.zeros_(network.mix.weight)
    network.mix.bias.data = torch.arange(19) * logit / 5 / 18
    options = {"inference": InferenceConfig((0.5, 1.0), averaging="reference"), "outputs": ["S_i"]}
    if logit < 88:
        assert (predict_classes(network, image(64, 64), **options)["S_i"] == 18).all()
        return
    with pytest.raises(ConfigError) as error:
        predict_classes(network, image(64, 64), **options)
    assert error.value.where == "averaging" and "probabilities" in error.value.fix


@pytest.mark.parametrize("averaging", ["probabilities", "reference"])
@pytest.mark.parametrize("size", [(1, 1), (1, 90), (31, 64)])
def test_an_image_of_any_size_has_classes(network, size, averaging):
    """Unless it is told to, the network takes no side below 32 pixels."""
    looks = InferenceConfig((0.25, 1.0, 1.5), flip=True, window=(64, 64), averaging=averaging)
    found = predict_classes(network, image(*size), looks)
    assert {tuple(ids.shape) for ids in found.values()} == {size}


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_network_is_kept_also_after_an_error(network, training, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    network.train(training)
    predict_classes(network, image(32, 32))
    assert network.training == training
    with pytest.raises(ConfigError):
        predict_classes(network, image(32, 32), outputs=["S_x"])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(evaluation_inference, "predict", interrupted)
        predict_classes(network, image(32, 32))
    assert network.training == training
    network.eval()


def test_under_autocast_classes_are_those_of_its_prediction(network):
    pixels = image(64, 96)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(predict_classes(network, pixels), classes(predict(network, pixels), (64, 96)))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"scales": ()}, "scales"),
        ({"scales": (1.0, 0.0)}, "scales[1]"),
        ({"averaging": "median"}, "averaging"),
        ({"window": (512, 1022)}, "window[1]"),
        ({"window": (32, 1024)}, "window[0]"),
        ({"window": (512, 1024, 3)}, "window"),
        ({"window": (512, 512), "stride": (512, 1024)}, "stride"),
        ({"stride": (512, 2052)}, "stride"),
        ({"stride": (0, 1024)}, "stride[0]"),
        ({"stride": (512,)}, "stride"),
        ({"max_whole_pixels": -1}, "max_whole_pixels"),
    ],
)
def test_settings_out_of_range_are_refused(change, field):
    with pytest.raises(ConfigError) as error:
        InferenceConfig(**change)
    assert error.value.where == field


@pytest.mark.parametrize("stride", [(), []])
def test_windows_lie_side_by_side_unless_a_stride_is_given(stride):
    assert InferenceConfig(window=[64, 96], stride=stride) == InferenceConfig(window=(64, 96), stride=(64, 96))


@pytest.mark.parametrize("given", [{"window": [512]}, {"stride": [512]}, {"window": [64, 96, 3]}])
def test_a_window_that_is_not_of_height_and_width_is_refused(given):
    with pytest.raises(ConfigError) as error:
        InferenceConfig(**given)
    assert error.value.where == next(iter(given))


MEASURED = """
import resource, numpy as np, torch
from torch import nn
from ovenet_core.evaluation.inference import InferenceConfig, SIX_SCALES, predict_classes
from ovenet_core.ovenet import Logits, Prediction, build
torch.set_num_threads(1)
window = {"window": (128, 128), "stride": (128, 128), "max_whole_pixels": 128 * 128}
def show_peak(network, height, width, *scales):
    predict_classes(network, np.zeros((height, width, 3), np.uint8), InferenceConfig(*scales, **window))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def peaks(script: str) -> list[float]:
    """The megabytes that a process of its own has taken at most, at each `show_peak`."""
    command = [sys.executable, "-c", MEASURED + script]
    return [float(line) for line in subprocess.run(command, capture_output=True, check=True).stdout.split()]


def test_memory_is_bounded_by_the_window():
    window, sixteen_windows = peaks("""
network = build(width=8, blocks=1)
for side in (128, 512):
    show_peak(network, side, side)
""")
    # Seen whole, the large image takes some 80 MB more than the small one.
    assert sixteen_windows < window + 30, f"{window:.0f} MB for one window, {sixteen_windows:.0f} MB for 16"


def test_memory_grows_neither_with_the_scales_nor_with_the_height_of_the_image():
    one, six, tall = peaks("""
class Flat(nn.Conv2d):
    offset_head = True
    def forward(self, image):
        rows, columns = (-(-side // 4) for side in image.shape[2:])
        return Prediction(*(Logits(torch.zeros(1, 150, rows, columns)) for _ in range(3)))
network = Flat(3, 3, 1)
show_peak(network, 512, 128)
show_peak(network, 512, 128, SIX_SCALES.scales, True)
show_peak(network, 1024, 128, SIX_SCALES.scales, True)
""")
    # The logits of all passes take 128 MB at the six scales, twice as many for the tall image.
    assert six < one + 120, f"{one:.0f} MB at one scale, {six:.0f} MB at six"
    assert tall < six + 60, f"{six:.0f} MB, twice as tall {tall:.0f} MB"
