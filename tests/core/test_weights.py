"""Import of official checkpoints: names, strictness, reports, and files that are read without running code."""

import json
import pickle
import re
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from ovenet_core.ovenet import OVeNet, build
from ovenet_core.utils import WeightsError, read_state
from ovenet_core.weights import load_network, load_official, our_name

CLASSES = 7
VARIANTS = {  # in the golden data: backbone, offset branch
    "hrnet": ("hrnet", None),
    "hrnet_ocr": ("hrnet_ocr", None),
    "ovenet_hrnet_ob4": ("hrnet", 4),
    "ovenet_ocr_ob4": ("hrnet_ocr", 4),
    "ovenet_ocr_ob3": ("hrnet_ocr", 3),
    "ovenet_ocr_ob2": ("hrnet_ocr", 2),
}
LAST_LAYER = {"0": "hidden.conv", "1": "hidden.norm", "3": "output"}
OFFSET_STAGE_4 = "offset_head.stages.4."
HEAD_TENSORS = 9  # two convolutions with bias, and a batch-norm with its count


def w18(branch: int | None = None, backbone: str = "hrnet", **options) -> OVeNet:
    return build(CLASSES, backbone=backbone, **{"width": 18, "branch_stage": branch} | options)


def random_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=rng) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def imagenet() -> dict[str, Tensor]:
    """A W18 backbone with the classification head, under the official names: timm keeps them."""
    torch.manual_seed(0)
    return timm.create_model("hrnet_w18").state_dict()


@pytest.fixture(scope="module")
def backbone(imagenet) -> dict[str, Tensor]:
    heads = ("incre_modules", "downsamp_modules", "final_layer", "classifier")
    return {name: tensor for name, tensor in imagenet.items() if not name.startswith(heads)}


@pytest.fixture(scope="module")
def hrnet(backbone) -> dict[str, Tensor]:
    """A whole HRNet-W18 with its semantic head."""
    channels = 15 * 18
    norm = {f"last_layer.1.{n}": (channels,) for n in ("weight", "bias", "running_mean", "running_var")}
    head = {"last_layer.0.weight": (channels, channels, 1, 1), "last_layer.0.bias": (channels,), **norm}
    head |= {"last_layer.3.weight": (CLASSES, channels, 1, 1), "last_layer.3.bias": (CLASSES,)}
    return {**backbone, **random_state(head), "last_layer.1.num_batches_tracked": torch.tensor(5)}


@pytest.fixture(scope="module")
def official_names(shared) -> dict[str, dict[str, list[int]]]:
    """Names and shapes of the six real W48 state dicts."""
    return json.loads((shared / "golden" / "state_keys_w48_c19.json").read_text())


# Names


@pytest.mark.parametrize("variant", VARIANTS)
def test_official_names_map_one_to_one_onto_ours_with_the_same_shapes(variant, official_names):
    """Every official parameter but `coords` has one of ours, and every one of ours is reached."""
    backbone, branch = VARIANTS[variant]
    with torch.device("meta"):
        network = build(backbone=backbone, branch_stage=branch)
    own = {name: list(value.shape) for name, value in network.state_dict().items()}
    mapped = [(our_name(name), shape) for name, shape in official_names[variant].items()]
    used = [(name, shape) for name, shape in mapped if name is not None]
    assert len(mapped) - len(used) == ("coords" in official_names[variant])
    assert len(dict(used)) == len(used)
    assert dict(used) == own


def test_names_of_all_official_variants_are_tested(official_names):
    assert official_names.keys() == VARIANTS.keys()


@pytest.mark.parametrize("prefix", ["model.", "module.", "module.model.", "model.module."])
@pytest.mark.parametrize("name", ["conv1.weight", "stage4_2.1.fuse_layers.0.1.0.weight", "cls_head.bias", "coords"])
def test_prefixes_of_wrappers_do_not_matter(prefix, name):
    assert our_name(prefix + name) == our_name(name)


@pytest.mark.parametrize(
    ("official", "ours"),
    [
        ("layer1.0.downsample.1.running_var", "backbone.stage1.0.downsample.1.running_var"),
        ("transition1.1.0.0.weight", "backbone.stages.2.transition.1.0.0.weight"),
        ("stage3.2.branches.0.1.bn2.bias", "backbone.stages.3.blocks.2.branches.0.1.bn2.bias"),
        ("transition3_2.3.0.1.weight", "offset_head.stages.4.transition.3.0.1.weight"),
        ("aux_head_offset.3.bias", "offset_head.head.output.bias"),
        ("offset_layer.0.weight", "offset_head.head.hidden.conv.weight"),
        ("aux_head.1.running_mean", "semantic_head.auxiliary.hidden.norm.running_mean"),
        ("loss.criterion.weight", None),
        ("incre_modules.0.0.conv1.weight", None),
    ],
)
def test_our_name_by_example(official, ours):
    assert our_name(official) == ours


