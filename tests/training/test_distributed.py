"""Several processes: shares of batches and losses that add up, the weights and scores of one process, survival."""

import os
import shutil
import subprocess
import sys
import traceback
from pathlib import Path

import cv2
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file

from ovenet_core.cross_entropy import IGNORE_INDEX, cross_entropy, ohem_cross_entropy
from ovenet_core.data import CITYSCAPES
from ovenet_core.data.loader import DistributedBatchSampler
from ovenet_core.data.synthetic.writer import write_scenes
from ovenet_core.evaluation.evaluate import evaluate
from ovenet_core.evaluation.inference import predict_classes
from ovenet_core.losses import OVeNetLoss
from ovenet_core.ovenet import Logits, Prediction
from ovenet_core.training.factory import create_trainer, load_trained
from ovenet_core.training.presets import preset
from ovenet_core.utils import ConfigError, distributed

ROOT = Path(__file__).parents[2]
TINY = preset(
    "synthetic/ovenet", crop=[64, 128], epochs=2, batch_size=4, validate_every=2, ohem_min_kept=2048, learning_rate=0.01
)
STILL = TINY.override(freeze_batchnorm=True)
# Without padding, whose pixels are ignored
PLAIN = STILL.override(ohem=False, confidence_loss=False, class_weights=None, scale_range=[1.0, 1.5])


class Pair:
    """Two processes that wait for functions to call together; starting them takes longer than most of the calls."""

    def __init__(self, store: Path):
        context = mp.get_context("spawn")
        self.tasks, self.results = [context.Queue() for _ in range(2)], [context.Queue() for _ in range(2)]
        self.children = [
            context.Process(target=_serve, args=(rank, store, self.tasks[rank], self.results[rank]))
            for rank in range(2)
        ]
        for child in self.children:
            child.start()

    def __call__(self, function, *arguments):
        """What the function returns in each process."""
        for queue in self.tasks:
            queue.put((function, arguments))
        found = [queue.get(timeout=300) for queue in self.results]
        for outcome in found:
            assert not isinstance(outcome, str), outcome
        return [value for (value,) in found]

    def end(self):
        for queue, child in zip(self.tasks, self.children, strict=True):
            queue.put(None)
            child.join()


