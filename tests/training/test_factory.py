"""From an experiment to its network; trained networks from run folders and files of weights."""

import json
import re
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import save_file

from ovenet_core.data import get_dataset
from ovenet_core.training.factory import build_network, load_trained, require_classes
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