@pytest.mark.parametrize("name", ["backbone.conv1.weight", "head.weight", "stage9000", "xconv1.weight", ""])
def test_unknown_name_is_an_error_that_names_it(name):
    with pytest.raises(WeightsError) as caught:
        our_name(name, "file.pth")
    assert caught.value.where == "file.pth" and repr(name) in caught.value.found


# Loading


def test_whole_file_arrives_tensor_by_tensor(hrnet):
    network = w18()
    report = load_official(network, hrnet)
    state = network.state_dict()
    assert all(torch.equal(state[our_name(name)], tensor) for name, tensor in hrnet.items())
    assert report.loaded == sorted(state) and not (report.copied or report.initial or report.unused)


@pytest.mark.parametrize("prefix", ["model.", "module.", "module.model."])
def test_file_of_a_wrapped_network_loads(hrnet, prefix):
    network = w18()
    report = load_official(network, {prefix + name: tensor for name, tensor in hrnet.items()})
    assert len(report.loaded) == len(hrnet)
    assert torch.equal(network.backbone.stem.conv1.weight, hrnet["conv1.weight"])


def test_imagenet_backbone_loads_and_reports_the_rest(imagenet, backbone):
    """Which tensors have no use, which parts stay as they were, and why."""
    network = w18()
    before = {name: tensor.clone() for name, tensor in network.semantic_head.state_dict().items()}
    report = load_official(network, imagenet, "imagenet.pth")
    assert len(report.loaded) == len(backbone)
    assert report.unused == dict.fromkeys(imagenet.keys() - backbone.keys(), "the ImageNet classification head")
    assert report.initial == ["semantic_head"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.semantic_head.state_dict().items())
    assert torch.equal(
        network.backbone.stages["4"].blocks[2].branches[3][3].conv2.weight,
        imagenet["stage4.2.branches.3.3.conv2.weight"],
    )


def test_report_in_words_has_all_that_happened(imagenet, backbone):
    text = str(load_official(w18(branch=4), imagenet, "imagenet.pth"))
    assert text.startswith(f"imagenet.pth: {len(backbone)} tensors loaded")
    assert re.search(r"\d+ tensors of the offset head copied from the backbone's stages", text)
    assert "semantic_head left at its initial value: the file has no weights for it" in text
    assert f"{len(imagenet) - len(backbone)} not used: the ImageNet classification head" in text


@pytest.mark.parametrize("branch", [4, 3, 2])
def test_offset_branch_starts_as_a_copy_of_the_backbones_stages(backbone, branch):
    """Stage by stage and module by module; its output layers stay at their initial values."""
    network = w18(branch=branch)
    report = load_official(network, backbone)
    state = network.state_dict()
    stages = [name for name in state if name.startswith("offset_head.stages.")]
    assert report.copied == stages
    assert {name.split(".")[2] for name in stages} == {str(n) for n in range(branch, 5)}
    for name in stages:
        assert torch.equal(state[name], state[name.replace("offset_head", "backbone")]), name
    assert report.initial == ["semantic_head", "offset_head.head"]


def test_copied_stages_do_not_share_memory_with_the_backbone(backbone):
    """Else training one would change the other."""
    network = w18(branch=4)
    load_official(network, backbone)
    pointers = {p.data_ptr() for p in network.backbone.parameters()}
    assert not pointers & {p.data_ptr() for p in network.offset_head.parameters()}


def test_offset_head_of_the_file_is_not_overwritten_by_the_backbone(hrnet):
    """A whole OVeNet keeps its own second tower."""
    own = w18(branch=4)
    shapes = {name: tuple(v.shape) for name, v in own.state_dict().items() if name.startswith("offset_head.")}
    official = {
        name.replace(OFFSET_STAGE_4 + "blocks.", "stage4_2.").replace(
            OFFSET_STAGE_4 + "transition.", "transition3_2."
        ): shape
        for name, shape in shapes.items()
        if name.startswith(OFFSET_STAGE_4)
    }
    official |= {
        f"offset_layer.{index}.{kind}": shapes[f"offset_head.head.{ours}.{kind}"]
        for index, ours in LAST_LAYER.items()
        for kind in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        if f"offset_head.head.{ours}.{kind}" in shapes
    }
    head = random_state(official)
    report = load_official(own, {**hrnet, **head})
    state = own.state_dict()
    assert not report.copied and not report.initial
    for name, tensor in head.items():
        assert torch.equal(state[our_name(name)], tensor.to(state[our_name(name)].dtype)), name


