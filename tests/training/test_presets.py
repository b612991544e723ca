"""Experiments: overrides that are checked, a hash of all fields, differences in words, presets."""

import json
import subprocess
import sys
from dataclasses import asdict, fields, replace
from functools import partial

import pytest
import torch

from ovenet_core.data import CAMVID, CITYSCAPES
from ovenet_core.training.config import Experiment
from ovenet_core.training.factory import build_network
from ovenet_core.training.initial_values import widen
from ovenet_core.training.presets import (
    CHOICES,
    PRESETS,
    PROTOCOLS,
    SYSTEMS,
    TABLE_5,
    VARIANTS,
    preset,
    source,
    sources,
)
from ovenet_core.utils import ConfigError, read_state
from ovenet_core.weights import load_official

DEFAULT = Experiment()
PAPER = ("cityscapes", "cityscapes-trainval", "acdc", "ade20k")


OTHER = {  # where it cannot be made up
    "class_weights": (1.0, 2.0),
    "image_size": (180, 240),
    "align_corners": True,
    "micro_batch_size": 2,
    "backbone": "hrnet_ocr",
    "branch_stage": 3,
    "precision": "bfloat16",
    "ohem_threshold": 0.5,
    "momentum": 0.5,
    "batchnorm_momentum": 0.5,
    "initial_values": "authors",
    "ohem_min_kept_per_image": 100,
    "images_counted_together": 2,
    "scale_step": 0.5,
    "base_size": 640,
    "padding": "black",
    "test_size": (512, 512),
}


def as_json(experiment: Experiment) -> dict:
    """As results store it: tuples are lists."""
    return json.loads(json.dumps(asdict(experiment)))


def other_value(field: str):
    """A value that the field may have, but not by default."""
    value = getattr(DEFAULT, field)
    if field in OTHER:
        return OTHER[field]
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        return (*value[:-1], value[-1] + 1)
    return f"{value}x" if isinstance(value, str) else value + 1


# Overrides


@pytest.mark.parametrize(
    ("field", "given", "expected"),
    [
        ("crop", [64, 128], (64, 128)),  # papermill passes lists
        ("scale_range", [1, 2], (1.0, 2.0)),
        ("image_size", [180, 240], (180, 240)),
        ("image_size", None, None),
        ("class_weights", [1, 0.5, 2], (1.0, 0.5, 2.0)),
        ("class_weights", None, None),
        ("tau", 1, 1.0),
        ("branch_stage", 3, 3),
        ("branch_stage", None, None),
        ("align_corners", True, True),
        ("backbone", "hrnet_ocr", "hrnet_ocr"),
        ("flip", False, False),
    ],
)
def test_override_converts_to_the_type_of_the_field(field, given, expected):
    value = getattr(DEFAULT.override(**{field: given}), field)
    assert value == expected and type(value) is type(expected)
    if isinstance(expected, tuple):
        assert list(map(type, value)) == list(map(type, expected))


def test_override_changes_a_copy():
    changed = DEFAULT.override(width=18, tau=0.25)
    assert (changed.width, changed.tau) == (18, 0.25)
    assert (DEFAULT.width, DEFAULT.tau) == (48, 0.5)
    assert {f.name for f in fields(Experiment) if getattr(changed, f.name) != getattr(DEFAULT, f.name)} == {
        "width",
        "tau",
    }


@pytest.mark.parametrize(
    ("wrong", "right"), [("learning_rte", "learning_rate"), ("lambda", "lambda_"), ("batchsize", "batch_size")]
)
def test_unknown_field_is_refused_with_the_nearest_name(wrong, right):
    with pytest.raises(ConfigError) as caught:
        DEFAULT.override(**{wrong: 1})
    assert (caught.value.where, caught.value.expected) == (wrong, repr(right))


