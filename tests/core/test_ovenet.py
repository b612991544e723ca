"""The assembled networks: sizes, named outputs, gradient flow, freezing, checkpointing and precision."""

import copy
import pickle
import subprocess
import sys
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ovenet_core import NetworkConfig, OVeNet, OVeNetLoss, Prediction, build, ovenet
from ovenet_core.fusion import fuse
from ovenet_core.ovenet import BACKBONES, Logits
from ovenet_core.resampling import refine, resample, seed_positions
from ovenet_core.utils import ConfigError

# backbone, offset branch; parameters and GFLOP of one 512x1024 image, for W48 and 19 classes
SYSTEMS = {
    ("hrnet", None): (65_859_379, 373.76),
    ("hrnet_ocr", None): (70_372_678, 648.95),
    ("hrnet", 4): (98_795_926, 504.15),
    ("hrnet_ocr", 4): (103_309_225, 779.34),
    ("hrnet_ocr", 3): (114_976_777, 884.55),
    ("hrnet_ocr", 2): (116_186_953, 917.92),
}
each_system = pytest.mark.parametrize(("backbone", "branch"), SYSTEMS, ids=str)
each_backbone = pytest.mark.parametrize("backbone", BACKBONES)
OVENETS = [system for system in SYSTEMS if system[1] is not None]
CLASSES = 5


@cache
def full_size(backbone: str, branch: int | None) -> OVeNet:
    with torch.device("meta"):
        return build(backbone=backbone, branch_stage=branch)


def narrow(backbone: str = "hrnet", branch: int | None = 4, **options) -> OVeNet:
    """A network of width 8 in float64, with weights large enough for outputs that matter."""
    torch.manual_seed(0)
    options = {"width": 8, "blocks": 1, "ocr_channels": 32, "ocr_key_channels": 16} | options
    network = build(CLASSES, backbone=backbone, branch_stage=branch, **options)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
    return network.double()