def test_hrnet_checkpoint_into_ovenet_reports_the_offset_head(hrnet):
    report = load_official(w18(branch=4), hrnet)
    assert report.initial == ["offset_head.head"]
    assert len(report.loaded) == len(hrnet) and report.copied


def test_hrnet_checkpoint_into_a_network_with_ocr_reports_both_heads(hrnet, backbone):
    """The semantic head of the file has no place, that of the network stays as it was."""
    report = load_official(w18(backbone="hrnet_ocr", ocr_channels=32, ocr_key_channels=16), hrnet)
    assert len(report.loaded) == len(backbone)
    assert {name.split(".")[0] for name in report.unused} == {"last_layer"} and len(report.unused) == HEAD_TENSORS
    assert report.initial == ["semantic_head"]


def test_missing_batch_counts_do_not_matter(hrnet):
    """Some files do not have `num_batches_tracked`; it is used nowhere."""
    lean = {name: tensor for name, tensor in hrnet.items() if not name.endswith("num_batches_tracked")}
    assert not load_official(w18(), lean).initial


def test_half_precision_tensors_become_the_networks_type(hrnet):
    network = w18()
    load_official(network, {name: t.half() if t.dim() == 4 else t for name, t in hrnet.items()})
    assert network.backbone.stem.conv1.weight.dtype == torch.float32
    torch.testing.assert_close(network.backbone.stem.conv1.weight.data, hrnet["conv1.weight"], rtol=1e-3, atol=1e-4)


def test_unknown_tensor_in_a_file_is_an_error_that_names_it(hrnet):
    with pytest.raises(WeightsError) as caught:
        load_official(w18(), {**hrnet, "decoder.weight": torch.zeros(1)}, "hrnet.pth")
    assert caught.value.where == "hrnet.pth" and "decoder.weight" in caught.value.found


@pytest.mark.parametrize("name", ["conv1.bias", "stage2.1.branches.0.0.conv1.weight", "layer1.0.conv9.weight"])
def test_tensor_that_the_backbone_does_not_have_is_an_error_that_names_it(hrnet, name):
    """A backbone is loaded whole: what is left over in it belongs to another network."""
    with pytest.raises(WeightsError) as caught:
        load_official(w18(), {**hrnet, name: torch.zeros(1)})
    assert name in caught.value.found


def test_backbone_with_more_blocks_than_the_network_is_an_error(hrnet):
    """Else a shallower network would run with a part of the weights."""
    with pytest.raises(WeightsError) as caught:
        load_official(w18(blocks=2), hrnet)
    assert re.match(r"layer1\.2|stage2", caught.value.found)


def test_offset_branch_from_another_stage_is_an_error(official_names):
    """A tower that leaves after stage 1 is not one that leaves after stage 3."""
    state = {name: torch.empty(shape, device="meta") for name, shape in official_names["ovenet_ocr_ob2"].items()}
    with torch.device("meta"):
        network = build(backbone="hrnet_ocr", branch_stage=4)
    with pytest.raises(WeightsError) as caught:
        load_official(network, state)
    assert re.match(r"(module\.|model\.)*(stage2_2|transition1_2)", caught.value.found)


@pytest.mark.parametrize("name", ["conv1.weight", "stage3.3.fuse_layers.2.0.0.1.running_var"])
def test_missing_backbone_tensor_is_an_error_that_names_it(hrnet, name):
    rest = {n: tensor for n, tensor in hrnet.items() if n != name}
    with pytest.raises(WeightsError) as caught:
        load_official(w18(), rest)
    assert "backbone" in caught.value.found and our_name(name) in caught.value.expected


def test_incomplete_head_is_an_error_that_names_what_is_missing(hrnet):
    rest = {n: tensor for n, tensor in hrnet.items() if n != "last_layer.3.bias"}
    with pytest.raises(WeightsError) as caught:
        load_official(w18(), rest)
    assert "semantic_head.classifier.output.bias" in caught.value.expected


def test_file_without_a_backbone_is_an_error(hrnet):
    with pytest.raises(WeightsError) as caught:
        load_official(w18(), {n: t for n, t in hrnet.items() if n.startswith("last_layer")}, "head.pth")
    assert caught.value.where == "head.pth" and re.match(r"0 of the \d+ tensors of backbone", caught.value.found)


def test_wrong_shape_is_an_error_with_both_shapes(hrnet):
    """Here 19 classes for a network of seven."""
    other = {**hrnet, "last_layer.3.weight": torch.zeros(19, 270, 1, 1), "last_layer.3.bias": torch.zeros(19)}
    with pytest.raises(WeightsError) as caught:
        load_official(w18(), other, "hrnet.pth")
    name = "semantic_head.classifier.output.weight"
    assert caught.value.where == "hrnet.pth"
    assert (caught.value.found, caught.value.expected) == (f"{name} [19, 270, 1, 1]", f"{name} [7, 270, 1, 1]")