def test_unknown_field_unlike_any_is_refused_with_all_names():
    with pytest.raises(ConfigError) as caught:
        DEFAULT.override(qqq=1)
    assert caught.value.where == "qqq" and all(f.name in caught.value.expected for f in fields(Experiment))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("width", 18.0),
        ("width", "18"),
        ("width", True),
        ("width", None),
        ("tau", "0.5"),
        ("tau", True),
        ("flip", 1),
        ("flip", "false"),
        ("benchmark", 3),
        ("benchmark", None),
        ("crop", 512),
        ("crop", [512]),
        ("crop", [512, 1024, 3]),
        ("crop", [512.0, 1024.0]),
        ("crop", "ab"),
        ("scale_range", ["0.5", "2"]),
        ("class_weights", 1.0),
        ("class_weights", ["1"]),
        ("branch_stage", "4"),
    ],
    ids=str,
)
def test_value_of_the_wrong_type_is_refused_by_name(field, value):
    with pytest.raises(ConfigError) as caught:
        DEFAULT.override(**{field: value})
    assert caught.value.where.split("[")[0] == field and caught.value.found and caught.value.expected


@pytest.mark.parametrize(("text", "value"), [("1e-3", 0.001), ("1.5E-2", 0.015), ("+2e0", 2.0)])
def test_a_power_of_ten_that_yaml_takes_for_text_is_a_number(text, value):
    assert DEFAULT.override(learning_rate=text).learning_rate == value
    assert DEFAULT.override(scale_range=["5e-1", 2]).scale_range == (0.5, 2.0)


def test_a_refused_size_says_what_a_size_is():
    with pytest.raises(ConfigError) as caught:
        DEFAULT.override(crop=64)
    assert (caught.value.where, caught.value.found) == ("crop", "64")
    assert caught.value.expected == "tuple[int, int]"


def test_refused_override_of_a_part_says_which():
    with pytest.raises(ConfigError) as caught:
        DEFAULT.override(crop=[512, "1024"])
    assert (caught.value.where, caught.value.found) == ("crop[1]", "'1024'")
    assert caught.value.expected == "integer"


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        *[
            (field, 0, "1 or more")
            for field in ("width", "blocks", "epochs", "batch_size", "micro_batch_size", "validate_every")
        ],
        ("epochs", -1, "1 or more"),
        ("crop[0]", (0, 512), "1 or more"),
        ("image_size[1]", (180, -1), "1 or more"),
        ("refinement_steps", -1, "0 or more"),
        ("ohem_min_kept", -1, "0 or more"),
        ("ohem_threshold", 90.0, "at most 1"),
        ("momentum", 1.5, "at most 1"),
        ("learning_rate", float("nan"), "a finite number"),
        ("learning_rate", float("inf"), "a finite number"),
        ("weight_decay", -0.1, "0 or more"),
        ("loss_weight", -1.0, "0 or more"),
        ("class_weights[1]", (1.0, float("nan")), "a finite number"),
        ("tau", 0.0, "above 0"),
        ("tau", 2.5, "at most 2"),
        ("tau", float("nan"), "a finite number"),
        ("scale_range[0]", (0.0, 2.0), "above 0"),
        ("scale_range", (2.0, 0.5), "the smaller factor first"),
        ("precision", "fp16", "one of 'float32' or 'bfloat16'"),
        ("precision", "float16", "one of 'float32' or 'bfloat16'"),
        ("backbone", "resnet", "one of 'hrnet' or 'hrnet_ocr'"),
        ("branch_stage", 5, "one of 4, 3, 2 or None"),
    ],
    ids=str,
)
@pytest.mark.parametrize("make", [DEFAULT.override, partial(replace, DEFAULT), Experiment], ids=["o", "r", "new"])
def test_value_that_no_run_can_have_is_refused_by_name(make, field, value, expected):
    name, *index = field.removesuffix("]").split("[")
    with pytest.raises(ConfigError) as caught:
        make(**{name: value})
    wrong = value[int(index[0])] if index else value
    assert (caught.value.where, caught.value.found) == (field, repr(wrong))
    assert caught.value.expected == expected


