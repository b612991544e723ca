"""What only a GPU can show: the same numbers as on a CPU, every switch, and a whole run. Skipped without one."""

import copy

import numpy as np
import pytest
import torch

from ovenet_core.cross_entropy import ohem_cross_entropy
from ovenet_core.data.synthetic.writer import write_scenes
from ovenet_core.layers import normalise
from ovenet_core.losses import OVeNetLoss, confidence_loss
from ovenet_core.training import autocast, build_network, create_trainer, preset
from ovenet_core.utils import distributed

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
SIZE = (96, 128)


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """float32 arithmetic is that of a CPU, which a GPU's own kind of it (TF32) is not."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def batch(images: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    batches = torch.from_numpy(rng.integers(0, 256, (images, 3, *SIZE), dtype=np.uint8))
    labels = torch.from_numpy(rng.integers(0, 19, (images, SIZE[0] // 16, SIZE[1] // 16), dtype=np.uint8))
    labels = labels.repeat_interleave(16, 1).repeat_interleave(16, 2)
    labels[:, :8] = 255
    return batches, labels


def outputs(experiment, network, device):
    images, labels = (x.to(device) for x in batch())
    with autocast(experiment, torch.device(device)):
        prediction = network(normalise(images))
    return prediction, OVeNetLoss(experiment).to(device)(prediction, labels)


@pytest.mark.parametrize("backbone", ["hrnet", "hrnet_ocr"])
def test_a_gpu_computes_what_a_cpu_computes(backbone):
    torch.manual_seed(0)
    experiment = preset("synthetic/ovenet", backbone=backbone)
    network = build_network(experiment, 19).eval()  # dropout draws other numbers on a GPU
    there = copy.deepcopy(network).cuda()
    (here, loss), (on_gpu, loss_there) = outputs(experiment, network, "cpu"), outputs(experiment, there, "cuda")
    for name, tolerance in {"offsets": 1e-4, "confidence_logits": 1e-3}.items():
        torch.testing.assert_close(getattr(on_gpu, name).cpu(), getattr(here, name), atol=tolerance, rtol=0)
    for name, output in here.outputs().items():
        torch.testing.assert_close(on_gpu.outputs()[name].main.cpu(), output.main, atol=1e-3, rtol=0)
    assert dict(loss_there.items()) == pytest.approx(dict(loss.items()), abs=1e-3)


@pytest.mark.parametrize(
    "switches",
    [
        {"precision": "bfloat16"},
        {"channels_last": True},
        {"checkpointing": True},
        {"compile": True},
        {"precision": "bfloat16", "channels_last": True, "compile": True},
    ],
    ids=lambda s: "+".join(s),
)
def test_a_switch_changes_speed_and_memory_but_not_the_training(switches):
    """Loss and gradient of a step, beside those of plain float32."""
    torch.manual_seed(0)
    plain = preset("synthetic/ovenet", precision="float32", channels_last=False)
    experiment = plain.override(**switches)
    one = build_network(plain, 19).cuda().train()
    other = build_network(experiment, 19).cuda().train()
    other.load_state_dict(one.state_dict())
    losses = []
    for each, network in ((plain, one), (experiment, other)):
        step = torch.compile(network) if each.compile else network
        _, terms = outputs(each, step, "cuda")
        terms.total.backward()
        losses.append(float(terms.total.detach()))
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    mine, theirs = (torch.cat([p.grad.flatten() for p in n.parameters()]) for n in (one, other))
    assert float(torch.nn.functional.cosine_similarity(mine, theirs, dim=0)) > (0.98 if len(switches) == 1 else 0.95)


@pytest.mark.parametrize("kept", [100, 10_000, 10**7])
def test_losses_select_the_same_pixels(kept):
    rng = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(2, 19, *SIZE, generator=rng)
    labels = torch.randint(0, 19, (2, *SIZE), generator=rng)
    here = ohem_cross_entropy(logits, labels, threshold=1e-3, min_kept=kept)
    there = ohem_cross_entropy(logits.cuda(), labels.cuda(), threshold=1e-3, min_kept=kept)
    assert float(there) == pytest.approx(float(here), rel=1e-5)
    fields = torch.randn(2, 1, *SIZE, generator=rng), 0.2 * torch.randn(2, 2, *SIZE, generator=rng)
    here = confidence_loss(*fields, labels)
    assert float(confidence_loss(*(f.cuda() for f in fields), labels.cuda())) == pytest.approx(float(here), rel=1e-4)


def test_a_run_is_trained_interrupted_and_taken_up(tmp_path):
    root = write_scenes(tmp_path / "synthetic", split_sizes={"train": 8, "val": 2}, size=SIZE, progress=False)
    experiment = preset("synthetic-short/ovenet", crop=SIZE, epochs=4, precision="bfloat16", ohem_min_kept=1000)
    options = {"device": "cuda", "workers": 1, "progress": False}
    assert create_trainer(experiment, root, tmp_path / "run", **options).run(stop_after=3) is None
    result = create_trainer(experiment, root, tmp_path / "run", **options).run()
    assert result["hardware"] == torch.cuda.get_device_name() and result["peak_memory_gib"] > 0
    assert set(result["metrics"]) == {"S_i", "S_s", "S_f"}
    again = create_trainer(experiment, root, tmp_path / "run", **options)  # opened, it has the trained network
    scores = again.validate(again.network, lambda text: None)["S_f"].as_dict()
    assert scores["miou"] == pytest.approx(result["metrics"]["S_f"]["miou"], abs=0.02)
    assert distributed.world_size() == 1
