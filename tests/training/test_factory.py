"""From an experiment to its network; trained networks from run folders and files of weights."""

import json
import re
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import save_file

from ovenet_core.data import CITYSCAPES, get_dataset
from ovenet_core.evaluation import InferenceConfig
from ovenet_core.training.config import Experiment
from ovenet_core.training.factory import (
    build_network,
    build_optimizer,
    inference_config,
    load_trained,
    require_classes,
)
from ovenet_core.training.presets import preset
from ovenet_core.utils import ConfigError, DataError, RunError, WeightsError

NARROW = preset("synthetic/ovenet", tau=0.25, refinement_steps=1)
BASELINE = preset("synthetic/hrnet")


def saved(experiment, folder):
    """A run folder with random weights, and these."""
    torch.manual_seed(1)
    weights = build_network(experiment, 19).state_dict()
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / "checkpoint.safetensors")
    (folder / "config.json").write_text(json.dumps({"experiment": asdict(experiment)}))
    return weights


def test_the_experiment_reaches_the_network():
    network = build_network(NARROW, 19)
    assert network.offset_head.tau == 0.25 and network.config.refinement_steps == 1
    assert build_network(BASELINE, 19).offset_head is None


def test_a_run_folder_gives_its_experiment_and_its_weights(tmp_path):
    weights = saved(NARROW, tmp_path)
    experiment, network = load_trained(tmp_path)
    assert experiment == NARROW and not network.training
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())


def test_a_file_of_our_weights_needs_its_experiment(tmp_path):
    weights = saved(NARROW, tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_trained(tmp_path / "checkpoint.safetensors")
    assert caught.value.where == "experiment"
    _, network = load_trained(tmp_path / "checkpoint.safetensors", NARROW)
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())


def test_official_weights_of_a_backbone_alone_are_no_trained_network(shared):
    experiment = preset("camvid/ovenet")
    with pytest.raises(WeightsError) as caught:
        load_trained(shared / "weights" / experiment.pretrained, experiment)
    assert caught.value.where == experiment.pretrained and "semantic_head" in caught.value.found


@pytest.mark.parametrize(
    ("of", "given", "found", "expected"),
    [
        (BASELINE, NARROW, r"no offset_head\.\S+", r"offset_head\.\S+ \["),
        (NARROW, BASELINE, r"offset_head\.\S+ \[", r"no offset_head\.\S+"),
        (NARROW.override(width=4), NARROW, r"backbone\.\S+ \[4, ", r"backbone\.\S+ \[8, "),
        (BASELINE.override(backbone="hrnet_ocr"), BASELINE, r"no semantic_head\.\S+", r"semantic_head\.\S+ \["),
    ],
    ids=["no offset head", "an offset head", "another width", "another backbone"],
)
def test_weights_of_another_network_are_refused_with_the_first_difference(tmp_path, of, given, found, expected):
    saved(of, tmp_path)
    with pytest.raises(WeightsError) as caught:
        load_trained(tmp_path / "checkpoint.safetensors", given)
    assert caught.value.where == "checkpoint.safetensors"
    assert re.match(found, caught.value.found) and re.match(expected, caught.value.expected)


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(RunError) as caught:
        load_trained(tmp_path)
    assert caught.value.where == tmp_path and "result.json" in caught.value.expected


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(RunError) as caught:
        load_trained(tmp_path / "nowhere")
    assert caught.value.where == tmp_path / "nowhere"


def test_a_run_without_its_checkpoint_is_named(tmp_path):
    saved(NARROW, tmp_path)
    (tmp_path / "checkpoint.safetensors").unlink()
    with pytest.raises(RunError) as caught:
        load_trained(tmp_path)
    assert caught.value.where == tmp_path / "checkpoint.safetensors"


def test_a_network_of_other_classes_is_refused():
    require_classes(NARROW, get_dataset("acdc"))
    with pytest.raises(DataError) as caught:
        require_classes(NARROW, get_dataset("ade20k"))
    assert "19 classes of cityscapes" in caught.value.found and "150 classes of ade20k" in caught.value.expected


@pytest.mark.parametrize(
    ("dataset", "fields", "window"),
    [
        (CITYSCAPES, {}, (1024, 2048)),
        ("acdc", {}, (1080, 1920)),
        ("ade20k", {}, (520, 520)),
        ("ade20k", {"image_size": 520}, (520, 520)),
        ("camvid", {"image_size": (180, 242)}, (180, 244)),
        ("camvid", {"image_size": (180, 240), "test_size": (50, 240)}, (64, 240)),
        (replace(CITYSCAPES, image_size=None), {"crop": (513, 1024)}, (516, 1024)),
    ],
)
def test_windows_have_the_size_of_the_test_or_else_of_the_images_or_else_of_the_crop(dataset, fields, window):
    """Rounded up to what a window may have."""
    dataset = get_dataset(dataset) if isinstance(dataset, str) else dataset
    inference = inference_config(Experiment(**fields), dataset, scales=[0.5, 1.0], flip=True, averaging="reference")
    assert inference == InferenceConfig((0.5, 1.0), True, window, window, "reference")


def test_a_window_that_is_given_counts():
    inference = inference_config(Experiment(test_size=(512, 512)), CITYSCAPES, [64, 96], stride=[32, 48])
    assert inference == InferenceConfig(window=(64, 96), stride=(32, 48))


# The authors' protocol


def test_the_poly_rate_of_the_authors_comes_one_iteration_late():
    """By hand: the first two iterations of ten have the full rate, the third has 0.9^0.9 of it."""
    rates = {}
    for delay in (0, 1):
        experiment = Experiment(width=8, blocks=1, learning_rate=0.01, poly_delay=delay)
        optimizer, scheduler = build_optimizer(experiment, build_network(experiment, 3), 10)
        rates[delay] = []
        for _ in range(10):
            rates[delay].append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
    assert rates[0] == pytest.approx([0.01 * (1 - i / 10) ** 0.9 for i in range(10)])
    assert rates[1] == pytest.approx([rates[0][0], *rates[0][:9]])


def test_a_late_rate_goes_on_from_its_state():
    experiment = Experiment(width=8, blocks=1, poly_delay=1)
    network = build_network(experiment, 3)
    (first, whole), (second, later) = (build_optimizer(experiment, network, 6) for _ in range(2))
    for _ in range(2):
        first.step()
        whole.step()
    second.load_state_dict(first.state_dict())
    later.load_state_dict(whole.state_dict())
    for _ in range(3):
        assert first.param_groups[0]["lr"] == second.param_groups[0]["lr"]
        for part in (first, whole, second, later):
            part.step()