@pytest.mark.parametrize(
    "change",
    [
        *[
            {name: 0.0}
            for name in (
                "kappa",
                "lambda_",
                "auxiliary_weight",
                "loss_weight",
                "weight_decay",
                "momentum",
                "learning_rate",
                "poly_power",
                "ohem_threshold",
            )
        ],
        {"ohem_min_kept": 0},
        {"refinement_steps": 0},
        {"class_weights": (0.0, 1.0)},
        {"scale_range": (1.0, 1.0)},
        {"tau": 2.0},
        {"branch_stage": None},
        {"micro_batch_size": None},
        {"ohem_threshold": 1.0},
    ],
    ids=str,
)
def test_values_at_the_ends_of_their_ranges_are_accepted(change):
    assert asdict(DEFAULT.override(**change)) == asdict(DEFAULT) | change


# The hash


@pytest.mark.parametrize("field", [f.name for f in fields(Experiment)])
def test_hash_differs_with_any_field(field):
    changed = replace(DEFAULT, **{field: other_value(field)})
    assert changed.config_hash != DEFAULT.config_hash


def test_hashes_are_those_of_earlier_runs():
    """Neither new fields nor checks of values may change them, nor a default that has changed since."""
    assert DEFAULT.override(channels_last=False).config_hash == "44136fa355b3"
    before = Experiment(width=18, crop=(64, 128), tau=0.2, channels_last=False)
    assert before.config_hash == "1b1751b2f7ee"
    assert preset("camvid-half/hrnet").config_hash == "7a85f42563f9"


def test_hash_is_twelve_hexadecimal_digits():
    assert len(DEFAULT.config_hash) == 12 and int(DEFAULT.config_hash, 16) >= 0


def test_equal_experiments_have_equal_hashes():
    assert Experiment(width=18).config_hash == DEFAULT.override(width=18).config_hash


def test_hash_is_the_same_in_another_process():
    """It stands in snapshots and results."""
    code = "from ovenet_core.training import preset; print(preset('synthetic/ovenet').config_hash)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == preset("synthetic/ovenet").config_hash


@pytest.mark.parametrize("name", PRESETS)
def test_experiment_comes_back_from_its_json(name):
    """With the hash that it had: lists become tuples again."""
    experiment = PRESETS[name]
    again = Experiment.from_json(as_json(experiment))
    assert again == experiment and again.config_hash == experiment.config_hash


# Differences


def test_differences_name_the_field_and_both_values():
    stored = json.loads(json.dumps(asdict(DEFAULT.override(width=18, crop=(64, 64)))))
    assert DEFAULT.differences(stored) == ["width: 48, 18", "crop: [512, 1024], [64, 64]"]


def test_no_differences_from_itself():
    assert DEFAULT.differences(as_json(DEFAULT)) == []


def test_differences_name_fields_that_no_longer_exist():
    stored = as_json(DEFAULT) | {"colour": "red"}
    assert DEFAULT.differences(stored) == ["colour: None, 'red'"]


def test_a_field_that_did_not_exist_yet_has_its_default():
    """Results stay comparable when an experiment gets a new field."""
    stored = as_json(DEFAULT)
    del stored["loss_weight"]
    assert DEFAULT.differences(stored) == []
    assert Experiment.from_json(stored) == DEFAULT
    assert DEFAULT.override(loss_weight=2.0).differences(stored) == ["loss_weight: 2.0, 1.0"]


# Presets


@pytest.mark.parametrize("name", PRESETS)
def test_preset_by_name(name):
    assert preset(name) is not None and preset(name) == PRESETS[name]


def test_preset_with_changes():
    assert preset("synthetic/ovenet", epochs=2) == PRESETS["synthetic/ovenet"].override(epochs=2)