def _serve(rank, store, tasks, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    while (task := tasks.get()) is not None:
        function, arguments = task
        try:
            results.put((function(*arguments),))
        except Exception:
            results.put(traceback.format_exc())
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    two = Pair(tmp_path_factory.mktemp("store") / "file")
    yield two
    two.end()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic")
    return write_scenes(folder, split_sizes={"train": 9, "val": 3}, size=(64, 128), progress=False)


@pytest.fixture(scope="module")
def labelled(scenes, tmp_path_factory):
    """The scenes with no pixel ignored."""
    root = shutil.copytree(scenes, tmp_path_factory.mktemp("labelled") / "synthetic")
    for path in root.glob("gtFine/*/*/*_labelIds.png"):
        ids = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        ids[CITYSCAPES.lookup[ids] == IGNORE_INDEX] = 7  # road
        cv2.imwrite(str(path), ids)
    return root


# -- Batches


@pytest.mark.parametrize(("count", "micro"), [(1, 2), (2, None), (2, 1), (4, None), (2, 2), (3, None), (1, 3), (3, 2)])
def test_processes_share_the_batches_of_one(count, micro):
    whole = list(DistributedBatchSampler(17, 4, 2, seed=3))
    shares = [
        DistributedBatchSampler(17, 4, 2, seed=3, rank=r, processes=count, micro_batch_size=micro) for r in range(count)
    ]
    parts, steps = [[*share] for share in shares], shares[0].accumulation_steps
    assert {len(part) for part in parts} == {len(whole) * steps} == {len(share) for share in shares}
    for iteration, batch in enumerate(whole):
        seen = [[keys for part in parts for keys in part[iteration * steps + step]] for step in range(steps)]
        assert sorted(key for keys in seen for key in keys) == sorted(batch)
        assert [len(keys) / 4 for keys in seen] == shares[-1].weights
    assert all(1 <= len(keys) <= (micro or 4) for part in parts for keys in part)


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_shares_differ_by_one_image_at_most(count):
    sizes = [len(next(iter(DistributedBatchSampler(20, 12, 1, seed=0, rank=r, processes=count)))) for r in range(count)]
    assert sum(sizes) == 12 and max(sizes) - min(sizes) <= 1


def test_a_share_continues_where_it_stopped():
    options = {"seed": 3, "rank": 1, "processes": 2, "micro_batch_size": 1}
    whole = list(DistributedBatchSampler(17, 4, 2, **options))
    assert list(DistributedBatchSampler(17, 4, 2, **options, start=3)) == whole[6:]


@pytest.mark.parametrize(("count", "micro"), [(5, None), (3, 1)])
def test_a_batch_of_which_a_process_would_see_nothing_is_refused(count, micro):
    with pytest.raises(ConfigError) as caught:
        DistributedBatchSampler(17, 4, 2, seed=0, processes=count, micro_batch_size=micro)
    assert caught.value.where == "batch_size" and f"{count} processes" in str(caught.value)


# -- Losses


def images() -> tuple[Prediction, torch.Tensor]:
    """Four images of which one is nearly all ignored, so that means of shares are not shares of the mean."""
    torch.manual_seed(0)
    logits = [torch.randn(4, 5, 6, 8, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    offsets, confidence = 0.3 * torch.randn(4, 2, 6, 8).double(), torch.randn(4, 1, 6, 8).double()
    labels = torch.randint(0, 5, (4, 24, 32), dtype=torch.uint8)
    labels[3, 1:] = 255
    names = ("initial", "seed", "fused")
    maps = {name: Logits(x) for name, x in zip(names, logits, strict=True)}
    prediction = Prediction(**maps, offsets=offsets, confidence_logits=confidence.requires_grad_())
    return prediction, labels


def share_of_loss(ohem, fields):
    prediction, labels = images()
    count = len(labels) // distributed.world_size()
    mine = slice(distributed.rank() * count, (distributed.rank() + 1) * count)
    loss = OVeNetLoss(ohem=ohem, ohem_threshold=0.4, class_weights=(1.0, 2.0, 0.5, 1.5, 3.0), **fields)
    terms = loss.double()(prediction.of_images(mine), labels[mine])
    terms.total.backward()
    leaves = [*(o.main for o in prediction.outputs().values()), prediction.confidence_logits]
    return dict(terms.items()), [leaf.grad for leaf in leaves]


@pytest.mark.parametrize(
    ("ohem", "fields"),
    [
        (False, {}),
        (True, {"ohem_min_kept": 10}),
        (True, {"ohem_min_kept": 1800}),
        (True, {"ohem_min_kept_per_image": 450}),
        (True, {"ohem_min_kept_per_image": 500, "images_counted_together": 2}),
        (True, {"ohem_min_kept_per_image": 500, "images_counted_together": 1}),
        (True, {"ohem_min_kept": 900, "images_counted_together": 2, "reference_loss": True}),
        (False, {"reference_loss": True, "confidence_weight": 2.0}),
    ],
    ids=["plain", "hard", "selected", "per image", "pairs", "alone", "reference pairs", "reference"],
)
def test_shares_of_losses_and_gradients_add_up(ohem, fields, pair):
    """In `selected` the limit is a probability that has to be found among the pixels of both processes."""
    whole, gradients = share_of_loss(ohem, fields)
    shares = pair(share_of_loss, ohem, fields)
    for name, value in whole.items():
        assert sum(terms[name] for terms, _ in shares) == pytest.approx(value, rel=1e-12)
    for index, gradient in enumerate(gradients):
        assert torch.allclose(sum(g[index] for _, g in shares), gradient, rtol=1e-10, atol=1e-15)


def loss_without_labels(loss):
    logits = torch.zeros(1, 3, 4, 4, requires_grad=True)
    labels = torch.full((1, 4, 4), 255 if distributed.rank() == 0 else 1, dtype=torch.uint8)
    value = loss(logits, labels)
    value.backward()
    return float(value), bool(logits.grad.isfinite().all())


@pytest.mark.parametrize("loss", [cross_entropy, ohem_cross_entropy])
def test_a_process_without_valid_pixels_has_no_share(loss, pair):
    (nothing, finite), (everything, _) = pair(loss_without_labels, loss)
    assert nothing == 0 and finite
    assert everything == pytest.approx(float(torch.tensor(3.0).log()))


# -- Scores


def scores_of(samples):
    def read(sample):
        label = CITYSCAPES.read_label(sample)
        wrong = (label + len(sample.name) + int(sample.name[-1])) % 19
        return {"S_i": wrong.astype("uint8")}

    return {
        name: e.as_dict() | {"images": [p.as_dict() for p in e.images]}
        for name, e in evaluate(CITYSCAPES, samples, read, workers=1, progress=False).items()
    }


def test_scores_are_those_of_one_process(scenes, pair):
    samples = CITYSCAPES.samples(scenes, "val")
    first, second = pair(scores_of, samples)
    assert first == second == scores_of(samples)


# -- Training


def train(spec, scenes, folder, **options):
    return create_trainer(spec, scenes, folder, device="cpu", progress=False, **options).run()


def differences(one: Path, other: Path) -> float:
    """The largest difference between two checkpoints."""
    a, b = load_file(one / "checkpoint.safetensors"), load_file(other / "checkpoint.safetensors")
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


def test_two_processes_give_the_weights_and_scores_of_one(scenes, pair, tmp_path):
    one = train(STILL, scenes, tmp_path / "one")
    two = pair(train, STILL, scenes, tmp_path / "two")
    assert differences(tmp_path / "one", tmp_path / "two") < 1e-5
    assert two[0] == two[1] and two[0]["processes"] == 2
    assert two[0]["metrics"]["S_f"]["miou"] == pytest.approx(one["metrics"]["S_f"]["miou"], abs=2e-3)


def test_scores_are_those_of_the_checkpoint_where_each_process_has_its_own_statistics(scenes, pair, tmp_path):
    """On processors batch-norm is not synchronised; the first process's statistics are kept, and scored."""
    first, second = pair(train, TINY, scenes, tmp_path / "two")
    assert first == second
    _, network = load_trained(tmp_path / "two")

    def read(sample):
        return predict_classes(network, CITYSCAPES.read_image(sample))

    again = evaluate(CITYSCAPES, CITYSCAPES.samples(scenes, "val"), read, boundaries=False, workers=1, progress=False)
    assert first["metrics"] == {name: evaluation.as_dict() for name, evaluation in again.items()}


def test_accumulated_gradients_are_those_of_the_whole_batch(labelled, pair, tmp_path):
    """Where no pixel is ignored, in the mean over the images; else each part has its own mean."""
    for spec in (PLAIN, PLAIN.override(micro_batch_size=2)):
        train(spec, labelled, tmp_path / str(spec.micro_batch_size))
    pair(train, PLAIN.override(micro_batch_size=1), labelled, tmp_path / "two")
    assert differences(tmp_path / "None", tmp_path / "2") < 1e-5
    assert differences(tmp_path / "None", tmp_path / "two") < 1e-5


def test_shares_and_parts_of_unequal_size_give_the_weights_of_the_whole_batch(labelled, pair, tmp_path):
    """Of a batch of five one process sees two and one image, the other one and one."""
    spec = PLAIN.override(batch_size=5)
    train(spec, labelled, tmp_path / "one")
    train(spec.override(micro_batch_size=3), labelled, tmp_path / "parts")
    pair(train, spec.override(micro_batch_size=2), labelled, tmp_path / "two")
    assert differences(tmp_path / "one", tmp_path / "parts") < 1e-5
    assert differences(tmp_path / "one", tmp_path / "two") < 1e-5


# -- torchrun, and survival


def command_line(processes_, restarts, *arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes_}"]
    command += [f"--max-restarts={restarts}", *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)


DYING = """
from pathlib import Path
from ovenet_core.training import launch
from ovenet_core.utils import rank
create = launch.create_trainer
def create_dying(*arguments, **options):
    trainer, marker = create(*arguments, **options), Path({marker!r})
    forward = trainer.loss.forward
    def dying(prediction, labels):
        if rank() == 0:
            with open({steps!r}, "a") as file:
                print(trainer.state.iteration, file=file)
        if trainer.state.iteration == 2 and rank() == 1 and not marker.exists():
            marker.touch()
            raise RuntimeError("this one dies first")
        return forward(prediction, labels)
    trainer.loss.forward = dying
    return trainer
launch.create_trainer = create_dying
launch.main()
"""


def test_a_process_that_dies_ends_the_others_and_a_restart_goes_on(scenes, tmp_path):
    program = tmp_path / "dying.py"
    steps = tmp_path / "steps.txt"
    program.write_text(DYING.format(marker=str(tmp_path / "marker"), steps=str(steps)))
    fields = [
        f"--set={name}={value}"
        for name, value in {
            "benchmark": "cityscapes",
            "crop": [64, 128],
            "epochs": 1,
            "batch_size": 2,
            "validate_every": 1,
        }.items()
    ]
    done = command_line(
        2,
        1,
        str(program),
        "acdc/ovenet",
        *fields,
        "--set=pretrained=''",
        "--set=width=8",
        "--set=blocks=1",
        f"--data-root={scenes}",
        f"--run-folder={tmp_path / 'run'}",
        "--snapshot-every=1",
        "--device=cpu",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "this one dies first" in done.stderr
    others = [done.stderr.find(sign) for sign in ("Connection closed", "Connection reset")]
    assert all(place == -1 or done.stderr.find("this one dies first") < place for place in others)
    taken = [int(step) for step in steps.read_text().split()]
    assert taken.count(0) == 1 and taken == sorted(taken) and len(set(taken)) == taken[-1] + 1  # from the snapshot on
    assert (tmp_path / "run/result.json").exists()


@pytest.mark.parametrize(("count", "kills"), [(1, 14), (2, 8)])
def test_killed_at_random_moments_it_has_the_weights_of_a_run_that_never_stopped(count, kills):
    command = [sys.executable, "tests/stress/survival.py", f"--kills={kills}", f"--processes={count}"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f'"kills": {kills}' in done.stdout
