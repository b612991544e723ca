"""Training: the loop, the schedule, snapshots that continue exactly, and the result of a run.

A run is one experiment with one seed and leaves one folder: `config.json`, `history.csv`, `snapshot.pt` while it
lasts, `best.safetensors` with the weights that had the best validation score, `checkpoint.safetensors` with the last
ones and `result.json` when it is done. Every file is written whole or not at all, by the first process alone.

One process trains in a notebook; several are started by torchrun (`python -m ovenet_core train --help`), each with
its share of every batch.
"""

import itertools
import math
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ovenet_core import utils
from ovenet_core.data import (
    DecodedCache,
    DistributedBatchSampler,
    Sample,
    SegmentationDataset,
    TrainingDataset,
    fingerprint,
    get_dataset,
)
from ovenet_core.evaluation import Evaluation, evaluate, normalise, predict_classes
from ovenet_core.losses import LossTerms
from ovenet_core.training import checkpoint
from ovenet_core.training.checkpoint import SnapshotError
from ovenet_core.training.config import Experiment
from ovenet_core.training.factory import (
    autocast,
    build_loss,
    build_network,
    labelled_samples,
    load_initial_weights,
    load_weights,
    select_device,
    warn_if_slow,
)
from ovenet_core.utils import (
    commit,
    peak_memory,
    provenance,
    remove_unfinished,
    run_folder_lock,
    write_atomically,
    write_json,
)
from ovenet_core.weights import read_state

STATE = ("iteration", "seconds", "history", "sums", "best", "commits", "load_report")  # beside network and optimizer
OLDEST = STATE[:4]  # what each snapshot has; the first ones had no more


class DivergedError(RuntimeError):
    """The loss is not finite; the message names the images of the batch."""