def test_unknown_preset_is_refused_with_the_nearest_and_all_names():
    with pytest.raises(ConfigError) as caught:
        preset("synthetic/ovnet")
    assert (caught.value.where, caught.value.found) == ("experiment", "'synthetic/ovnet'")
    assert caught.value.expected == "'synthetic/ovenet'"
    assert all(name in caught.value.fix for name in [*PROTOCOLS, *VARIANTS])


def test_unknown_preset_unlike_any_is_refused():
    with pytest.raises(ConfigError) as caught:
        preset("qqq")
    assert caught.value.expected == "PROTOCOL/VARIANT"
    assert all(name in caught.value.fix for name in [*PROTOCOLS, *VARIANTS])


def test_preset_refuses_a_change_that_does_not_exist():
    with pytest.raises(ConfigError) as caught:
        preset("synthetic/ovenet", epoch=3)
    assert (caught.value.where, caught.value.expected) == ("epoch", "'epochs'")


WHOLE = [name for name, protocol in PROTOCOLS.items() if not protocol.only]  # they have every variant of ours
COMMON = [name for name, variant in VARIANTS.items() if not variant.of_authors]


@pytest.mark.parametrize("name", [f"{protocol}/ovenet" for protocol in WHOLE])
def test_baseline_differs_from_its_ovenet_by_the_offset_branch_alone(name):
    """Both systems of a comparison are trained alike."""
    baseline = preset(name.replace("/ovenet", "/hrnet"))
    assert baseline.override(branch_stage=preset(name).branch_stage) == preset(name)


# Table 5: Fr, Br, tau, OHEM as printed; the baseline has no branch
PRINTED = [
    (False, None, None, True),
    (False, 4, 0.5, True),
    (True, 4, 0.5, True),
    (False, 4, 1.0, True),
    (False, 4, 0.2, True),
    (False, 4, 0.2, False),
    (False, 3, 0.2, True),
]


@pytest.mark.parametrize("protocol", WHOLE)
def test_variants_of_table_5_are_its_rows_under_every_protocol(protocol):
    rows = [preset(f"{protocol}/{name}") for name in TABLE_5]
    ours = [(e.freeze_backbone, e.branch_stage, e.tau if e.branch_stage else None, e.ohem) for e in rows]
    assert ours == PRINTED
    assert all(f"Table 5, row {row}" in VARIANTS[name].source for row, name in enumerate(TABLE_5, 1))


@pytest.mark.parametrize("name", COMMON)
def test_a_variant_differs_from_ovenet_in_the_same_fields_under_every_protocol(name):
    """But for what the authors' code has otherwise with OCR, and for a frozen backbone, where the paper is silent."""
    variant = VARIANTS[name]
    silent = {"batch_size", "batchnorm_momentum"} if "backbone" in variant.changes else set()
    silent |= {"frozen_in_training_mode"} if variant.init_from else set()
    for protocol in WHOLE:
        ours, ovenet = asdict(preset(f"{protocol}/{name}")), asdict(preset(f"{protocol}/ovenet"))
        expected = set(variant.changes) | ({"init_from"} if variant.init_from else set())
        expected |= {"width"} if variant.width_factor != 1 else set()
        differing = {field for field in ours if ours[field] != ovenet[field]}
        assert differing >= expected
        assert differing - expected <= (silent if protocol in PAPER else set())


def test_the_wide_baseline_has_half_as_many_parameters_again():
    """They grow with the square of the width."""
    wide, narrow = preset("cityscapes/hrnet-wide").width, preset("cityscapes/hrnet").width
    assert (wide / narrow) ** 2 == pytest.approx(1.5, rel=0.02)


def test_the_protocols_are_those_of_the_paper():
    """Section 4.1, for all datasets alike; ADE20K's crop, of which it is silent, as in the authors' code."""
    protocols = {name: preset(f"{name}/ovenet") for name in ("cityscapes", "acdc", "ade20k")}
    assert {name: e.crop for name, e in protocols.items()} == {
        "cityscapes": (512, 1024),
        "acdc": (540, 960),
        "ade20k": (520, 520),
    }
    assert [(e.epochs, e.learning_rate, e.weight_decay, e.width) for e in protocols.values()] == [
        (484, 0.01, 0.0005, 48)
    ] * 3