def test_wrong_width_is_an_error(backbone):
    with pytest.raises(WeightsError) as caught:
        load_official(w18(width=32), backbone)
    assert "[" in caught.value.found and caught.value.found.split()[0] == caught.value.expected.split()[0]


@pytest.mark.parametrize("branch", [None, 4])
def test_weights_under_our_own_names_are_no_official_file(branch):
    """Whatever network they are of."""
    with pytest.raises(WeightsError) as caught:
        load_official(w18(), w18(branch=branch).state_dict(), "ours.safetensors")
    assert caught.value.where == "ours.safetensors" and "init_from" in caught.value.fix


@pytest.mark.parametrize("branch", [None, 4])
def test_weights_under_our_own_names_load_into_their_network(branch):
    network, state = w18(branch=branch), w18(branch=branch).state_dict()
    load_network(network, state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    ("branch", "width", "found", "expected"),
    [
        (None, 18, r"no offset_head\.", r"offset_head\.\S+ \["),
        (4, 8, r"backbone\.\S+ \[8, ", r"backbone\.\S+ \[18, "),
        (3, 18, r"offset_head\.\S+ \[", r"no offset_head\."),
    ],
)
def test_weights_under_our_own_names_of_another_network_are_refused(branch, width, found, expected):
    with pytest.raises(WeightsError) as caught:
        load_network(w18(branch=4), w18(branch=branch, width=width).state_dict(), "ours.safetensors")
    assert caught.value.where == "ours.safetensors"
    assert re.match(found, caught.value.found) and re.match(expected, caught.value.expected)


def test_network_is_unchanged_after_an_error(hrnet):
    network = w18()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(WeightsError):
        load_official(network, {**hrnet, "last_layer.3.bias": torch.zeros(19)})
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_real_backbone_loads(shared):
    """1525 tensors of a trained HRNetV2-W18."""
    path = shared / "weights" / "hrnetv2_w18_cocolvis.safetensors"
    if not path.is_file():
        pytest.skip(f"needs {path}")
    network = w18(branch=4)
    report = load_official(network, read_state(path), path.name)
    assert len(report.loaded) == 1525 and not report.unused
    assert report.initial == ["semantic_head", "offset_head.head"]
    assert network.backbone.stem.bn1.running_var.min() > 0 and (network.backbone.stem.bn1.running_mean != 0).any()


# Files

SMALL = {"conv1.weight": torch.arange(6.0).view(2, 3), "bn1.num_batches_tracked": torch.tensor(3)}


def assert_small(state: dict[str, Tensor]) -> None:
    assert state.keys() == SMALL.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in SMALL.items())


def test_safetensors_file_is_read(tmp_path):
    save_file(SMALL, tmp_path / "a.safetensors")
    assert_small(read_state(tmp_path / "a.safetensors"))


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoint_is_read(tmp_path, wrap, zipped):
    """The official files are of torch 1.1, in the older format without a zip archive."""
    torch.save(wrap(SMALL), tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    assert_small(read_state(tmp_path / "a.pth"))


class Intruder:
    """Leaves a mark if it is ever unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, 2))])
def test_code_in_a_pickle_is_refused_and_never_run(tmp_path, save):
    mark, path = tmp_path / "mark", tmp_path / "evil.pth"
    save({"state_dict": SMALL, "extra": Intruder(mark)}, path)
    with pytest.raises(WeightsError) as caught:
        read_state(path)
    assert caught.value.where == path and ".safetensors" in caught.value.fix
    assert not mark.exists()


def test_the_intruder_of_the_test_above_would_leave_its_mark(tmp_path):
    pickle.loads(pickle.dumps(Intruder(tmp_path / "mark")))
    assert (tmp_path / "mark").exists()


def test_missing_file_is_an_error_with_its_path(tmp_path):
    with pytest.raises(WeightsError) as caught:
        read_state(tmp_path / "no.pth")
    assert caught.value.where == tmp_path / "no.pth"


@pytest.mark.parametrize("name", ["broken.pth", "broken.safetensors"])
def test_file_that_is_no_checkpoint_is_an_error_with_its_path(tmp_path, name):
    (tmp_path / name).write_bytes(b"<!DOCTYPE html>" * 20)
    with pytest.raises(WeightsError) as caught:
        read_state(tmp_path / name)
    assert caught.value.where == tmp_path / name


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1, 2], torch.zeros(3)], ids=lambda c: type(c).__name__)
def test_file_without_a_state_dict_is_an_error_with_its_path(tmp_path, content):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(WeightsError) as caught:
        read_state(tmp_path / "other.pth")
    assert caught.value.where == tmp_path / "other.pth" and "state dict" in caught.value.expected
