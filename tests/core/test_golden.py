"""Parity with the authors' networks, losses and scores: every tensor of every file in ../shared/golden.

A file that is added to the folder is tested too, if it is named and filled as the README there says; a file or a tensor
that is not known here is a failure, never left out.
"""

import json
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from ovenet_core.cross_entropy import cross_entropy, ohem_cross_entropy
from ovenet_core.evaluation.metrics import Scores, confusion_matrix
from ovenet_core.layers import upsample
from ovenet_core.losses import LossTerms, OVeNetLoss, reference_confidence_loss
from ovenet_core.ovenet import Logits, OVeNet, Prediction, build
from ovenet_core.weights import load_official, our_name

GOLDEN = Path(__file__).parents[2] / ".." / "shared" / "golden"
NAME = re.compile(r"(ovenet_ocr|ovenet_hrnet|hrnet_ocr|hrnet)(?:_ob(\d))?_c(\d+)_w(\d+)")
MODELS = sorted(p.name for p in GOLDEN.glob("*.safetensors") if NAME.match(p.name))
OHEM = re.compile(r"ohem_t([\d.]+)_k(\d+)$")
ABSENT = pytest.mark.skip(reason=f"needs the golden data in {GOLDEN.parent}")

# The authors' networks sample the seeds with align_corners=False on torch of today; see the README of the data.
REFERENCE = {"seed_align_corners": False}


@cache
def names(file: str) -> tuple[str, ...]:
    if not (GOLDEN / file).is_file():
        return ()
    with safe_open(GOLDEN / file, "pt") as tensors:
        return tuple(sorted(tensors.keys()))


@cache
def load(file: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / file)


