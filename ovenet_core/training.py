"""Training: the loop, the schedule, snapshots that continue exactly, and the result of a run.

A run is one experiment with one seed and leaves one folder: `config.json`, `history.csv`, `snapshot.pt` while it
lasts, `checkpoint.safetensors` and `result.json` when it is done. Every file is written whole or not at all.
"""

import itertools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ovenet_core.benchmarks import Sample, benchmark, fingerprint
from ovenet_core.cache import DecodedCache
from ovenet_core.evaluation import Evaluation, evaluate
from ovenet_core.experiments import Experiment
from ovenet_core.inference import normalise, predict, predict_classes
from ovenet_core.loading import Batches, TrainingPictures
from ovenet_core.models import autocast, build_loss, build_network, processor, warn_if_slow
from ovenet_core.ovenet import Prediction
from ovenet_core.runs import commit, hardware, versions, write_atomically, write_json
from ovenet_core.weights import LoadReport, load_official, read_state


class DivergedError(RuntimeError):
    """The loss is not finite; the message names the pictures of the batch."""


class SnapshotError(RuntimeError):
    """A snapshot that cannot be continued from; the message says why and what to do."""


def poly(experiment: Experiment, iteration: int, total: int) -> float:
    """The poly learning rate of an iteration (section 4.1)."""
    return experiment.learning_rate * (1 - iteration / total) ** experiment.power