# The first table of the facts about the authors' code, and rows of the second: preset, then pretrained, init_from, tau,
# OHEM, crop, base size, images per process, processes, epochs, rate, weight decay, train split.
IMAGENET = "hrnetv2_w48_imagenet_pretrained.pth"
CITY, ADVERSE, ADE = ((512, 1024), 2048), ((540, 960), 1920), ((520, 520), 520)
LONG, SHORT, TUNED = (484, 0.01, 0.0005), (120, 0.02, 0.0001), (60, 0.0001, 0.0005)
PUBLISHED = {
    "cityscapes-authors/ovenet": (IMAGENET, "", 0.5, True, *CITY, 2, 4, *LONG, "train"),
    "acdc-authors/ovenet-frozen": (
        "initial_final_state.pth", "acdc_final_state.pth", 0.5, True, *ADVERSE, 2, 4, *LONG, "train",
    ),
    "cityscapes-authors/ovenet-ocr": (IMAGENET, "", 0.2, False, *CITY, 2, 5, *LONG, "trainval"),
    "acdc-authors/ovenet-ocr": (IMAGENET, "", 0.2, False, *ADVERSE, 2, 5, *LONG, "train"),
    "acdc-authors/ovenet-ocr-frozen": (IMAGENET, "acdc_hrnet_ocr.pth", 0.2, False, *ADVERSE, 2, 5, *LONG, "train"),
    "ade20k-authors/ovenet-ocr": (IMAGENET, "", 0.2, True, *ADE, 2, 4, *SHORT, "train"),
    "ade20k-authors/ovenet-ocr-frozen": (
        "HRNet_W48_C_ssld_pretrained.pth", "original_paddle.pth", 0.2, True, *ADE, 2, 4, *SHORT, "train",
    ),
    "cityscapes-authors/hrnet": (IMAGENET, "", None, True, *CITY, 3, 4, *LONG, "train"),
    "acdc-authors/hrnet": (IMAGENET, "", None, True, *ADVERSE, 3, 4, *LONG, "train"),
    "ade20k-authors/hrnet": (IMAGENET, "", None, True, *ADE, 4, 4, *SHORT, "train"),
    "acdc-authors/hrnet-fine-tuned": ("hrnet_cs_8090_torch11.pth", "", None, True, *ADVERSE, 3, 2, *TUNED, "train"),
    "cityscapes-authors/hrnet-ocr": (IMAGENET, "", None, False, *CITY, 3, 4, *LONG, "trainval"),
    "acdc-authors/hrnet-ocr": (IMAGENET, "", None, False, *ADVERSE, 2, 5, *LONG, "train"),
    "ade20k-authors/hrnet-ocr": (IMAGENET, "", None, True, *ADE, 2, 4, *SHORT, "train"),
}  # fmt: skip


