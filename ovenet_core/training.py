"""Training: the loop, the schedule, snapshots that continue exactly, and the result of a run.

A run is one experiment with one seed and leaves one folder: `config.json`, `history.csv`, `snapshot.pt` while it
lasts, `best.safetensors` with the weights that had the best validation score, `checkpoint.safetensors` with the last
ones and `result.json` when it is done. Every file is written whole or not at all, by the first process alone.

One process trains in a notebook; several are started by torchrun (`python -m ovenet_core.training --help`), each with
its share of every batch.
"""

import itertools
import json
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
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

from ovenet_core import processes
from ovenet_core.benchmarks import Benchmark, Sample, benchmark, fingerprint
from ovenet_core.cache import DecodedCache
from ovenet_core.evaluation import Evaluation, evaluate
from ovenet_core.experiments import Experiment
from ovenet_core.inference import normalise, predict_classes
from ovenet_core.loading import Batches, TrainingPictures
from ovenet_core.losses import LossTerms
from ovenet_core.models import (
    autocast,
    build_loss,
    build_network,
    labelled_samples,
    load_baseline,
    processor,
    warn_if_slow,
)
from ovenet_core.runs import commit, peak_memory, provenance, remove_unfinished, write_atomically, write_json
from ovenet_core.weights import load_official, read_state


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
        initial_run: folder of the finished run of `experiment.initial_run`; required if the experiment names one.
        device: "cpu", "cuda", …; by default a GPU if there is one.
        workers: processes that prepare pictures; the outcome does not depend on it.
        cache: folder for the decoded training pictures (`cache.DecodedCache`), so that no epoch decodes them again.
        snapshot_every: iterations between snapshots; by default one per epoch.
        progress: show a progress bar.

    Raises:
        SnapshotError: the folder holds a snapshot of another experiment or seed, or a damaged one.
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
        initial_run: str | Path | None = None,
        device: str | torch.device = "",
        workers: int = 0,
        cache: str | Path | None = None,
        snapshot_every: int | None = None,
        progress: bool = True,
    ):
        self.experiment, self.seed, self.workers, self.progress = experiment, seed, workers, progress
        self.folder = Path(run_folder)
        self.device = torch.device(device) if isinstance(device, torch.device) else processor(device)
        self.writes = processes.rank() == 0
        self.data = benchmark(experiment.benchmark)
        self.loss = build_loss(experiment, self.data.num_classes).to(self.device)
        self.train_samples = labelled_samples(self.data, data_root, "train_split", experiment.train_split)
        self.val_samples = labelled_samples(self.data, data_root, "val_split", experiment.val_split)
        self.pictures = TrainingPictures(self._source(cache), self.train_samples, experiment, seed)
        self.batches = Batches(
            len(self.train_samples),
            experiment.batch_size,
            experiment.epochs,
            seed,
            rank=processes.rank(),
            processes=processes.count(),
            micro_batch=experiment.micro_batch,
        )
        self.snapshot_every = snapshot_every or self.batches.per_epoch

        torch.manual_seed(seed)
        self.network = build_network(experiment, self.data.num_classes)
        self.load_report = self._load_initial(weights, initial_run)
        layout = torch.channels_last if experiment.channels_last else torch.contiguous_format
        self.network.to(self.device, memory_format=layout)
        if processes.count() > 1 and self.device.type == "cuda":  # there is none for processors
            self.network = nn.SyncBatchNorm.convert_sync_batchnorm(self.network)
        warn_if_slow(experiment, self.device)
        self.optimizer = torch.optim.SGD(
            [p for p in self.network.parameters() if p.requires_grad],
            lr=experiment.learning_rate,
            momentum=experiment.momentum,
            weight_decay=experiment.weight_decay,
        )
        self.commit = commit()  # of the code as it runs, whatever becomes of the files meanwhile
        self.commits: list[str] = []  # of all processes that have had a part in this run, one after the other
        self.iteration, self.seconds = 0, 0.0
        self.history: list[dict[str, float]] = []
        self.sums: dict[str, float] = {}  # of the loss terms since the last row of the history
        self.best: dict[str, float] = {}  # epoch and mIoU of the best validation
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.result.exists():
            self._finished_result()  # before anything is written: the folder may be another run's
        if self.snapshot.exists():
            self._resume()
        if self.writes:
            remove_unfinished(self.folder)
            write_json(self.folder / "config.json", self._identity() | {"experiment": asdict(experiment)})

    @property
    def snapshot(self) -> Path:
        return self.folder / "snapshot.pt"

    @property
    def result(self) -> Path:
        return self.folder / "result.json"

    def _source(self, cache: str | Path | None) -> Benchmark | DecodedCache:
        """Where training pictures are read; the first process decodes those that the cache has not."""
        if not cache:
            return self.data
        if not self.writes:
            processes.wait()
        source = DecodedCache.build(self.data, self.train_samples, cache, progress=self.progress and self.writes)
        if self.writes:
            processes.wait()
        return source

    def _load_initial(self, weights: str | Path | None, initial_run: str | Path | None) -> str:
        """Set the initial values; says where they come from."""
        name, reports = self.experiment.initial_weights, []
        if name:
            if weights is None or Path(weights).name != name:
                raise ValueError(f"the experiment starts from {name}: give its path as weights (got {weights})")
            reports.append(str(load_official(self.network, read_state(weights), name, self.experiment.widened)))
        if self.experiment.initial_run:
            if initial_run is None:
                raise ValueError(f"the experiment starts from a finished run of {self.experiment.initial_run}: give "
                                 "its folder as initial_run")
            reports.append(load_baseline(self.network, initial_run))
        return "\n".join(reports) or "random"

    def run(self, stop_after: int | None = None) -> dict[str, Any] | None:
        """Train to the end and return the result; or stop at iteration `stop_after` with a snapshot (None).

        A run that is done already is not repeated. Interrupting keeps the last snapshot.

        Raises:
            DivergedError: the loss is not finite; the last snapshot stays.
        """
        if self.result.exists():
            return self._finished_result()
        self.commits = sorted({*self.commits, self.commit})
        self.network.train()
        network = DistributedDataParallel(self.network) if processes.count() > 1 else self.network
        self.step_network = torch.compile(network) if self.experiment.compile else network
        self.batches.start = self.iteration
        total = self.batches.total
        loader = DataLoader(
            self.pictures,
            batch_sampler=self.batches,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # else it draws from torch's random state
        )
        shown = self.progress and self.writes
        bar = tqdm(total=total, initial=self.iteration, desc="training", unit="it", disable=not shown)
        started = time.perf_counter() - self.seconds
        source = iter(loader)
        while parts := list(itertools.islice(source, self.batches.steps)):
            self._step(parts, total)
            self.seconds = time.perf_counter() - started
            bar.update()
            self._after_step(bar)
            if self.iteration == stop_after and self.iteration < total:
                self._save_snapshot()
                return None
        bar.close()
        return self._finish()

    def _step(self, parts: Sequence[Sequence], total: int) -> None:
        """One iteration: the gradients of the parts of a batch are accumulated, in the mean."""
        rate = poly(self.experiment, self.iteration, total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # Random numbers (dropout) follow from seed, iteration and rank, as the pictures do: nothing is to be restored.
        random = np.random.SeedSequence([self.seed, self.iteration, processes.rank()])
        torch.manual_seed(int(random.generate_state(1)[0]))
        self.optimizer.zero_grad(set_to_none=True)
        # Losses are shares of the sum over all processes, but gradients will be averaged over them.
        scale = self.experiment.loss_weight * processes.count()
        found: dict[str, float] = {}
        for step, (images, labels, names) in enumerate(parts):
            weight = self.batches.weights[step]
            alone = processes.count() > 1 and step < len(parts) - 1
            with self.step_network.no_sync() if alone else nullcontext():
                terms = self._terms(images, labels)
                values = dict(terms.items())
                sums = processes.total(torch.tensor([*values.values()], dtype=torch.float64)).tolist()
                if not np.isfinite(sums).all():
                    self._diverged(dict(zip(values, sums, strict=True)), rate, names)
                (terms.total * weight * scale).backward()
            for name, value in zip(values, sums, strict=True):
                found[name] = found.get(name, 0.0) + weight * value
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
        every = [name for theirs in processes.gathered(list(names)) for name in theirs]
        raise DivergedError(
            f"the loss is {values} at iteration {self.iteration} (learning rate {rate:.2g}) with the pictures "
            f"{', '.join(every)}; the last snapshot is kept: look at them, or lower learning_rate"
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
            self.best = {"epoch": epoch, "miou": miou}
            self._save_weights("best.safetensors")

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

    def _identity(self) -> dict[str, Any]:
        return {"config_hash": self.experiment.config_hash, "seed": self.seed}

    def _save_weights(self, name: str) -> None:
        if self.writes:
            tensors = {name: tensor.contiguous() for name, tensor in self.network.state_dict().items()}
            write_atomically(self.folder / name, lambda f: save_file(tensors, f.name), mode="wb")

    def _save_snapshot(self) -> None:
        if not self.writes:
            return
        state = self._identity() | {
            "experiment": json.loads(json.dumps(asdict(self.experiment))),
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "iteration": self.iteration,
            "seconds": self.seconds,
            "history": self.history,
            "sums": self.sums,
            "best": self.best,
            "commits": self.commits,
        }
        write_atomically(self.snapshot, lambda f: torch.save(state, f), mode="wb")

    def _resume(self) -> None:
        try:
            state = torch.load(self.snapshot, map_location="cpu", weights_only=True)
        except Exception as error:
            raise SnapshotError(f"{self.snapshot} cannot be read ({error}); delete it to start anew") from error
        self._refuse_another(self.snapshot, state)
        try:
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.iteration, self.seconds = state["iteration"], state["seconds"]
            self.history, self.sums, self.best = state["history"], state["sums"], state.get("best", {})
            self.commits = state.get("commits", [])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise SnapshotError(f"{self.snapshot} is not whole ({error}); delete it to start anew") from error

    def _refuse_another(self, file: Path, state: Any) -> None:
        """Raise SnapshotError if what is stored is not of a run, or of another experiment or seed."""
        if not isinstance(state, dict) or not {"experiment", "seed", "config_hash"} <= state.keys():
            raise SnapshotError(f"{file} holds something else than a run, expected its experiment and seed; move it "
                                "away, or choose another run folder")
        differences = self.experiment.differences(state["experiment"])
        if state["seed"] != self.seed:
            differences.append(f"seed: {self.seed}, {state['seed']}")
        if differences:
            raise SnapshotError(
                f"{file} is of another run. This one and that one differ in {'; '.join(differences)} (configuration "
                f"{self.experiment.config_hash}, {state['config_hash']}). Choose another run folder, or delete the file"
            )

    def _finish(self) -> dict[str, Any]:
        if self.history[-1].get("miou_initial") is None:
            raise RuntimeError("the last epoch was not validated")
        if not hasattr(self, "scores"):  # interrupted after the last snapshot
            self.scores = {name: evaluation.as_dict() for name, evaluation in self.evaluate().items()}
        self._save_weights("checkpoint.safetensors")
        several = {"commits": self.commits} if len(self.commits) > 1 else {}
        result = self._identity() | {
            "metrics": self.scores,
            "split": self.experiment.val_split,
            "best_validation": self.best,
            "pictures": {"train": len(self.train_samples), "val": len(self.val_samples)},
            "data_fingerprint": fingerprint([*self.train_samples, *self.val_samples]),
            "parameters": sum(p.numel() for p in self.network.parameters()),
            "initial_weights": self.load_report,
            "duration_seconds": round(self.seconds, 1),
            "peak_memory_gib": round(peak_memory(self.device), 3),
            **provenance(self.device),
            "commit": self.commit,
            **several,
            "processes": processes.count(),
            "experiment": asdict(self.experiment),
        }
        if self.writes:
            write_json(self.result, result)
            self.snapshot.unlink(missing_ok=True)
        processes.wait()
        return json.loads(self.result.read_text())

    def _finished_result(self) -> dict[str, Any]:
        result = json.loads(self.result.read_text())
        self._refuse_another(self.result, result)
        return result


if __name__ == "__main__":
    from ovenet_core.launch import main

    main()
