"""Training: exact continuation, refusal of foreign snapshots, divergence, results."""

import errno
import json
import resource
import shutil
import signal
import subprocess
from contextlib import contextmanager, suppress
from dataclasses import asdict

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from ovenet_core.data import DistributedBatchSampler, TrainingDataset, get_dataset
from ovenet_core.data.synthetic.writer import write_scenes
from ovenet_core.evaluation import evaluate, predict_classes
from ovenet_core.training.factory import build_network, create_trainer
from ovenet_core.training.presets import preset
from ovenet_core.training.trainer import DivergedError
from ovenet_core.utils import (
    ConfigError,
    DataError,
    RunError,
    SnapshotError,
    WeightsError,
    WriteError,
    read_state,
    write_atomically,
)
from ovenet_core.weights import load_network

TINY = preset(
    "synthetic/ovenet", crop=[64, 128], epochs=2, batch_size=2, validate_every=2, ohem_min_kept=2048, learning_rate=0.01
)
OCR = TINY.override(backbone="hrnet_ocr")  # its dropout draws from torch's random state


# Stages of one module each: most of the time of a network this small goes into their number.
ONE_MODULE = {2: 1, 3: 1, 4: 1}
SHALLOW = {"backbone_modules": ONE_MODULE, "offset_modules": ONE_MODULE}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic")
    return write_scenes(folder, split_sizes={"train": 7, "val": 2}, size=(64, 128), progress=False)


def trainer(scenes, folder, experiment=TINY, **options):
    return create_trainer(experiment, scenes, folder, device="cpu", progress=False, network_options=SHALLOW, **options)