def image(*size: int) -> Tensor:
    return torch.randn(*(size or (2, 3, 64, 64)), generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def labels() -> Tensor:
    drawn = torch.randint(0, CLASSES, (2, 64, 64), generator=torch.Generator().manual_seed(2))
    drawn[:, :5] = 255
    return drawn


def output_layer(network: OVeNet) -> Tensor:
    """Weights of the offset head's last layer: rows dx, dy, F."""
    return network.offset_head.head.output.weight


@each_system
def test_number_of_parameters(backbone, branch):
    assert sum(p.numel() for p in full_size(backbone, branch).parameters()) == SYSTEMS[backbone, branch][0]


@each_system
def test_operations_of_one_image(backbone, branch):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        full_size(backbone, branch).eval()(torch.empty(1, 3, 512, 1024, device="meta"))
    assert counter.get_total_flops() / 1e9 == pytest.approx(SYSTEMS[backbone, branch][1], rel=0.01)


@each_system
def test_outputs_are_named_and_at_a_quarter_of_the_resolution(backbone, branch):
    prediction = narrow(backbone, branch).eval()(image(2, 3, 70, 90))
    assert list(prediction.outputs()) == (["S_i"] if branch is None else ["S_i", "S_s", "S_f"])
    for logits in prediction.outputs().values():
        assert logits.main.shape == (2, CLASSES, 18, 23)
        assert (logits.auxiliary is not None) == (backbone == "hrnet_ocr")
        assert logits.auxiliary is None or logits.auxiliary.shape == logits.main.shape
    if branch is not None:
        assert prediction.offsets.shape == (2, 2, 18, 23)
        assert prediction.confidence.shape == (2, 1, 18, 23)


def test_baseline_has_the_initial_prediction_alone():
    prediction = narrow(branch=None).eval()(image())
    assert prediction.final is prediction.initial
    assert prediction.seed is prediction.fused is prediction.offsets is prediction.confidence is None


def test_final_prediction_is_the_fused_one():
    prediction = narrow().eval()(image())
    assert prediction.final is prediction.fused


def test_config_and_single_fields_give_the_same_network():
    """Fields win over the config that they are given with."""
    fields = {"width": 8, "blocks": 1, "tau": 0.2, "branch_stage": 3, "refinement_steps": 1}
    torch.manual_seed(0)
    by_config = build(CLASSES, NetworkConfig(**fields)).eval()
    torch.manual_seed(0)
    by_fields = build(CLASSES, NetworkConfig(tau=2.0, width=8, blocks=1), **fields).eval()
    outputs = [network(image().float()) for network in (by_config, by_fields)]
    assert by_config.config == by_fields.config and torch.equal(*(prediction.offsets for prediction in outputs))


def test_modules_per_stage_are_arguments():
    network = narrow(branch=3, backbone_modules={2: 1, 3: 1, 4: 2}, offset_modules={3: 2, 4: 1})
    for part, modules in ((network.backbone, {2: 1, 3: 1, 4: 2}), (network.offset_head, {3: 2, 4: 1})):
        assert {int(n): len(stage.blocks) for n, stage in part.stages.items()} == modules


@pytest.mark.parametrize("branch", [4, 3, 2])
def test_offset_branch_has_its_own_stages_from_the_branching_point_on(branch):
    """Of 1, 3 and 2 modules in stages 2, 3 and 4."""
    stages = narrow(branch=branch).offset_head.stages
    modules = {2: 1, 3: 3, 4: 2}
    assert {int(n): len(s.blocks) for n, s in stages.items()} == {n: modules[n] for n in range(branch, 5)}


@pytest.mark.parametrize("branch", [4, 3, 2])
def test_offset_head_sees_the_backbone_up_to_the_stage_before_it(branch):
    """Gradients of the offsets reach stage `branch - 1` of the backbone and not the stages from `branch` on."""
    network = narrow(branch=branch).eval()
    network(image()).offsets.square().sum().backward()
    stage1, stages = network.backbone.stage1, network.backbone.stages
    reached = {1: stage1, **{int(n): s for n, s in stages.items()}}
    got = {n: any(p.grad is not None and p.grad.any() for p in part.parameters()) for n, part in reached.items()}
    assert got == {n: n < branch for n in (1, 2, 3, 4)}


@pytest.mark.parametrize("tau", [0.2, 0.5])
def test_offsets_stay_within_tau_and_confidence_within_zero_and_one(tau):
    network = narrow(tau=tau)
    with torch.no_grad():
        output_layer(network).mul_(50)
    prediction = network(image())
    assert 0.99 * tau < prediction.offsets.abs().max() <= tau
    assert prediction.confidence.min() < 0.01 and prediction.confidence.max() > 0.99
    assert prediction.confidence.min() >= 0 and prediction.confidence.max() <= 1


@each_backbone
@pytest.mark.parametrize(("steps", "corners"), [(0, True), (1, True), (2, True), (0, False), (1, False)])
def test_seed_and_fused_predictions_are_equations_2_and_4(backbone, steps, corners):
    """Of the main and the auxiliary logits, with the same offsets and the same confidence."""
    network = narrow(backbone, refinement_steps=steps, seed_align_corners=corners).eval()
    prediction = network(image())
    head_offsets, confidence_logits = network.offset_head(network.backbone(image())[3])
    confidence = confidence_logits.sigmoid()
    offsets = refine(head_offsets, steps, align_corners=corners)
    assert torch.equal(prediction.offsets, offsets) and torch.equal(prediction.confidence, confidence)
    seeds = seed_positions(offsets, align_corners=corners)
    for output in ("main", "auxiliary") if backbone == "hrnet_ocr" else ("main",):
        initial, seed, fused = (getattr(x, output) for x in (prediction.initial, prediction.seed, prediction.fused))
        torch.testing.assert_close(seed, resample(initial, seeds, align_corners=corners))
        torch.testing.assert_close(fused, fuse(initial, seed, confidence))
        assert (seed - initial).abs().max() > 0.01


@each_backbone
def test_zero_offsets_give_one_prediction_three_times(backbone):
    network = narrow(backbone).eval()
    nn.init.zeros_(output_layer(network))
    prediction = network(image())
    for output in (prediction.seed, prediction.fused):
        torch.testing.assert_close(output.main, prediction.initial.main, rtol=0, atol=1e-11)


def test_gradient_reaches_the_offsets_through_the_seed_prediction():
    network = narrow()
    network(image()).seed.main.square().sum().backward()
    dx, dy, f = output_layer(network).grad
    assert dx.any() and dy.any() and not f.any()


def test_gradient_reaches_offsets_and_confidence_through_the_fused_prediction():
    network = narrow()
    network(image()).fused.main.square().sum().backward()
    assert all(row.any() for row in output_layer(network).grad)


def test_gradient_of_the_initial_prediction_leaves_the_offset_head_alone():
    network = narrow()
    network(image()).initial.main.square().sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in network.offset_head.parameters())