class Trainer:
    """One run: an experiment with one seed, in one folder.

    Args:
        experiment: what to train.
        data_root: folder of the benchmark's pictures.
        run_folder: where the run's files go; a snapshot in it is continued.
        seed: of the initial values, the order of the pictures and the augmentation.
        weights: file of `experiment.initial_weights`; required if the experiment names one.
        device: "cpu", "cuda", …; by default a GPU if there is one.
        workers: processes that prepare pictures; the outcome does not depend on it.
        cache: folder for the decoded training pictures (`cache.DecodedCache`), so that no epoch decodes them again.
        snapshot_every: iterations between snapshots; by default one per epoch.
        progress: show a progress bar.

    Raises:
        SnapshotError: the folder holds a snapshot of another experiment or seed, or a damaged one.
    """

    def __init__(
        self,
        experiment: Experiment,
        data_root: str | Path,
        run_folder: str | Path,
        *,
        seed: int = 0,
        weights: str | Path | None = None,
        device: str = "",
        workers: int = 0,
        cache: str | Path | None = None,
        snapshot_every: int | None = None,
        progress: bool = True,
    ):
        self.experiment, self.seed, self.workers, self.progress = experiment, seed, workers, progress
        self.folder = Path(run_folder)
        self.device = processor(device)
        self.data = benchmark(experiment.benchmark)
        self.train_samples = self.data.samples(data_root, experiment.train_split)
        self.val_samples = self.data.samples(data_root, experiment.val_split)
        source = DecodedCache.build(self.data, self.train_samples, cache, progress=progress) if cache else self.data
        self.pictures = TrainingPictures(source, self.train_samples, experiment, seed)
        self.batches = Batches(len(self.train_samples), experiment.batch_size, experiment.epochs, seed)
        self.snapshot_every = snapshot_every or self.batches.per_epoch

        torch.manual_seed(seed)
        self.network = build_network(experiment, self.data.num_classes)
        self.load_report = self._load_initial(weights)
        layout = torch.channels_last if experiment.channels_last else torch.contiguous_format
        self.network.to(self.device, memory_format=layout)
        warn_if_slow(experiment, self.device)
        self.loss = build_loss(experiment).to(self.device)
        self.optimizer = torch.optim.SGD(
            [p for p in self.network.parameters() if p.requires_grad],
            lr=experiment.learning_rate,
            momentum=experiment.momentum,
            weight_decay=experiment.weight_decay,
        )
        self.commit = commit()  # of the code as it runs, whatever becomes of the files meanwhile
        self.iteration, self.seconds = 0, 0.0
        self.history: list[dict[str, float]] = []
        self.sums: dict[str, float] = {}  # of the loss terms since the last row of the history
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.result.exists():
            self._finished_result()  # before anything is written: the folder may be another run's
        if self.snapshot.exists():
            self._resume()
        write_json(self.folder / "config.json", self._identity() | {"experiment": asdict(experiment)})

    @property
    def snapshot(self) -> Path:
        return self.folder / "snapshot.pt"

    @property
    def result(self) -> Path:
        return self.folder / "result.json"

    def _load_initial(self, weights: str | Path | None) -> LoadReport | None:
        name = self.experiment.initial_weights
        if not name:
            return None
        if weights is None or Path(weights).name != name:
            raise ValueError(f"the experiment starts from {name}: give its path as weights (got {weights})")
        return load_official(self.network, read_state(weights), name)

    def run(self, stop_after: int | None = None) -> dict[str, Any] | None:
        """Train to the end and return the result; or stop at iteration `stop_after` with a snapshot (None).

        A run that is done already is not repeated. Interrupting keeps the last snapshot.

        Raises:
            DivergedError: the loss is not finite; the last snapshot stays.
        """
        if self.result.exists():
            return self._finished_result()
        self.network.train()
        network = torch.compile(self.network) if self.experiment.compile else self.network
        self.batches.start = self.iteration
        total = self.batches.total
        loader = DataLoader(
            self.pictures,
            batch_sampler=self.batches,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # else it draws from torch's random state, whose place a resumed run needs
        )
        bar = tqdm(total=total, initial=self.iteration, desc="training", unit="it", disable=not self.progress)
        started = time.perf_counter() - self.seconds
        for images, labels, names in loader:
            self._step(network, images, labels, names, total)
            self.seconds = time.perf_counter() - started
            bar.update()
            self._after_step(bar)
            if self.iteration == stop_after and self.iteration < total:
                self._save_snapshot()
                return None
        bar.close()
        return self._finish()

    def _step(self, network: Callable, images: Tensor, labels: Tensor, names: Sequence[str], total: int) -> None:
        rate = poly(self.experiment, self.iteration, total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        labels = labels.to(self.device, non_blocking=True)
        with autocast(self.experiment, self.device):
            prediction = network(normalise(images.to(self.device, non_blocking=True), self.experiment.channels_last))
        terms = self.loss(prediction, labels)
        values = dict(terms.items())
        if not np.isfinite(values["total"]):
            raise DivergedError(
                f"the loss is {values} at iteration {self.iteration} (learning rate {rate:.2g}) with the pictures "
                f"{', '.join(names)}; the last snapshot is kept: look at them, or lower learning_rate"
            )
        self.optimizer.zero_grad(set_to_none=True)
        terms.total.backward()
        self.optimizer.step()
        self.iteration += 1
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

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
            write_atomically(self.folder / "history.csv", lambda f: pd.DataFrame(self.history).to_csv(f, index=False))
        if self.iteration % self.snapshot_every == 0:
            self._save_snapshot()

    def _validate(self, bar: tqdm) -> None:
        self.scores = {name: evaluation.as_dict() for name, evaluation in self.evaluate(bar).items()}
        columns = {"S_i": "miou_initial", "S_s": "miou_seed", "S_f": "miou_fused"}
        self.history[-1] |= {columns[name]: scores["miou"] for name, scores in self.scores.items()}
        final = list(self.scores)[-1]
        bar.write(f"epoch {self.history[-1]['epoch']:4d}: mIoU of {final} {100 * self.scores[final]['miou']:.2f}%")

    def evaluate(self, bar: tqdm | None = None) -> dict[str, Evaluation]:
        """Scores of S_i, S_s and S_f on the validation split, at the size of the labels; none at boundaries.

        A training bar, if given, shows how many pictures have been scored.
        """
        size, layout = self.experiment.picture_size, self.experiment.channels_last
        scored = itertools.count(1)

        def read(sample: Sample) -> dict[str, Tensor]:
            image = self.data.read_image(sample)
            if bar is not None:
                bar.set_postfix_str(f"validating {next(scored)}/{len(self.val_samples)}")
            return predict_classes(self.network, image, picture_size=size, channels_last=layout)

        with autocast(self.experiment, self.device):
            return evaluate(self.data, self.val_samples, read, boundaries=False, workers=1, progress=False)

    def predict(self, image: np.ndarray) -> Prediction:
        """The prediction for one picture, as `evaluate` makes it."""
        self.network.eval()
        size, layout = self.experiment.picture_size, self.experiment.channels_last
        with autocast(self.experiment, self.device):
            return predict(self.network, image, picture_size=size, channels_last=layout)

    def _identity(self) -> dict[str, Any]:
        return {"config_hash": self.experiment.config_hash, "seed": self.seed}

    def _save_snapshot(self) -> None:
        state = self._identity() | {
            "experiment": json.loads(json.dumps(asdict(self.experiment))),
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "iteration": self.iteration,
            "seconds": self.seconds,
            "history": self.history,
            "sums": self.sums,
            # Nothing else is random: order and augmentation follow from (seed, epoch, index).
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        write_atomically(self.snapshot, lambda f: torch.save(state, f), mode="wb")

    def _resume(self) -> None:
        try:
            state = torch.load(self.snapshot, map_location="cpu", weights_only=True)
        except Exception as error:
            raise SnapshotError(f"{self.snapshot} cannot be read ({error}); delete it to start anew") from error
        if {key: state[key] for key in self._identity()} != self._identity():
            seeds = [] if state["seed"] == self.seed else [f"seed: {self.seed}, {state['seed']}"]
            raise SnapshotError(
                f"{self.snapshot} is of another run. This one and that one differ in "
                f"{'; '.join(self.experiment.differences(state['experiment']) + seeds)} "
                f"(configuration {self.experiment.config_hash}, {state['config_hash']}). "
                f"Choose another run folder, or delete the snapshot"
            )
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.iteration, self.seconds = state["iteration"], state["seconds"]
        self.history, self.sums = state["history"], state["sums"]
        torch.set_rng_state(state["random"])
        if state["random_cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["random_cuda"])

    def _finish(self) -> dict[str, Any]:
        if self.history[-1].get("miou_initial") is None:
            raise RuntimeError("the last epoch was not validated")
        if not hasattr(self, "scores"):  # interrupted after the last snapshot
            self.scores = {name: evaluation.as_dict() for name, evaluation in self.evaluate().items()}
        tensors = {name: tensor.contiguous() for name, tensor in self.network.state_dict().items()}
        write_atomically(self.folder / "checkpoint.safetensors", lambda f: save_file(tensors, f.name), mode="wb")
        result = self._identity() | {
            "metrics": self.scores,
            "split": self.experiment.val_split,
            "pictures": {"train": len(self.train_samples), "val": len(self.val_samples)},
            "data_fingerprint": fingerprint([*self.train_samples, *self.val_samples]),
            "parameters": sum(p.numel() for p in self.network.parameters()),
            "initial_weights": str(self.load_report or "random"),
            "duration_seconds": round(self.seconds, 1),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "commit": self.commit,
            "versions": versions(),
            "hardware": hardware(self.device),
            "experiment": asdict(self.experiment),
        }
        write_json(self.result, result)
        self.snapshot.unlink(missing_ok=True)
        return json.loads(self.result.read_text())

    def _finished_result(self) -> dict[str, Any]:
        result = json.loads(self.result.read_text())
        if {key: result[key] for key in self._identity()} != self._identity():
            raise SnapshotError(
                f"{self.result} is of another run: {'; '.join(self.experiment.differences(result['experiment']))} "
                f"(seed {self.seed}, {result['seed']}); choose another run folder"
            )
        return result
