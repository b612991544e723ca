"""Experiments: overrides that are checked, a hash of all fields, differences in words, presets."""

import json
import subprocess
import sys
from dataclasses import asdict, fields, replace
from functools import partial

import pytest
import torch

from ovenet_core.data import CAMVID
from ovenet_core.training.config import Experiment
from ovenet_core.training.factory import build_network
from ovenet_core.training.presets import PRESETS, PROTOCOLS, TABLE_5, VARIANTS, preset, source
from ovenet_core.utils import ConfigError
from ovenet_core.weights import load_official, read_state

DEFAULT = Experiment()


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
    """Neither new fields nor checks of values may change them."""
    assert DEFAULT.config_hash == "44136fa355b3"
    assert Experiment(width=18, crop=(64, 128), tau=0.2).config_hash == "1b1751b2f7ee"


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


@pytest.mark.parametrize("name", [name for name in PRESETS if name.endswith("/ovenet")])
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


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_variants_of_table_5_are_its_rows_under_every_protocol(protocol):
    rows = [preset(f"{protocol}/{name}") for name in TABLE_5]
    ours = [(e.freeze_backbone, e.branch_stage, e.tau if e.branch_stage else None, e.ohem) for e in rows]
    assert ours == PRINTED
    assert all(f"Table 5, row {row}" in VARIANTS[name].source for row, name in enumerate(TABLE_5, 1))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_differs_from_ovenet_in_the_same_fields_under_every_protocol(name):
    variant = VARIANTS[name]
    for protocol in PROTOCOLS:
        ours, ovenet = asdict(preset(f"{protocol}/{name}")), asdict(preset(f"{protocol}/ovenet"))
        expected = set(variant.changes) | ({"init_from"} if variant.init_from else set())
        expected |= {"width"} if variant.width_factor != 1 else set()
        assert {field for field in ours if ours[field] != ovenet[field]} == expected


def test_the_wide_baseline_has_half_as_many_parameters_again():
    """They grow with the square of the width."""
    wide, narrow = preset("cityscapes/hrnet-wide").width, preset("cityscapes/hrnet").width
    assert (wide / narrow) ** 2 == pytest.approx(1.5, rel=0.02)


def test_the_protocols_are_those_of_the_paper():
    """Section 4.1 for Cityscapes and ACDC; ADE20K as the authors' code has it."""
    protocols = {name: preset(f"{name}/ovenet") for name in ("cityscapes", "acdc", "ade20k")}
    assert {name: e.crop for name, e in protocols.items()} == {
        "cityscapes": (512, 1024),
        "acdc": (540, 960),
        "ade20k": (520, 520),
    }
    assert [(e.epochs, e.learning_rate, e.weight_decay, e.width) for e in protocols.values()] == [
        (484, 0.01, 0.0005, 48),
        (484, 0.01, 0.0005, 48),
        (120, 0.02, 0.0001, 48),
    ]


def test_a_preset_says_where_it_comes_from():
    assert "Table 5, row 3" in source("cityscapes/ovenet-frozen")
    assert all(source(name) for name in PRESETS)


def test_the_frozen_variant_starts_from_the_baseline_of_its_protocol():
    assert preset("camvid/ovenet-frozen").init_from == "camvid/hrnet"


def test_every_preset_of_camvid_half_can_start_from_its_initial_weights(shared):
    """Also the wider network, which takes them for its first channels."""
    specs = {name: spec for name, spec in PRESETS.items() if name.startswith("camvid-half/") and spec.pretrained}
    assert len(specs) == len(VARIANTS)
    networks = {
        (s.pretrained, s.widen_pretrained, s.backbone, s.width, s.blocks, s.branch_stage): s for s in specs.values()
    }
    for spec in networks.values():
        state = read_state(shared / "weights" / spec.pretrained)
        with torch.device("meta"):  # initial values take time
            network = build_network(spec, CAMVID.num_classes)
        report = load_official(network.to_empty(device="cpu"), state, spec.pretrained, spec.widen_pretrained)
        assert len(report.loaded) == len(state) and "backbone" not in report.initial
        assert bool(report.widened) == (spec.width > 18)