@pytest.mark.parametrize("reference", [False, True])
def test_confidence_loss_trains_the_confidence_and_not_the_offsets(reference):
    network = narrow()
    OVeNetLoss(reference_loss=reference).confidence(network(image()), labels()).backward()
    dx, dy, f = output_layer(network).grad
    assert f.any() and not dx.any() and not dy.any()


def train_one_step(network: OVeNet) -> dict[str, Tensor]:
    """The network's state before a step of SGD with weight decay, which would move whatever it is given."""
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    OVeNetLoss(ohem=False)(network(image()), labels()).total.backward()
    optimizer.step()
    return before


@each_backbone
def test_frozen_backbone_and_semantic_head_stand_still(backbone):
    """Parameters and batch-norm statistics, bit for bit, also in training mode."""
    network = narrow(backbone, freeze_backbone=True)
    before = train_one_step(network)
    for name, value in network.state_dict().items():
        if name.startswith(("backbone.", "semantic_head.")):
            assert torch.equal(value, before[name]), name


def test_offset_head_learns_next_to_a_frozen_backbone():
    network = narrow(freeze_backbone=True)
    before = train_one_step(network)
    head = {name: value for name, value in network.state_dict().items() if name.startswith("offset_head.")}
    still = [name for name, value in head.items() if torch.equal(value, before[name])]
    assert not still


def test_everything_learns_when_nothing_is_frozen():
    network = narrow()
    before = train_one_step(network)
    still = [name for name, value in network.state_dict().items() if torch.equal(value, before[name])]
    assert not still


def passes(backbone: str, checkpointing: bool) -> tuple[OVeNet, list[float]]:
    """The network and its losses after two forward and backward passes in training mode."""
    network = narrow(backbone, checkpointing=checkpointing).train()
    losses = []
    for seed in range(2):
        torch.manual_seed(seed)  # dropout
        total = OVeNetLoss(ohem=False)(network(image() + seed), labels()).total
        total.backward()
        losses.append(total.item())
    return network, losses


@each_backbone
def test_output_layers_begin_near_zero(backbone):
    """Weights N(0, 0.001) and biases 0: the first offsets are short, the first confidence is one half."""
    network = build(backbone=backbone, width=8, blocks=1)
    head = network.semantic_head
    outputs = [
        network.offset_head.head.output,
        *([head.classifier, head.auxiliary.output] if backbone == "hrnet_ocr" else [head.classifier.output]),
    ]
    assert torch.cat([layer.weight.flatten() for layer in outputs]).std().item() == pytest.approx(0.001, rel=0.2)
    assert all((layer.bias == 0).all() for layer in outputs)
    prediction = network(image().float())
    assert prediction.offsets.abs().max() < 0.1 and (prediction.confidence - 0.5).abs().max() < 0.1


def test_hidden_layers_begin_with_the_scale_of_their_inputs():
    """Uniform up to 1 / sqrt(number of inputs): what a batch-norm follows takes steps of the usual size."""
    hidden = build(width=18, blocks=1).semantic_head.classifier.hidden.conv
    assert hidden.weight.abs().max().item() == pytest.approx((15 * 18) ** -0.5, rel=0.01)


def test_gradients_can_be_taken_twice():
    """With the graph retained: what is computed again in a backward pass can be computed again in the next."""
    network = narrow("hrnet").train()
    total = network(image()).fused.main.square().sum()
    first, second = (
        torch.autograd.grad(total, network.backbone.stem.conv1.weight, retain_graph=True) for _ in range(2)
    )
    torch.testing.assert_close(first, second)


def assert_same_gradients_and_statistics(one: nn.Module, other: nn.Module) -> None:
    gradients, statistics = {name: p.grad for name, p in other.named_parameters()}, dict(other.named_buffers())
    for name, parameter in one.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-9, atol=1e-12, msg=lambda m, n=name: n + m)
    for name, value in one.named_buffers():
        torch.testing.assert_close(value, statistics[name], rtol=1e-12, atol=0, msg=lambda m, n=name: n + m)


@each_backbone
@pytest.mark.parametrize("checkpointing", [False, True])
def test_computing_activations_again_changes_nothing(backbone, checkpointing, monkeypatch):
    """Loss, gradients, running statistics and their counts as with every activation kept; momenta are as before.

    Also without `checkpointing` some cheap layers are computed again in the backward pass.
    """
    network, losses = passes(backbone, checkpointing)
    monkeypatch.setattr(ovenet, "recompute_activations", lambda network, methods: None)
    plain, plain_losses = passes(backbone, False)
    assert losses == pytest.approx(plain_losses, rel=1e-12)
    assert_same_gradients_and_statistics(network, plain)
    assert {m.momentum for m in network.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}