def parts(golden: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under `prefix/`, without it."""
    return {name.removeprefix(prefix + "/"): t for name, t in golden.items() if name.startswith(prefix + "/")}


def cases(kind: str, files: list[str] = MODELS) -> list:
    """(file, first part of a tensor's name) for all that begin with `kind`."""
    found = [(f, p) for f in files for p in sorted({n.split("/")[0] for n in names(f)}) if p.startswith(kind)]
    return [pytest.param(*c, id=f"{c[0].removesuffix('.safetensors')}-{c[1]}") for c in found] or [
        pytest.param("", "", marks=ABSENT)
    ]


def network(file: str, dtype: torch.dtype, **options) -> OVeNet:
    """The file's network with the file's weights, in evaluation mode."""
    kind, branch, classes, width = NAME.match(file).groups()
    with safe_open(GOLDEN / file, "pt") as tensors:
        config = json.loads(tensors.metadata()["config"])
    state = parts(load(file), "state")
    backbone = "hrnet_ocr" if kind.endswith("ocr") else "hrnet"
    if backbone == "hrnet_ocr":
        options["ocr_channels"] = state["cls_head.weight"].shape[1]
        options["ocr_key_channels"] = len(state["ocr_distri_head.object_context_block.f_pixel.0.weight"])
    made = build(
        int(classes),
        backbone=backbone,
        width=int(width),
        branch_stage=int(branch) if branch else None,
        tau=0.2 if backbone == "hrnet_ocr" else 0.5,  # a table in the README of the data
        blocks=config["num_blocks"],
        **REFERENCE | options,
    )
    report = load_official(made, state, file)
    assert not report.initial and not report.copied and set(report.unused) <= {"coords"}
    return made.to(dtype).eval()


def outputs(prediction: Prediction, probabilities: bool = False) -> dict[str, Tensor]:
    """A prediction under the names of the data."""
    named = {}
    for name, logits in prediction.outputs().items():
        prefix = "" if prediction.fused is None else f"{name.lower()}/"
        named[f"{prefix}out"] = logits.main.exp() if probabilities else logits.main
        if logits.auxiliary is not None:
            named[f"{prefix}aux"] = logits.auxiliary
    if prediction.fused is not None:
        named |= {"offset": prediction.offsets, "conf": prediction.confidence}
    return named


def assert_close(name: str, got: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(got.to(expected), expected, rtol=0, atol=tolerance, msg=lambda m: f"{name}: {m}")


def options_of(variant: str) -> dict:
    """The network's options for the outputs of that name; KeyError for a name that is not known."""
    refinement = re.match(r"output_refine(\d+)$", variant)
    if refinement:
        return {"refinement_steps": int(refinement[1])}
    return {
        "output": {},
        "output_from64": {},
        "output_odd": {},
        "output_gs_align_true": {"seed_align_corners": True},
        "output_align_true": {"align_corners": True},
        "output_probs": {"fuse_probabilities": True},
    }[variant]


def test_every_file_of_the_folder_is_tested(shared):
    others = {"losses.safetensors", "metrics.safetensors"}
    assert {p.name for p in (shared / "golden").glob("*.safetensors")} == {*MODELS, *others}


@pytest.mark.parametrize("file", MODELS)
def test_every_tensor_of_a_model_file_is_of_a_known_kind(file):
    kinds = {name.split("/")[0] for name in names(file)} - {"state", "loss"}
    others = {kind for kind in kinds if not kind.startswith(("output", "loss_", "grad_"))}
    assert others == {"input"}
    assert set(parts(load(file), "input")) <= {"image", "image_odd", "labels", "class_weights"}
    assert set(parts(load(file), "loss")) <= {"conf"}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("file", "variant"), cases("output"))
def test_outputs(file, variant, dtype):
    """In float64 against a float64 pass to 1e-5; else to 1e-3 (logits) and 1e-4 (the rest), what float32 allows."""
    from64 = variant == "output_from64" and dtype == torch.float64
    golden = load(file)
    image = golden["input/image_odd" if variant == "output_odd" else "input/image"]
    with torch.no_grad():
        prediction = network(file, dtype, **options_of(variant))(image.to(dtype))
    got = outputs(prediction, probabilities=variant == "output_probs")
    expected = parts(golden, variant)
    if re.match("output_(refine|probs|gs)", variant):  # what a variant leaves as it was is not stored again
        expected = parts(golden, "output") | expected
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        is_logits = name.endswith("aux") or (name.endswith("out") and variant != "output_probs")
        tolerance = 1e-5 if from64 else 1e-3 if is_logits else 1e-4
        assert_close(name, got[name], value, tolerance)


def loss_of(file: str, kind: str, dtype: torch.dtype) -> tuple[OVeNet, LossTerms]:
    """The file's network and its reference losses, for `ce` or `ohem_t…_k…`."""
    golden = load(file)
    ohem = OHEM.match(kind)
    assert ohem or kind == "ce", f"unknown loss {kind}"
    loss = OVeNetLoss(
        reference_loss=True,
        confidence_weight=float(len(golden["input/labels"])),  # theirs is a sum over the images
        ohem=bool(ohem),
        ohem_threshold=float(ohem[1]) if ohem else 0.9,
        ohem_min_kept=int(ohem[2]) if ohem else 0,
        class_weights=tuple(golden["input/class_weights"].tolist()) if "input/class_weights" in golden else None,
    )
    made = network(file, dtype)
    terms = loss.to(dtype)(made(golden["input/image"].to(dtype)), golden["input/labels"])
    if terms.confidence is not None:
        terms.confidence = terms.confidence * loss.config.confidence_weight
    return made, terms


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("file", "kind"), cases("loss_"))
def test_losses_of_a_network(file, kind, dtype):
    _, terms = loss_of(file, kind.removeprefix("loss_"), dtype)
    got = {"s_i": terms.initial, "s_s": terms.seed, "s_f": terms.fused, "final": terms.total, "conf": terms.confidence}
    expected = parts(load(file), kind) | parts(load(file), "loss")
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name].item() == pytest.approx(float(value), rel=2e-5), name


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("file", "kind"), cases("grad_"))
def test_gradients_of_the_total_loss(file, kind, dtype):
    """To 0.2% of the norm: a ReLU whose input is nearly 0 may be on in one precision and off in the other."""
    made, terms = loss_of(file, kind.removeprefix("grad_"), dtype)
    terms.total.backward()
    for official, value in parts(load(file), kind).items():
        got = made.get_parameter(our_name(official)).grad
        assert (got - value).norm() <= 2e-3 * value.norm(), official


def loss_names(kind: str) -> list:
    found = [name for name in names("losses.safetensors") if name.startswith(kind)]
    return found or [pytest.param("", marks=ABSENT)]


def loss_inputs(dtype: torch.dtype) -> dict[str, Tensor]:
    golden = load("losses.safetensors")
    return {n: t.to(dtype) if t.is_floating_point() else t for n, t in golden.items()}