def test_every_published_configuration_is_a_preset():
    assert {name for name in PRESETS if "-authors/" in name} == PUBLISHED.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_presets_of_the_authors_are_the_published_configurations(name):
    e = preset(name)
    start, init_from, tau, ohem, crop, base, images, processes, epochs, rate, decay, split = PUBLISHED[name]
    assert (e.pretrained, e.init_from, e.freeze_backbone) == (start, init_from, bool(init_from))
    assert (e.branch_stage is None) == (tau is None) and (tau is None or (e.tau, e.branch_stage) == (tau, 4))
    assert (e.ohem, e.crop, e.base_size) == (ohem, crop, base)
    assert (e.batch_size, e.images_counted_together) == (images * processes, images)
    assert (e.epochs, e.learning_rate, e.weight_decay, e.train_split, e.val_split) == (
        epochs,
        rate,
        decay,
        split,
        "val",
    )
    kept = e.ohem_min_kept if e.ohem_min_kept_per_image is None else e.ohem_min_kept_per_image * images
    assert (e.ohem_threshold, kept) == (0.9, 131072)
    assert e.batchnorm_momentum == (0.1 if "ocr" in name else 0.01)
    assert e.scale_range == ((0.5, 1.6) if name == "ade20k-authors/hrnet" else (0.5, 2.1))
    assert (e.scale_step, e.resize_first, e.padding, e.flip, e.poly_delay) == (0.1, True, "black", True, 1)
    assert (e.initial_values, e.reference_loss, e.seed_align_corners) == ("authors", True, True)
    assert (e.kappa, e.lambda_, e.confidence_weight, e.auxiliary_weight, e.momentum) == (0.5, 0.5, 2.0, 0.4, 0.9)
    assert e.frozen_in_training_mode == e.freeze_backbone
    assert e.image_size == (520 if e.benchmark == "ade20k" else None)
    weights = None if e.benchmark == "ade20k" else CITYSCAPES.class_weights
    assert (e.class_weights, e.refinement_steps, e.precision) == (weights, 0, "float32")


@pytest.mark.parametrize("name", [f"{protocol}/{system}" for protocol in PAPER for system in SYSTEMS])
def test_the_paper_goes_first_and_the_authors_code_where_it_is_silent(name):
    e, dataset = preset(name), name.split("-")[0].split("/")[0]
    assert (e.tau, e.kappa, e.lambda_, e.confidence_weight, e.ohem) == (0.5, 0.5, 0.5, 1.0, True)  # section 4.1
    assert (e.scale_range, e.flip, e.momentum, e.poly_power) == ((0.5, 2.0), True, 0.9, 0.9)
    authors = preset(f"{dataset}-authors/{'ovenet-ocr' if dataset == 'ade20k' else 'hrnet'}")
    for field in ("scale_step", "padding", "initial_values", "poly_delay", "base_size", "image_size", "class_weights"):
        assert getattr(e, field) == getattr(authors, field), field
    assert (e.ohem_min_kept_per_image, e.images_counted_together) == (65536, 2)
    assert e.batchnorm_momentum == (0.1 if "ocr" in name else 0.01)
    assert e.batch_size == (10 if "ocr" in name and dataset != "ade20k" else 8)


@pytest.mark.parametrize("name", PRESETS)
def test_every_field_of_every_preset_has_a_source(name):
    told = sources(name)
    assert told.keys() == {field.name for field in fields(Experiment)} and all(told.values())
    changed = {field for field, value in asdict(PRESETS[name]).items() if value != getattr(DEFAULT, field)}
    assert changed <= CHOICES[name].keys()  # what differs from the default has its own


def test_a_preset_says_where_it_comes_from():
    assert "Table 5, row 3" in source("cityscapes/ovenet-frozen")
    assert all(source(name) for name in PRESETS)


def test_the_frozen_variant_starts_from_the_baseline_of_its_protocol():
    assert preset("camvid/ovenet-frozen").init_from == "camvid/hrnet"


def test_every_preset_of_camvid_half_can_start_from_its_initial_weights(shared):
    """Also the wider network, which takes them for its first channels."""
    specs = {name: spec for name, spec in PRESETS.items() if name.startswith("camvid-half/") and spec.pretrained}
    assert len(specs) == len(COMMON)
    networks = {
        (s.pretrained, s.widen_pretrained, s.backbone, s.width, s.blocks, s.branch_stage): s for s in specs.values()
    }
    for spec in networks.values():
        state = read_state(shared / "weights" / spec.pretrained)
        with torch.device("meta"):  # initial values take time
            network = build_network(spec, CAMVID.num_classes)
        widened, count = widen(state, network.to_empty(device="cpu"))
        assert bool(count) == (spec.width > 18) == spec.widen_pretrained
        report = load_official(network, widened, spec.pretrained)
        assert len(report.loaded) == len(state) and "backbone" not in report.initial