class Trainer:
    """One run: an experiment with one seed, in one folder.

    Args:
        experiment: what to train.
        data_root: folder of the benchmark's images.
        run_folder: where the run's files go; a snapshot in it is continued.
        seed: of the initial values, the order of the images and the augmentation.
        weights: file of `experiment.pretrained`; required if the experiment names one and the run has not begun.
        init_from: folder of the finished run of `experiment.init_from`; likewise.
        device: "cpu", "cuda", …; by default a GPU if there is one.
        workers: processes that prepare images; the outcome does not depend on it.
        cache: folder for the decoded training images (`cache.DecodedCache`), so that no epoch decodes them again.
        snapshot_every: iterations between snapshots; by default one per epoch.
        progress: show a progress bar.

    Raises:
        SnapshotError: the folder holds a snapshot of another experiment or seed or of other images, or a damaged one.
        ValueError, DataError: class weights of another number than the classes; a split without labels.
    """

    def __init__(
        self,
        experiment: Experiment,
        data_root: str | Path,
        run_folder: str | Path,
        *,
        seed: int = 0,
        weights: str | Path | None = None,
        init_from: str | Path | None = None,
        device: str | torch.device = "",
        workers: int = 0,
        cache: str | Path | None = None,
        snapshot_every: int | None = None,
        progress: bool = True,
    ):
        self.experiment, self.seed, self.workers, self.progress = experiment, seed, workers, progress
        self.folder = Path(run_folder)
        self.device = torch.device(device) if isinstance(device, torch.device) else select_device(device)
        self.writes = utils.rank() == 0
        self.data = get_dataset(experiment.benchmark)
        self.loss = build_loss(experiment, self.data.num_classes).to(self.device)
        self.train_samples = labelled_samples(self.data, data_root, "train_split", experiment.train_split)
        self.val_samples = labelled_samples(self.data, data_root, "val_split", experiment.val_split)
        self.images = TrainingDataset(
            self._source(cache),
            self.train_samples,
            seed,
            crop=experiment.crop,
            image_size=experiment.image_size,
            scale_range=experiment.scale_range,
            flip=experiment.flip,
        )
        share = {"rank": utils.rank(), "processes": utils.world_size(), "micro_batch_size": experiment.micro_batch_size}
        self.batches = DistributedBatchSampler(
            len(self.train_samples), experiment.batch_size, experiment.epochs, seed, **share
        )
        self.snapshot_every = snapshot_every or self.batches.per_epoch
        self.commit = commit()  # of the code as it runs, whatever becomes of the files meanwhile
        self.weights, self.init_from = weights, init_from
        warn_if_slow(experiment, self.device)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._begin()

    def _begin(self) -> None:
        """The state to go on from: a finished run's, the snapshot's, or the initial one."""
        self.seen = checkpoint.snapshot_mtime(self.snapshot)
        torch.manual_seed(self.seed)
        self.network = build_network(self.experiment, self.data.num_classes)
        self.commits: list[str] = []  # of all processes that have had a part in this run, in no order
        self.iteration, self.seconds = 0, 0.0
        self.history: list[dict[str, float]] = []
        self.sums: dict[str, float] = {}  # of the loss terms since the last row of the history
        self.best: dict[str, float] = {}  # epoch and mIoU of the best validation
        self.scores: dict[str, dict] = {}  # of the last validation
        self.load_report = ""
        if self.result.exists():
            self.load_report = self._finished_result().get("initial_weights", "")
            if (last := self.folder / "checkpoint.safetensors").exists():
                load_weights(self.network, read_state(last), str(last))
        elif not self.snapshot.exists():
            self.load_report = load_initial_weights(self.network, self.experiment, self.weights, self.init_from)
        layout = torch.channels_last if self.experiment.channels_last else torch.contiguous_format
        self.network.to(self.device, memory_format=layout)
        if utils.world_size() > 1 and self.device.type == "cuda":  # there is none for processors
            self.network = nn.SyncBatchNorm.convert_sync_batchnorm(self.network)
        self.optimizer = torch.optim.SGD(
            [p for p in self.network.parameters() if p.requires_grad],
            lr=self.experiment.learning_rate,
            momentum=self.experiment.momentum,
            weight_decay=self.experiment.weight_decay,
        )
        if self.snapshot.exists() and not self.result.exists():
            self._resume()
        self.left = False  # whether an error or interruption has ended the training in the midst of something

    @property
    def snapshot(self) -> Path:
        return self.folder / "snapshot.pt"

    @property
    def result(self) -> Path:
        return self.folder / "result.json"

    def _source(self, cache: str | Path | None) -> SegmentationDataset | DecodedCache:
        """Where training images are read; the first process decodes those that the cache has not."""
        if not cache:
            return self.data
        if not self.writes:
            utils.barrier()
        source = DecodedCache.build(self.data, self.train_samples, cache, progress=self.progress and self.writes)
        if self.writes:
            utils.barrier()
        return source

    def run(self, stop_after: int | None = None) -> dict[str, Any] | None:
        """Train to the end and return the result; or stop at iteration `stop_after` with a snapshot (None).

        A run that is done already is not repeated. Interrupting keeps the last snapshot; called again, it goes on from
        there.

        Raises:
            DivergedError: the loss or its gradient is not finite; the last snapshot stays.
            RuntimeError: another process trains in the same folder.
        """
        if self.result.exists():
            return self._done()
        with run_folder_lock(self.folder) if self.writes else nullcontext():
            utils.barrier()
            if self.result.exists():  # by now
                return self._done()
            if self.writes:
                remove_unfinished(self.folder)
                write_json(self.folder / "config.json", checkpoint.run_identity(self.experiment, self.seed))
            return self._train(stop_after)

    def _train(self, stop_after: int | None) -> dict[str, Any] | None:
        if self.left or self.seen != checkpoint.snapshot_mtime(self.snapshot):
            self._begin()
        self.left = True
        self.commits = sorted({*self.commits, self.commit})
        self.network.train()
        network = DistributedDataParallel(self.network) if utils.world_size() > 1 else self.network
        self.step_network = torch.compile(network) if self.experiment.compile else network
        self.batches.start = self.iteration
        total = self.batches.total
        loader = DataLoader(
            self.images,
            batch_sampler=self.batches,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # else it draws from torch's random state
        )
        shown = self.progress and self.writes
        bar = tqdm(total=total, initial=self.iteration, desc="training", unit="it", disable=not shown)
        self.started = time.perf_counter() - self.seconds
        source = iter(loader)
        while parts := list(itertools.islice(source, self.batches.steps)):
            self._step(parts, total)
            bar.update()
            self._after_step(bar)
            if self.iteration == stop_after and self.iteration < total:
                self._save_snapshot()
                self.left = False
                return None
        bar.close()
        return self._finish()

    def _step(self, parts: Sequence[Sequence], total: int) -> None:
        """One iteration: the gradients of the parts of a batch are accumulated, in the mean."""
        rate = self.experiment.poly(self.iteration, total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # Random numbers (dropout) follow from seed, iteration and rank, as the images do: nothing is to be restored.
        random = np.random.SeedSequence([self.seed, self.iteration, utils.rank()])
        torch.manual_seed(int(random.generate_state(1)[0]))
        self.optimizer.zero_grad(set_to_none=True)
        # Losses are shares of the sum over all processes, but gradients will be averaged over them.
        scale = self.experiment.loss_weight * utils.world_size()
        found: dict[str, float] = {}
        for step, (images, labels, names) in enumerate(parts):
            weight = self.batches.weights[step]
            run_folder_lock = utils.world_size() > 1 and step < len(parts) - 1
            with self.step_network.no_sync() if run_folder_lock else nullcontext():
                terms = self._terms(images, labels)
                values = dict(terms.items())
                sums = utils.all_reduce_sum(torch.tensor([*values.values()], dtype=torch.float64)).tolist()
                if not np.isfinite(sums).all():
                    self._diverged(dict(zip(values, sums, strict=True)), rate, names)
                (terms.total * weight * scale).backward()
            for name, value in zip(values, sums, strict=True):
                found[name] = found.get(name, 0.0) + weight * value
        norm = float(nn.utils.get_total_norm([p.grad for p in self.network.parameters() if p.grad is not None]))
        if not np.isfinite(norm):
            self._diverged(found | {"norm of the gradient": norm}, rate, [n for *_, names in parts for n in names])
        self.optimizer.step()
        self.iteration += 1
        for name, value in found.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def _terms(self, images: Tensor, labels: Tensor) -> LossTerms:
        images, labels = (x.to(self.device, non_blocking=True) for x in (images, labels))
        with autocast(self.experiment, self.device):
            prediction = self.step_network(normalise(images, self.experiment.channels_last))
        return self.loss(prediction, labels)

    def _diverged(self, values: dict[str, float], rate: float, names: Sequence[str]) -> None:
        every = [name for theirs in utils.all_gather(list(names)) for name in theirs]
        raise DivergedError(
            f"the loss is {values} at iteration {self.iteration} (learning rate {rate:.2g}) with the images "
            f"{', '.join(every)}; the last snapshot is kept: look at them, or train with a lower learning_rate in "
            "another run folder"
        )

    def _after_step(self, bar: tqdm) -> None:
        """At the end of an epoch a row of the history, now and then a snapshot."""
        done_in_epoch = self.iteration % self.batches.per_epoch or self.batches.per_epoch
        means = {name: value / done_in_epoch for name, value in self.sums.items()}
        rate = self.optimizer.param_groups[0]["lr"]
        bar.set_postfix(loss=f"{means['total']:.3f}", lr=f"{rate:.1e}", refresh=False)
        if done_in_epoch == self.batches.per_epoch:
            epoch = self.iteration // self.batches.per_epoch
            losses = {"loss" if name == "total" else f"loss_{name}": value for name, value in means.items()}
            self.history.append({"iteration": self.iteration, "epoch": epoch, "lr": rate, **losses})
            if epoch % self.experiment.validate_every == 0 or epoch == self.experiment.epochs:
                self._validate(bar)
            self.sums = {}
            if self.writes:
                table = pd.DataFrame(self.history)
                write_atomically(self.folder / "history.csv", lambda f: table.to_csv(f, index=False))
        if self.iteration % self.snapshot_every == 0:
            self._save_snapshot()

    def _validate(self, bar: tqdm) -> None:
        self.scores = {name: evaluation.as_dict() for name, evaluation in self.evaluate(bar).items()}
        columns = {"S_i": "miou_initial", "S_s": "miou_seed", "S_f": "miou_fused"}
        self.history[-1] |= {columns[name]: scores["miou"] for name, scores in self.scores.items()}
        final = list(self.scores)[-1]
        epoch, miou = self.history[-1]["epoch"], self.scores[final]["miou"]
        if self.writes and self.progress:
            bar.write(f"epoch {epoch:4d}: mIoU of {final} {100 * miou:.2f}%")
        if miou > self.best.get("miou", -1):
            self._save_weights("best.safetensors")
            self.best = {"epoch": epoch, "miou": miou}

    def evaluate(self, bar: tqdm | None = None) -> dict[str, Evaluation]:
        """Scores of S_i, S_s and S_f on the validation split, at the size of the labels; none at boundaries.

        A training bar, if given, shows how many images have been scored.
        """
        utils.broadcast(self.network.buffers())  # running statistics, of which the first process's are kept
        size, layout = self.experiment.image_size, self.experiment.channels_last
        scored, share = itertools.count(1), math.ceil(len(self.val_samples) / utils.world_size())

        def read(sample: Sample) -> dict[str, Tensor]:
            image = self.data.read_image(sample)
            if bar is not None:
                bar.set_postfix_str(f"validating {next(scored)}/{share}")
            return predict_classes(self.network, image, image_size=size, channels_last=layout)

        with autocast(self.experiment, self.device):
            return evaluate(self.data, self.val_samples, read, boundaries=False, workers=1, progress=False)

    def _save_weights(self, name: str) -> None:
        if self.writes:
            tensors = {name: tensor.contiguous() for name, tensor in self.network.state_dict().items()}
            write_atomically(self.folder / name, lambda f: save_file(tensors, f.name), mode="wb")

    @property
    def _samples(self) -> dict[str, list]:
        return checkpoint.samples_identity({"train": self.train_samples, "val": self.val_samples})

    def _save_snapshot(self) -> None:
        if not self.writes:
            return
        self.seconds = time.perf_counter() - self.started
        state = checkpoint.run_identity(self.experiment, self.seed) | {name: getattr(self, name) for name in STATE}
        state |= {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}
        state["images"] = self._samples
        write_atomically(self.snapshot, lambda f: torch.save(state, f), mode="wb")
        self.seen = checkpoint.snapshot_mtime(self.snapshot)

    def _resume(self) -> None:
        state = checkpoint.read_snapshot(self.snapshot)
        checkpoint.refuse_another(self.snapshot, state, self.experiment, self.seed)
        try:
            checkpoint.refuse_other_images(self.snapshot, state.get("images", self._samples), self._samples)
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            for name in STATE:
                setattr(self, name, state[name] if name in OLDEST else state.get(name, getattr(self, name)))
        except SnapshotError:
            raise
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise SnapshotError(f"{self.snapshot} is not whole ({error}); delete it to start anew") from error

    def _finish(self) -> dict[str, Any]:
        if self.history[-1].get("miou_initial") is None:
            raise RuntimeError("the last epoch was not validated")
        if not self.scores:  # interrupted after the last snapshot
            self.scores = {name: evaluation.as_dict() for name, evaluation in self.evaluate().items()}
        self._save_weights("checkpoint.safetensors")
        if self.writes:
            write_json(self.result, self._result())
        utils.barrier()
        return self._done()

    def _done(self) -> dict[str, Any]:
        """The result of a run that is done, which needs its snapshot no longer."""
        result = self._finished_result()
        if self.writes:
            with suppress(OSError):  # a finished run may lie where nothing can be changed
                self.snapshot.unlink(missing_ok=True)
        return result

    def _result(self) -> dict[str, Any]:
        several = {"commits": self.commits} if len(self.commits) > 1 else {}
        about = checkpoint.run_identity(self.experiment, self.seed)
        return {"config_hash": about["config_hash"], "seed": self.seed} | {
            "metrics": self.scores,
            "split": self.experiment.val_split,
            "best_validation": self.best,
            "images": {"train": len(self.train_samples), "val": len(self.val_samples)},
            "data_fingerprint": fingerprint([*self.train_samples, *self.val_samples]),
            "parameters": sum(p.numel() for p in self.network.parameters()),
            "initial_weights": self.load_report,
            "duration_seconds": round(time.perf_counter() - self.started, 1),
            "peak_memory_gib": round(peak_memory(self.device), 3),
            **provenance(self.device),
            "commit": self.commit,
            **several,
            "processes": utils.world_size(),
            "experiment": about["experiment"],
        }

    def _finished_result(self) -> dict[str, Any]:
        result = checkpoint.read_result(self.result)
        checkpoint.refuse_another(self.result, result, self.experiment, self.seed)
        return result