def test_synchronised_batch_norm_is_computed_again_as_well(monkeypatch):
    """What several GPUs have in place of batch-norm; in one process it computes the same."""
    torch.manual_seed(0)
    network = narrow("hrnet").train()
    other = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(network))
    assert any(isinstance(m, nn.SyncBatchNorm) for m in other.modules())
    for one in (network, other):
        OVeNetLoss(ohem=False)(one(image()), labels()).total.backward()
    assert_same_gradients_and_statistics(other, network)


@each_backbone
def test_recomputing_keeps_fewer_activations(backbone, monkeypatch):
    """Bytes that autograd keeps between forward and backward pass: cheap layers recomputed, all of them, none."""
    kept = {}
    for checkpointing in (False, True, None):
        storages = {}
        if checkpointing is None:
            monkeypatch.setattr(ovenet, "recompute_activations", lambda network, methods: None)

        def note(x: Tensor, storages: dict = storages) -> Tensor:
            storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        network = narrow(backbone, checkpointing=bool(checkpointing)).train()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            prediction = network(image())
        parameters = {p.untyped_storage().data_ptr() for p in network.parameters()}
        kept[checkpointing] = sum(size for pointer, size in storages.items() if pointer not in parameters)
        del prediction
    assert kept[True] < 0.6 * kept[False] and kept[False] < 0.85 * kept[None]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_a_copy_of_a_network_recomputes_its_own_activations(duplicate):
    """And not those of the original, whose weights are others by then."""
    network = narrow(checkpointing=True).train()
    other = duplicate(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(torch.nan)
    OVeNetLoss(ohem=False)(other(image()), labels()).total.backward()
    assert all(parameter.grad.isfinite().all() for parameter in other.parameters())


ONE_GRAPH = """
import sys, torch, ovenet_core
options = {"width": 8, "blocks": 1, "ocr_channels": 32, "ocr_key_channels": 16, "checkpointing": True}
network = ovenet_core.build(5, backbone=sys.argv[1], **options).eval()
image = torch.rand(1, 3, 64, 64)
compiled = torch.compile(network, fullgraph=True, backend="eager")
torch.testing.assert_close(compiled(image).final.main, network(image).final.main)
"""


@each_backbone
def test_the_whole_network_compiles_into_one_graph(backbone):
    """In a process of its own: what checks shapes here cannot be compiled."""
    subprocess.run([sys.executable, "-c", ONE_GRAPH, backbone], check=True)


@each_backbone
@pytest.mark.parametrize("checkpointing", [False, True])
def test_outputs_and_gradients_are_float32_under_autocast(backbone, checkpointing):
    """From the output layers on, in a bfloat16 autocast on the CPU."""
    network = narrow(backbone, checkpointing=checkpointing).float().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network.backbone(image().float())[4][0].dtype == torch.bfloat16
        prediction = network(image().float())
    tensors = [x for logits in prediction.outputs().values() for x in vars(logits).values() if x is not None]
    assert {x.dtype for x in [*tensors, prediction.offsets, prediction.confidence]} == {torch.float32}
    OVeNetLoss()(prediction, labels()).total.backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in network.parameters())


@each_backbone
def test_batchnorm_momentum_is_that_of_every_batchnorm(backbone):
    for momentum in (0.1, 0.01):
        network = build(CLASSES, backbone=backbone, width=8, blocks=1, batchnorm_momentum=momentum)
        assert {m.momentum for m in network.modules() if isinstance(m, nn.BatchNorm2d)} == {momentum}


@each_backbone
def test_statistics_of_a_frozen_backbone_move_in_training_mode_and_its_weights_do_not(backbone):
    network = narrow(backbone, freeze_backbone=True, frozen_in_training_mode=True)
    before = train_one_step(network)
    for name, value in network.state_dict().items():
        moved = name.endswith(("running_mean", "running_var", "num_batches_tracked")) or name.startswith("offset_head.")
        if value.numel() > 8:
            assert torch.equal(value, before[name]) != moved, name
    assert network.training and network.backbone.training and network.semantic_head.training


@pytest.mark.parametrize("channels_last", [True, False])
def test_the_weights_memory_format_is_that_of_the_maps(channels_last):
    network, formats = build(CLASSES, width=8, blocks=1, channels_last=channels_last).eval(), []
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(
                lambda m, i, out: formats.append(out.is_contiguous(memory_format=torch.channels_last))
            )
    network(image().float())
    assert set(formats) == {channels_last}