def loss_value(name: str, data: dict[str, Tensor]) -> Tensor:
    """The loss of that name (without `value/`), as the reference computes it."""
    labels, size = data["labels"], data["labels"].shape[-2:]
    if name.endswith("_all_ignored"):
        logits, labels = data["logits_full"], torch.full_like(labels, 255)
        return cross_entropy(logits, labels) if name.startswith("ce") else ohem_cross_entropy(logits, labels)
    if name.startswith("conf/"):
        resolution, _, mode = name.removeprefix("conf/").partition("_")
        confidence, offsets = (upsample(data[f"conf/{n}_{resolution}"], size, False) for n in ("f", "offset"))
        images = {"batch0only": slice(0, 1), "": slice(None), "gs_align_true": slice(None)}[mode]
        align_corners = mode == "gs_align_true"
        return reference_confidence_loss(confidence[images], offsets[images], labels[images], align_corners)

    kind, logits_name, weighted = name.split("/")
    stored, _, align = logits_name.partition("_align")
    align_corners = {"True": True, "False": False, "": True}[align]
    ohem = OHEM.match(kind.removeprefix("two_output_"))
    assert ohem or kind.removeprefix("two_output_") == "ce"
    loss = OVeNetLoss(
        reference_loss=True,
        ohem=bool(ohem),
        ohem_threshold=float(ohem[1]) if ohem else 0.9,
        ohem_min_kept=int(ohem[2]) if ohem else 0,
        class_weights={"cw": tuple(data["class_weights"].tolist()), "nw": None}[weighted],
    ).to(data["class_weights"])
    auxiliary = None
    if kind.startswith("two_output_"):
        auxiliary = upsample(data["aux_q"], data[stored].shape[-2:], align_corners)
    return loss.semantic(Logits(data[stored], auxiliary), labels, align_corners)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", loss_names("value/"))
def test_loss_values(name, dtype):
    data = loss_inputs(dtype)
    expected = float(data[name])
    if name.endswith("_all_ignored"):  # NaN in the reference, 0 here
        assert expected != expected
        expected = 0.0
    assert loss_value(name.removeprefix("value/"), data).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", loss_names("grad/"))
def test_loss_gradients(name, dtype):
    """With respect to the tensor that the name mentions."""
    data = loss_inputs(dtype)
    of, wrt = {
        "conf/f_q": ("conf/q", "conf/f_q"),
        "ohem_t0.9_k1000/logits_q_alignTrue/cw": ("ohem_t0.9_k1000/logits_q_alignTrue/cw", "logits_q"),
    }[name.removeprefix("grad/")]
    leaf = data[wrt] = data[wrt].clone().requires_grad_()
    loss_value(of, data).backward()
    torch.testing.assert_close(leaf.grad, data[name], rtol=1e-4, atol=1e-5 * float(data[name].abs().max()))


def test_every_tensor_of_the_loss_file_is_tested(shared):
    """Here by value and gradient; `coords…` and `conf/match_full` in test_resampling."""
    inputs = {"labels", "logits_q", "aux_q", "logits_full", "class_weights"}
    inputs |= {f"conf/{n}_{r}" for n in ("f", "offset") for r in ("q", "full")}
    elsewhere = {"coords_H4_W6", "conf/match_full"}
    assert {n for n in names("losses.safetensors") if not n.startswith(("value/", "grad/"))} == inputs | elsewhere


def test_scores(shared):
    """A class that is absent counts as 0 in the reference's means; here it is NaN and left out."""
    golden = load_file(shared / "golden" / "metrics.safetensors")
    assert torch.equal(golden["scores"].argmax(1), golden["pred"].long())
    scores = Scores(confusion_matrix(golden["pred"], golden["label"], 19))
    assert (scores.confusion == golden["confusion"].numpy()).all()
    iou, absent = torch.from_numpy(scores.iou), torch.from_numpy(scores.iou).isnan()
    torch.testing.assert_close(iou.nan_to_num(0), golden["iou"])
    assert absent.nonzero().flatten().tolist() == [18]
    assert scores.miou * int((~absent).sum()) / 19 == pytest.approx(float(golden["miou"]))
    assert scores.pixel_accuracy == pytest.approx(float(golden["pixel_acc"]))
    occurring = int((scores.confusion.sum(1) > 0).sum())
    assert scores.mean_accuracy * occurring / 19 == pytest.approx(float(golden["mean_acc"]))