@pytest.fixture(scope="module")
def finished(scenes, tmp_path_factory):
    """The folder and result of a run that never stopped."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, trainer(scenes, folder).run()


def weights_of(folder):
    return load_file(folder / "checkpoint.safetensors")


def assert_same_weights(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("stops", [[1], [2], [3], [4], [1, 2, 4, 5]])
def test_a_stopped_run_continues_bit_for_bit(scenes, finished, tmp_path, stops):
    for stop in stops:
        assert trainer(scenes, tmp_path).run(stop_after=stop) is None
    result = trainer(scenes, tmp_path).run()
    assert_same_weights(weights_of(tmp_path), weights_of(finished[0]))
    assert result["metrics"] == finished[1]["metrics"]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "history.csv"), pd.read_csv(finished[0] / "history.csv"))


def test_a_run_interrupted_at_its_very_end_is_finished(scenes, finished, tmp_path, monkeypatch):
    """After the last snapshot, while the data are fingerprinted."""

    def interrupt(samples):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ovenet_core.training.trainer.fingerprint", interrupt)
        with pytest.raises(KeyboardInterrupt):
            trainer(scenes, tmp_path).run()
    assert trainer(scenes, tmp_path).run()["metrics"] == finished[1]["metrics"]


@pytest.mark.parametrize("place", ["validate", "loss.forward", "optimizer.step", "scheduler.step"])
@pytest.mark.parametrize("stop", [None, 2])
def test_a_run_that_was_interrupted_anywhere_goes_on_when_called_again(
    scenes, finished, tmp_path, monkeypatch, place, stop
):
    """As in a notebook whose cell is stopped and run again; half of a step or of a validation leaves no trace."""
    run = trainer(scenes, tmp_path, snapshot_every=1 if stop else None)
    if stop:
        run.run(stop_after=stop)
    *owner, name = place.split(".")
    target = getattr(run, owner[0]) if owner else run
    real = getattr(target, name)

    def interrupted(*arguments):
        real(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(target, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            run.run()
    assert run.run()["metrics"] == finished[1]["metrics"]
    assert_same_weights(weights_of(tmp_path), weights_of(finished[0]))
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "history.csv"), pd.read_csv(finished[0] / "history.csv"))


@pytest.mark.parametrize("name", ["best.safetensors", "checkpoint.safetensors", "history.csv", "snapshot.pt"])
def test_a_run_that_was_interrupted_while_it_wrote_a_file_goes_on(scenes, finished, tmp_path, monkeypatch, name):
    run = trainer(scenes, tmp_path)
    real = write_atomically

    def interrupted(path, *arguments, **options):
        real(path, *arguments, **options)
        if path.name == name:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ovenet_core.training.trainer.write_atomically", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run.run()
    assert run.run()["metrics"] == finished[1]["metrics"]
    assert_same_weights(weights_of(tmp_path), weights_of(finished[0]))


def test_a_trainer_goes_on_from_what_another_has_reached_since_it_was_made(scenes, finished, tmp_path):
    early, late = trainer(scenes, tmp_path), trainer(scenes, tmp_path)
    steps = []
    for run in (early, late):
        run.optimizer.register_step_post_hook(lambda *_, run=run: steps.append(run.state.iteration))
    assert early.run(stop_after=4) is None
    assert late.run(stop_after=5) is None
    assert early.run()["metrics"] == late.run()["metrics"] == finished[1]["metrics"]
    assert steps == [*range(6)]
    assert_same_weights(weights_of(tmp_path), weights_of(finished[0]))


def test_a_run_that_another_finishes_while_this_one_waits_is_not_repeated(scenes, finished, tmp_path, monkeypatch):
    waiting = trainer(scenes, tmp_path)

    @contextmanager
    def lock(folder):
        monkeypatch.undo()
        trainer(scenes, tmp_path).run()
        yield

    monkeypatch.setattr("ovenet_core.training.trainer.run_folder_lock", lock)
    assert waiting.run()["metrics"] == finished[1]["metrics"]
    assert waiting.state.iteration == 0


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_in_which_no_pixel_has_a_class_is_refused_before_training(scenes, tmp_path, split):
    root = shutil.copytree(scenes, tmp_path / "synthetic")
    for path in root.glob(f"gtFine/{split}/*/*_labelIds.png"):
        assert cv2.imwrite(str(path), np.zeros((64, 128), np.uint8))  # unlabelled
    with pytest.raises(DataError) as caught:
        trainer(root, tmp_path / "run")
    assert caught.value.where == f"{split}_split" and f"{split!r}, where no pixel" in caught.value.found


def test_a_run_that_is_done_has_the_trained_network(scenes, finished):
    network = trainer(scenes, finished[0]).network.state_dict()
    assert_same_weights(dict(network), weights_of(finished[0]))


def test_a_refused_folder_is_left_as_it_is(scenes, finished):
    before = (finished[0] / "config.json").read_bytes()
    with pytest.raises(SnapshotError) as caught:
        trainer(scenes, finished[0], TINY.override(learning_rate=0.5))
    assert caught.value.where == finished[0] / "result.json" and "learning_rate: 0.5, 0.01" in caught.value.found
    assert (finished[0] / "config.json").read_bytes() == before


def test_continuation_restores_the_random_state_of_dropout(scenes, tmp_path):
    trainer(scenes, tmp_path / "whole", OCR).run()
    trainer(scenes, tmp_path / "parts", OCR).run(stop_after=2)
    torch.rand(17)
    trainer(scenes, tmp_path / "parts", OCR).run()
    assert_same_weights(weights_of(tmp_path / "whole"), weights_of(tmp_path / "parts"))


def test_the_outcome_does_not_depend_on_the_workers(scenes, finished, tmp_path):
    trainer(scenes, tmp_path, workers=2).run()
    assert_same_weights(weights_of(tmp_path), weights_of(finished[0]))


def test_another_seed_gives_other_weights(scenes, finished, tmp_path):
    trainer(scenes, tmp_path, seed=1).run()
    ours, theirs = weights_of(tmp_path), weights_of(finished[0])
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_snapshot_of_another_configuration_is_refused_with_both_named(scenes, tmp_path):
    trainer(scenes, tmp_path).run(stop_after=1)
    other = TINY.override(tau=0.2)
    with pytest.raises(SnapshotError) as caught:
        trainer(scenes, tmp_path, other)
    assert caught.value.where == tmp_path / "snapshot.pt"
    assert "tau: 0.2, 0.5" in caught.value.found and TINY.config_hash in caught.value.found
    assert other.config_hash in caught.value.expected


def test_a_snapshot_of_another_seed_is_refused(scenes, tmp_path):
    trainer(scenes, tmp_path).run(stop_after=1)
    with pytest.raises(SnapshotError) as caught:
        trainer(scenes, tmp_path, seed=3)
    assert "seed: 3, 0" in caught.value.found


def test_a_damaged_snapshot_is_refused_by_name(scenes, tmp_path):
    (tmp_path / "snapshot.pt").write_bytes(b"not a snapshot")
    with pytest.raises(SnapshotError) as caught:
        trainer(scenes, tmp_path)
    assert caught.value.where == tmp_path / "snapshot.pt"


@pytest.mark.parametrize(
    "content",
    [{}, {"model": {}}, [1], torch.zeros(2), {"seed": 0, "experiment": {}}],
    ids=["empty", "other keys", "list", "tensor", "no hash"],
)
def test_a_snapshot_of_something_else_is_refused_by_name(scenes, tmp_path, content):
    torch.save(content, tmp_path / "snapshot.pt")
    with pytest.raises(SnapshotError) as caught:
        trainer(scenes, tmp_path)
    assert (caught.value.where, caught.value.found) == (tmp_path / "snapshot.pt", "something else")


@pytest.mark.parametrize("name", ["network", "optimizer", "scheduler", "iteration", "history", "commits", "images"])
def test_a_snapshot_without_a_part_is_refused_by_name(scenes, tmp_path, name):
    trainer(scenes, tmp_path).run(stop_after=1)
    state = torch.load(tmp_path / "snapshot.pt", weights_only=True)
    del state[name]
    torch.save(state, tmp_path / "snapshot.pt")
    with pytest.raises(SnapshotError) as caught:
        trainer(scenes, tmp_path)
    assert (caught.value.where, caught.value.found) == (tmp_path / "snapshot.pt", repr(name))


def test_all_commits_that_trained_a_run_are_in_its_result(scenes, tmp_path, monkeypatch):
    for commit, stop in (("b", 1), ("c", 2), ("b", 3)):
        monkeypatch.setattr("ovenet_core.training.trainer.commit", lambda commit=commit: commit)
        trainer(scenes, tmp_path).run(stop_after=stop)
    monkeypatch.setattr("ovenet_core.training.trainer.commit", lambda: "a")
    result = trainer(scenes, tmp_path).run()
    assert result["commit"] == "a" and result["commits"] == ["a", "b", "c"]


def test_a_snapshot_of_other_images_is_refused_with_both_counts(scenes, tmp_path):
    data = shutil.copytree(scenes, tmp_path / "data")
    trainer(data, tmp_path / "run").run(stop_after=2)
    for kind in ("leftImg8bit", "gtFine"):
        for path in sorted((data / kind / "train").glob("*/*_000003_*")):
            path.unlink()
    with pytest.raises(SnapshotError) as caught:
        trainer(data, tmp_path / "run")
    assert "7 images of train" in caught.value.found and "6 images of train" in caught.value.expected


def test_a_result_that_is_not_whole_is_refused_by_name(scenes, tmp_path):
    (tmp_path / "result.json").write_text('{"seed": 0, "met')
    with pytest.raises(SnapshotError) as caught:
        trainer(scenes, tmp_path)
    assert caught.value.where == tmp_path / "result.json"


def test_a_run_of_one_commit_has_no_list_of_commits(finished):
    assert "commits" not in finished[1]


def test_a_finished_run_is_not_repeated(scenes, finished):
    folder, result = finished
    before = (folder / "result.json").stat().st_mtime_ns
    assert trainer(scenes, folder).run() == result
    assert (folder / "result.json").stat().st_mtime_ns == before


def test_a_finished_run_of_another_configuration_is_refused(scenes, finished, tmp_path):
    (tmp_path / "result.json").write_text((finished[0] / "result.json").read_text())
    with pytest.raises(SnapshotError) as caught:
        trainer(scenes, tmp_path, TINY.override(tau=1.0)).run()
    assert "tau: 1.0, 0.5" in caught.value.found


def test_a_loss_that_is_not_finite_stops_with_the_names_and_keeps_the_snapshot(scenes, tmp_path, monkeypatch):
    run = trainer(scenes, tmp_path, snapshot_every=1)
    forward = run.loss.forward

    def poisoned(prediction, labels):
        terms = forward(prediction, labels)
        if run.state.iteration == 2:
            terms.total = terms.total * float("nan")
        return terms

    monkeypatch.setattr(run.loss, "forward", poisoned)
    names = [run.samples["train"][index].name for _, index in list(run.batches)[2]]
    with pytest.raises(DivergedError) as error:
        run.run()
    assert all(name in error.value.where for name in names)
    assert torch.load(tmp_path / "snapshot.pt", weights_only=True)["iteration"] == 2
    assert trainer(scenes, tmp_path).state.iteration == 2


def test_a_gradient_that_is_not_finite_stops_before_the_weights_are_changed(scenes, tmp_path):
    run = trainer(scenes, tmp_path, snapshot_every=1)
    run.run(stop_after=2)
    weight = run.network.semantic_head.classifier.output.weight
    weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(DivergedError) as error:
        run.run()
    assert "norm of the gradient" in error.value.found
    assert "iteration 2" in error.value.where and "street" in error.value.where
    assert weight.isfinite().all()
    assert torch.load(tmp_path / "snapshot.pt", weights_only=True)["iteration"] == 2


@pytest.mark.parametrize("part", ["backbone.stem.conv1", "semantic_head.classifier.output", "offset_head.head.output"])
@pytest.mark.parametrize("confidence_loss", [False, True])
def test_a_weight_that_is_not_finite_stops_with_the_names(scenes, tmp_path, part, confidence_loss):
    """At once, also where it reaches nothing but an offset, at which the backward pass of torch crashes."""
    run = trainer(scenes, tmp_path, TINY.override(confidence_loss=confidence_loss))
    with torch.no_grad():
        run.network.get_submodule(part).weight[0] = float("nan")
    names = [run.samples["train"][index].name for _, index in next(iter(run.batches))]
    with pytest.raises(DivergedError) as error:
        run.run()
    assert all(name in error.value.where for name in names) and run.state.iteration == 0


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail(file):
        file.write("ne")
        raise OSError("disk full")

    with pytest.raises(WriteError) as caught:
        write_atomically(path, fail)
    assert caught.value.where == path and "disk full" in caught.value.found
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_result_scores_all_three_predictions_and_names_its_origin(finished):
    folder, result = finished
    assert result == json.loads((folder / "result.json").read_text())
    assert list(result["metrics"]) == ["S_i", "S_s", "S_f"]
    for scores in result["metrics"].values():
        assert len(scores["iou"]) == 19
    assert result["config_hash"] == TINY.config_hash
    assert result["experiment"] == json.loads(json.dumps(asdict(TINY)))
    missing = {"seed", "versions", "hardware", "duration_seconds", "commit", "data_fingerprint"} - result.keys()
    assert not missing


def test_the_checkpoint_gives_the_scores_of_the_result(scenes, finished):
    folder, result = finished
    data = get_dataset("cityscapes")
    network = build_network(TINY, 19, **SHALLOW)
    load_network(network, read_state(folder / "checkpoint.safetensors"), "checkpoint")
    samples = data.samples(scenes, "val")

    def read(sample):
        return predict_classes(network, data.read_image(sample))

    scores = evaluate(data, samples, read, workers=1, progress=False)
    assert {name: s.scores.miou for name, s in scores.items()} == pytest.approx(
        {name: s["miou"] for name, s in result["metrics"].items()}
    )


def test_the_history_has_a_row_an_epoch_with_the_loss_terms(finished):
    history = pd.read_csv(finished[0] / "history.csv")
    assert history.epoch.tolist() == [1, 2]
    assert history.iteration.tolist() == [3, 6]
    total = history.loss_fused + 0.5 * history.loss_seed + 0.5 * history.loss_initial + history.loss_confidence
    assert history.loss.to_numpy() == pytest.approx(total.to_numpy(), rel=1e-5)
    assert history.miou_fused.notna().tolist() == [False, True]


def test_a_baseline_has_one_prediction(scenes, tmp_path):
    result = trainer(scenes, tmp_path, TINY.override(branch_stage=None)).run()
    assert list(result["metrics"]) == ["S_i"]


def test_the_poly_rate_starts_at_the_base_and_follows_the_power(finished):
    """Section 4.1: base * (1 - iteration / total) ** power; the history has the rate of the last iteration."""
    rate = pd.read_csv(finished[0] / "history.csv").lr
    assert rate.tolist() == pytest.approx([0.01 * (1 - done / 6) ** 0.9 for done in (2, 5)], rel=1e-12)


def test_the_first_iteration_has_the_base_rate(scenes, tmp_path):
    run, rates = trainer(scenes, tmp_path), []
    run.optimizer.register_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    run.run(stop_after=1)
    assert rates == [TINY.learning_rate]


@given(images=st.integers(2, 30), batch=st.integers(1, 5), epochs=st.integers(1, 3), start=st.integers(0, 20))
def test_batches_continue_where_they_stopped_and_use_an_image_once_an_epoch(images, batch, epochs, start):
    batch = min(batch, images)
    whole = list(DistributedBatchSampler(images, batch, epochs, seed=5))
    assert list(DistributedBatchSampler(images, batch, epochs, seed=5, start=min(start, len(whole)))) == whole[start:]
    keys = [key for keys in whole for key in keys]
    assert len(set(keys)) == len(keys) == epochs * (images // batch) * batch


def test_too_few_images_for_a_batch_is_an_error():
    with pytest.raises(ConfigError) as caught:
        DistributedBatchSampler(3, 4, 1, seed=0)
    assert caught.value.where == "batch_size"


@pytest.mark.parametrize("field", ["train_split", "val_split"])
def test_a_split_without_labels_is_refused_when_the_run_is_opened(scenes, tmp_path, field):
    write_scenes(tmp_path / "data", split_sizes={"train": 2, "val": 1, "test": 1}, size=(64, 128), progress=False)
    with pytest.raises(DataError) as caught:
        trainer(tmp_path / "data", tmp_path / "run", TINY.override(**{field: "test"}))
    assert caught.value.where == field and "'test'" in caught.value.found
    assert "train, val, trainval" in caught.value.fix


def test_class_weights_of_another_number_are_refused_when_the_run_is_opened(scenes, tmp_path):
    with pytest.raises(ConfigError) as caught:
        trainer(scenes, tmp_path, TINY.override(class_weights=TINY.class_weights[:-1]))
    assert caught.value.where == "class_weights" and "18" in caught.value.found and "19" in caught.value.expected


@pytest.mark.parametrize("change", [{}, {"branch_stage": None}], ids=["ovenet", "hrnet"])
def test_a_checkpoint_of_our_own_is_refused_as_initial_weights(scenes, finished, tmp_path, change):
    experiment = TINY.override(pretrained="checkpoint.safetensors", **change)
    with pytest.raises(WeightsError) as caught:
        trainer(scenes, tmp_path, experiment, weights=finished[0] / "checkpoint.safetensors")
    assert caught.value.where == "checkpoint.safetensors"


def test_bfloat16_on_a_cpu_without_it_warns(scenes, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    with pytest.warns(UserWarning, match="set precision to float32"):
        trainer(scenes, tmp_path, TINY.override(precision="bfloat16"))


def test_missing_initial_weights_are_an_error(scenes, tmp_path):
    with pytest.raises(ConfigError) as caught:
        trainer(scenes, tmp_path, TINY.override(pretrained="w.safetensors"))
    assert caught.value.where == "weights" and "w.safetensors" in caught.value.expected


def test_images_are_resized_on_reading(scenes):
    data = get_dataset("cityscapes")
    samples = data.samples(scenes, "train")
    still = TINY.override(crop=(32, 64), image_size=(32, 64), scale_range=(1.0, 1.0), flip=False)
    image, label, name = TrainingDataset(data, samples, 0, still)[0, 1]
    assert image.shape == (3, 32, 64)
    assert name == samples[1].name
    # Each pixel of the small label is one of the four of the full label that it covers.
    full = data.read(samples[1])[1]
    corners = np.stack([full[i::2, j::2] for i in (0, 1) for j in (0, 1)])
    assert (corners == label.numpy()).any(0).all()


def test_a_run_from_the_decoded_cache_is_the_same_run(scenes, finished, tmp_path):
    trainer(scenes, tmp_path / "run", cache_folder=tmp_path / "cache").run()
    assert_same_weights(weights_of(tmp_path / "run"), weights_of(finished[0]))


def test_only_the_offset_head_is_trained_when_frozen(scenes, tmp_path):
    run = trainer(scenes, tmp_path, TINY.override(freeze_backbone=True))
    before = {name: value.clone() for name, value in run.network.state_dict().items()}
    run.run(stop_after=2)
    changed = {name.split(".")[0] for name, value in run.network.state_dict().items() if not value.equal(before[name])}
    assert changed == {"offset_head"}


def test_a_frozen_run_starts_from_the_trained_baseline(scenes, tmp_path):
    """Table 5, "Fr": backbone and semantic head are those of the finished run, and stay so."""
    trainer(scenes, tmp_path / "hrnet", TINY.override(branch_stage=None)).run()
    frozen = TINY.override(freeze_backbone=True, init_from="synthetic/hrnet")
    result = trainer(scenes, tmp_path / "frozen", frozen, init_from=tmp_path / "hrnet").run()
    given, kept = weights_of(tmp_path / "hrnet"), weights_of(tmp_path / "frozen")
    assert_same_weights(given, {name: kept[name] for name in given})
    assert any(name.startswith("offset_head.") for name in kept)
    assert TINY.override(branch_stage=None).config_hash in result["initial_weights"]


def test_a_frozen_run_goes_on_and_is_shown_without_its_baseline(scenes, tmp_path):
    trainer(scenes, tmp_path / "hrnet", TINY.override(branch_stage=None, epochs=1)).run()
    frozen = TINY.override(freeze_backbone=True, init_from="synthetic/hrnet")
    trainer(scenes, tmp_path / "frozen", frozen, init_from=tmp_path / "hrnet").run(stop_after=1)
    shutil.rmtree(tmp_path / "hrnet")
    result = trainer(scenes, tmp_path / "frozen", frozen).run()
    assert TINY.override(branch_stage=None, epochs=1).config_hash in result["initial_weights"]
    assert trainer(scenes, tmp_path / "frozen", frozen).run() == result


def test_a_frozen_run_does_not_start_from_an_ovenet_or_from_half_a_run(scenes, finished, tmp_path):
    frozen = TINY.override(freeze_backbone=True, init_from="synthetic/hrnet")
    with pytest.raises(RunError) as caught:
        trainer(scenes, tmp_path / "frozen", frozen, init_from=finished[0])
    assert caught.value.where == finished[0] and "OVeNet" in caught.value.found
    trainer(scenes, tmp_path / "hrnet", TINY.override(branch_stage=None)).run(stop_after=1)
    with pytest.raises(RunError) as caught:
        trainer(scenes, tmp_path / "frozen", frozen, init_from=tmp_path / "hrnet")
    assert caught.value.where == tmp_path / "hrnet/checkpoint.safetensors"


def test_a_frozen_run_without_its_baseline_is_refused(scenes, tmp_path):
    frozen = TINY.override(freeze_backbone=True, init_from="synthetic/hrnet")
    with pytest.raises(ConfigError) as not_given:
        trainer(scenes, tmp_path, frozen)
    assert not_given.value.where == "init_from" and "synthetic/hrnet" in not_given.value.expected
    with pytest.raises(RunError) as not_there:
        trainer(scenes, tmp_path, frozen, init_from=tmp_path / "nowhere")
    assert not_there.value.where == tmp_path / "nowhere"


def test_a_baseline_of_another_width_is_refused(scenes, tmp_path):
    trainer(scenes, tmp_path / "hrnet", TINY.override(branch_stage=None, width=4, epochs=1)).run()
    frozen = TINY.override(freeze_backbone=True, init_from="synthetic/hrnet")
    with pytest.raises(RunError) as caught:
        trainer(scenes, tmp_path / "frozen", frozen, init_from=tmp_path / "hrnet")
    assert caught.value.where == tmp_path / "hrnet" and "width 4" in caught.value.found


def test_the_best_and_the_last_weights_are_kept_and_nothing_else(scenes, tmp_path):
    result = trainer(scenes, tmp_path, TINY.override(validate_every=1), snapshot_every=1).run()
    history = pd.read_csv(tmp_path / "history.csv")
    best = history.loc[history.miou_fused.idxmax()]
    assert result["best_validation"] == {"epoch": best.epoch, "miou": pytest.approx(best.miou_fused)}
    kept = {"config.json", "history.csv", "best.safetensors", "checkpoint.safetensors", "result.json", ".lock"}
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_a_snapshot_that_a_kill_left_beside_the_result_goes_when_the_run_is_called_again(scenes, tmp_path):
    trainer(scenes, tmp_path).run(stop_after=5)
    snapshot = (tmp_path / "snapshot.pt").read_bytes()
    result = trainer(scenes, tmp_path).run()
    (tmp_path / "snapshot.pt").write_bytes(snapshot)
    run = trainer(scenes, tmp_path)
    assert (tmp_path / "snapshot.pt").exists()  # opening a run changes nothing
    assert run.run() == result
    assert not (tmp_path / "snapshot.pt").exists()


def test_what_a_killed_write_left_is_removed(scenes, tmp_path):
    (tmp_path / ".snapshot.pt.0123.tmp").write_bytes(b"half a snapsh")
    trainer(scenes, tmp_path).run(stop_after=1)
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_run_that_is_only_opened_changes_nothing(scenes, tmp_path):
    """Its folder may be that of a run that is being trained, by torchrun beside the notebook that shows it."""
    (tmp_path / ".snapshot.pt.0123.tmp").write_bytes(b"half a snapsh")
    trainer(scenes, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".snapshot.pt.0123.tmp"]


def test_two_processes_do_not_train_in_one_folder(scenes, tmp_path, monkeypatch):
    monkeypatch.setattr("ovenet_core.utils.files.LOCK_TIMEOUT", 0)
    run = trainer(scenes, tmp_path)
    with FileLock(tmp_path / ".lock"), pytest.raises(RunError) as caught:
        run.run()
    assert caught.value.where == tmp_path
    assert run.run(stop_after=1) is None and run.state.iteration == 1


def test_a_doubled_loss_weight_doubles_the_first_step(scenes, tmp_path):
    """Without momentum yet, and without weight decay."""
    spec = TINY.override(weight_decay=0.0)
    steps = []
    for weight in (1.0, 2.0):
        run = trainer(scenes, tmp_path / str(weight), spec.override(loss_weight=weight))
        before = run.network.offset_head.head.output.weight.detach().clone()
        run.run(stop_after=1)
        steps.append(run.network.offset_head.head.output.weight.detach() - before)
    assert torch.allclose(2 * steps[0], steps[1], rtol=1e-3, atol=1e-7)


# -- Disks that are full or closed


def assert_stopped_with_the_last_snapshot(scenes, folder, error, iteration):
    assert error.where.parent == folder
    assert torch.load(folder / "snapshot.pt", weights_only=True)["iteration"] == iteration
    assert trainer(scenes, folder).state.iteration == iteration


def test_a_write_beyond_the_largest_file_size_keeps_the_last_snapshot(scenes, tmp_path):
    """A limit of this process stands for a full disk where none can be made."""
    trainer(scenes, tmp_path).run(stop_after=2)
    run = trainer(scenes, tmp_path, snapshot_every=1)
    before, kept = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
        with pytest.raises(WriteError) as error:
            run.run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, kept)
    assert_stopped_with_the_last_snapshot(scenes, tmp_path, error.value, 2)
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 30 MB of its own, as (folder, function to mount it again with other options)."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(*options):
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
        return subprocess.run(command, capture_output=True, text=True)

    if (mounted := mount("size=30m")).returncode:
        pytest.skip(f"may not mount a tmpfs here: {mounted.stderr.strip()}")
    yield folder, mount
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("fault", ["full", "read-only"])
def test_a_full_or_closed_disk_keeps_the_last_snapshot(scenes, small_disk, fault):
    disk, mount = small_disk
    folder = disk / "run"
    trainer(scenes, folder).run(stop_after=2)
    run = trainer(scenes, folder, snapshot_every=1)
    if fault == "full":
        with suppress(OSError), open(disk / "filler", "wb", buffering=0) as file:
            while file.write(bytes(2**16)):
                pass
    else:
        assert mount("remount", "ro").returncode == 0
    with pytest.raises(WriteError) as error:
        run.run()
    assert error.value.errno == (errno.ENOSPC if fault == "full" else errno.EROFS)
    if fault == "full":
        (disk / "filler").unlink()
    else:
        assert mount("remount", "rw").returncode == 0
    assert_stopped_with_the_last_snapshot(scenes, folder, error.value, 2)