def test_offsets_under_autocast_are_finer_than_bfloat16():
    """The output layer itself computes in float32: its results are not the 8 bits of a bfloat16, cast."""
    network = narrow().float().eval()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        prediction = network(image().float())
    unsaturated = prediction.offsets[prediction.offsets.abs() < 0.49]  # tanh rounds to 1 above
    assert len(unsaturated) > 100
    for x in (prediction.initial.main, unsaturated):
        assert (x.bfloat16().float() != x).float().mean() > 0.9


@pytest.mark.parametrize(
    ("argument", "value"),
    [("backbone", "resnet"), ("branch_stage", 1), ("branch_stage", 5), ("tau", 0.0), ("tau", -0.5), ("tau", 2.1)],
)
def test_build_names_the_argument_that_is_out_of_range(argument, value):
    with torch.device("meta"), pytest.raises(ConfigError) as caught:
        build(**{"width": 8, "blocks": 1, argument: value})
    assert caught.value.where == argument and str(value) in caught.value.found and caught.value.expected


def test_build_names_a_field_that_does_not_exist():
    with pytest.raises(ConfigError) as caught:
        build(branch_stag=3)
    assert caught.value.where == "branch_stag" and "branch_stage" in caught.value.expected


def test_frozen_baseline_is_refused():
    with torch.device("meta"), pytest.raises(ConfigError) as caught:
        build(width=8, blocks=1, branch_stage=None, freeze_backbone=True)
    assert caught.value.where == "freeze_backbone" and "branch_stage" in caught.value.fix


@each_backbone
def test_default_resize_convention_is_that_of_the_reference(backbone):
    """Corner-aligned with OCR, not without."""
    network = narrow(backbone)
    assert network.backbone.align_corners == (backbone == "hrnet_ocr")
    assert network.eval()(image()).align_corners == (backbone == "hrnet_ocr")


def test_fused_probabilities_are_normalised_log_probabilities():
    prediction = narrow(fuse_probabilities=True).eval()(image())
    for logits in prediction.outputs().values():
        total = logits.main.exp().sum(1)
        torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)


def test_fused_probabilities_are_equation_4_of_the_softmaxes():
    prediction = narrow(fuse_probabilities=True).eval()(image())
    logits = narrow().eval()(image()).initial.main
    initial = logits.softmax(1)
    seed = resample(initial, seed_positions(prediction.offsets))
    torch.testing.assert_close(prediction.initial.main.exp(), initial)
    torch.testing.assert_close(prediction.seed.main.exp(), seed)
    torch.testing.assert_close(prediction.fused.main.exp(), fuse(initial, seed, prediction.confidence))


def test_auxiliary_output_stays_logits_when_probabilities_are_fused():
    auxiliary = [
        narrow("hrnet_ocr", fuse_probabilities=switch).eval()(image()).fused.auxiliary for switch in (False, True)
    ]
    torch.testing.assert_close(*auxiliary)


def test_gradient_of_a_probability_of_zero_is_finite():
    """A class that is impossible everywhere: its logarithm stays finite, and so does its gradient."""
    network = narrow(fuse_probabilities=True)
    initial = torch.zeros(1, 2, 4, 4, dtype=torch.float64)
    initial[:, 1] = -1e6
    initial.requires_grad_()
    offsets, confidence_logits = torch.zeros(1, 2, 4, 4).double(), torch.zeros(1, 1, 4, 4).double()
    prediction = network.resample_and_fuse(Logits(initial), offsets, confidence_logits)
    prediction.fused.main.sum().backward()
    assert prediction.fused.main.isfinite().all() and initial.grad.isfinite().all()


@pytest.mark.parametrize(("align_corners", "expected"), [(True, [0, 1 / 3, 2 / 3, 1]), (False, [0, 0.25, 0.75, 1])])
def test_upsampling_uses_the_networks_convention(align_corners, expected):
    logits = torch.tensor([[[[0.0, 1.0]]]])
    prediction = Prediction(Logits(logits), align_corners=align_corners)
    torch.testing.assert_close(prediction.upsample(logits, (1, 4)), torch.tensor([[[expected]]]))


def test_importing_leaves_the_garbage_collector_alone():
    code = "import gc; import ovenet_core; print(gc.isenabled(), gc.get_freeze_count())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split() == ["True", "0"]
