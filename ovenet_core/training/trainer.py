"""The training loop: accumulated gradients, the history, snapshots that continue exactly, and the result of a run.

A run is one experiment with one seed and leaves one folder: `config.json`, `history.csv`, `snapshot.pt` until it is
done, `best.safetensors` (weights of the best validation), `checkpoint.safetensors` (the last ones) and `result.json`.
The first process alone writes them, each file whole or not at all.
"""

import copy
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ovenet_core import utils
from ovenet_core.data import Sample, fingerprint
from ovenet_core.evaluation import Evaluation
from ovenet_core.layers import normalise
from ovenet_core.losses import OVeNetLoss
from ovenet_core.ovenet import OVeNet
from ovenet_core.training import checkpoint
from ovenet_core.training.config import Experiment, autocast
from ovenet_core.utils import RunError, SnapshotError, commit, run_folder_lock, short_hash, write_atomically, write_json


class DivergedError(RunError):
    """The loss or its gradient is not finite; `where` names the images of the batch."""


@dataclass
class TrainingState:
    """How far a run has come, besides network, optimizer and learning rate; a snapshot holds all of it."""

    iteration: int = 0  # iterations done
    seconds: float = 0.0  # training time so far
    history: list[dict[str, float]] = field(default_factory=list)  # one row for each epoch
    loss_sums: dict[str, float] = field(default_factory=dict)  # loss terms since the last row of the history
    best: dict[str, float] = field(default_factory=dict)  # epoch and mIoU of the best validation
    metrics: dict[str, dict] = field(default_factory=dict)  # of the last validation, for each prediction
    commits: list[str] = field(default_factory=list)  # of the code that has trained this run
    load_report: str = "random"  # where the initial weights come from


@dataclass(eq=False, repr=False)
class Trainer:
    """One run. `factory.create_trainer` builds the parts.

    Raises:
        SnapshotError: the folder holds another experiment, seed or images, or a damaged snapshot.
    """

    experiment: Experiment
    seed: int
    folder: Path  # where the run's files go; a snapshot in it is continued
    network: OVeNet  # on its device, with its initial values, or with the trained ones if the run is done
    loss: OVeNetLoss
    optimizer: Optimizer
    scheduler: LRScheduler  # steps once an iteration
    loader: DataLoader  # gives the parts of each batch; its batch sampler is a `DistributedBatchSampler`
    validate: Callable[..., dict[str, Evaluation]]  # scores the network; its second argument shows how far it is
    samples: Mapping[str, Sequence[Sample]]  # the images of "train" and "val"
    load_report: str = "random"  # where the network's initial values come from
    snapshot_every: int | None = None  # iterations; by default one epoch
    progress: bool = True  # show a progress bar

    def __post_init__(self):
        self.parts = {"network": self.network, "optimizer": self.optimizer, "scheduler": self.scheduler}
        self.batches, self.device = self.loader.batch_sampler, next(self.network.parameters()).device
        self.is_main_process = utils.rank() == 0
        self.progress = self.progress and self.is_main_process
        self.snapshot_every = self.snapshot_every or self.batches.per_epoch
        self.commit = commit()  # of the code that runs, even if the files change meanwhile
        self.snapshot, self.result = self.folder / checkpoint.SNAPSHOT, self.folder / checkpoint.RESULT
        self.images = {split: [len(s), short_hash([i.name for i in s])] for split, s in self.samples.items()}
        self.state = TrainingState(load_report=self.load_report)
        weights = {name: tensor.to("cpu", copy=True) for name, tensor in self.network.state_dict().items()}
        self.initial = copy.deepcopy(self._stored() | {"network": weights})  # to begin again before any snapshot
        self.snapshot_mtime, self.interrupted = 0, False  # interrupted: an error has left something half done
        if self.result.exists():
            result = checkpoint.read_run(self.result, self.experiment, self.seed)
            self.state.load_report = result.get("initial_weights", "")
            if (trained := self.folder / checkpoint.CHECKPOINT).exists():
                self.network.load_state_dict(load_file(trained))
        elif self.snapshot.exists():
            self._restore()

    def run(self, stop_after: int | None = None) -> dict[str, Any] | None:
        """Train to the end and return the result; or stop after iteration `stop_after` with a snapshot (None).

        A finished run is not repeated. An interrupted one keeps its last snapshot; called again, it goes on from there.

        Raises:
            DivergedError: the loss or its gradient is not finite; the last snapshot stays.
            RunError: another process trains in the same folder.
        """
        if self.result.exists():
            return self._done()
        with run_folder_lock(self.folder) if self.is_main_process else nullcontext():
            utils.barrier()
            if self.result.exists():  # another process has finished it meanwhile
                return self._done()
            if self.is_main_process:
                utils.remove_unfinished(self.folder)
                write_json(self.folder / checkpoint.CONFIG, checkpoint.run_identity(self.experiment, self.seed))
            return self._train(stop_after)

    def _train(self, stop_after: int | None) -> dict[str, Any] | None:
        if self.interrupted or self.snapshot_mtime != checkpoint.snapshot_mtime(self.snapshot):
            self._restore()
        state, total = self.state, self.batches.total
        self.interrupted = True
        state.commits = sorted({*state.commits, self.commit})
        self.network.train()
        network = DistributedDataParallel(self.network) if utils.world_size() > 1 else self.network
        self.step_network = torch.compile(network) if self.experiment.compile else network
        self.batches.start = state.iteration
        self.started = time.perf_counter() - state.seconds
        bar = tqdm(total=total, initial=state.iteration, desc="training", unit="it", disable=not self.progress)
        parts_of_batches = iter(self.loader)
        while parts := list(itertools.islice(parts_of_batches, self.batches.accumulation_steps)):
            self._step(parts)
            bar.update()
            self._record(bar)
            self.scheduler.step()
            stop = state.iteration == stop_after and state.iteration < total
            if stop or state.iteration % self.snapshot_every == 0:
                self._save_snapshot()
            if stop:
                self.interrupted = False
                return None
        bar.close()
        self._save_weights(checkpoint.CHECKPOINT)
        if self.is_main_process:
            write_json(self.result, self._result())
        utils.barrier()
        return self._done()

    def _step(self, parts: Sequence[Sequence]) -> None:
        """Do one iteration: accumulate the gradients of the parts of a batch, weighted by their share of it."""
        # Random numbers (dropout) follow from seed, iteration and rank, as the images do: nothing has to be restored.
        random = np.random.SeedSequence([self.seed, self.state.iteration, utils.rank()])
        torch.manual_seed(int(random.generate_state(1)[0]))
        self.optimizer.zero_grad(set_to_none=True)
        # Losses are shares of the sum over all processes, but DDP averages gradients over them.
        scale = self.experiment.loss_weight * utils.world_size()
        batch_losses: dict[str, float] = {}
        for step, (images, labels, _) in enumerate(parts):
            weight, accumulate_only = self.batches.weights[step], utils.world_size() > 1 and step < len(parts) - 1
            with self.step_network.no_sync() if accumulate_only else nullcontext():
                with autocast(self.experiment, self.device):
                    images = normalise(images.to(self.device, non_blocking=True))
                    prediction = self.step_network(images)
                terms = self.loss(prediction, labels.to(self.device, non_blocking=True))
                names, own = zip(*terms.items(), strict=True)
                values = utils.all_reduce_sum(torch.tensor(own, dtype=torch.float64)).tolist()
                losses = dict(zip(names, values, strict=True))
                if not np.isfinite(values).all():
                    self._raise_diverged(losses, [parts[step]])
                (terms.total * weight * scale).backward()
            batch_losses = {name: batch_losses.get(name, 0.0) + weight * loss for name, loss in losses.items()}
        norm = float(nn.utils.get_total_norm([p.grad for p in self.network.parameters() if p.grad is not None]))
        if not np.isfinite(norm):
            self._raise_diverged(batch_losses | {"norm of the gradient": norm}, parts)
        self.optimizer.step()
        self.state.iteration += 1
        sums = self.state.loss_sums
        self.state.loss_sums = {name: sums.get(name, 0.0) + loss for name, loss in batch_losses.items()}

    def _raise_diverged(self, values: dict[str, float], parts: Sequence[Sequence]) -> None:
        names = utils.all_gather([name for *_, names in parts for name in names])
        where = f"iteration {self.state.iteration}, images {', '.join(itertools.chain(*names))}"
        found = f"a loss of {values} at learning rate {self.scheduler.get_last_lr()[0]:.2g}"
        fix = "look at these images, or lower learning_rate in another run folder; the last snapshot is kept"
        raise DivergedError(where, found, "finite numbers", fix)

    def _record(self, bar: tqdm) -> None:
        """Show the loss; at the end of an epoch validate if it is time, and add a row to the history."""
        state, per_epoch = self.state, self.batches.per_epoch
        done_in_epoch = state.iteration % per_epoch or per_epoch
        means = {name: value / done_in_epoch for name, value in state.loss_sums.items()}
        rate = self.scheduler.get_last_lr()[0]
        bar.set_postfix(loss=f"{means['total']:.3f}", lr=f"{rate:.1e}", refresh=False)
        if done_in_epoch < per_epoch:
            return
        epoch = state.iteration // per_epoch
        losses = {"loss" if name == "total" else f"loss_{name}": value for name, value in means.items()}
        state.history.append({"iteration": state.iteration, "epoch": epoch, "lr": rate, **losses})
        if epoch % self.experiment.validate_every == 0 or epoch == self.experiment.epochs:
            self._validate(bar)
        state.loss_sums = {}
        if self.is_main_process:
            table = pd.DataFrame(state.history)
            write_atomically(self.folder / checkpoint.HISTORY, lambda file: table.to_csv(file, index=False))

    def _validate(self, bar: tqdm) -> None:
        state = self.state
        state.metrics = {name: e.as_dict() for name, e in self.validate(self.network, bar.set_postfix_str).items()}
        columns = {"S_i": "miou_initial", "S_s": "miou_seed", "S_f": "miou_fused"}
        state.history[-1] |= {columns[name]: scores["miou"] for name, scores in state.metrics.items()}
        epoch, final = state.history[-1]["epoch"], list(state.metrics)[-1]
        miou = state.metrics[final]["miou"]
        if self.progress:
            bar.write(f"epoch {epoch:4d}: mIoU of {final} {100 * miou:.2f}%")
        if miou > state.best.get("miou", -1):
            self._save_weights(checkpoint.BEST)
            state.best = {"epoch": epoch, "miou": miou}

    def _save_weights(self, name: str) -> None:
        if self.is_main_process:
            tensors = {name: tensor.contiguous() for name, tensor in self.network.state_dict().items()}
            write_atomically(self.folder / name, lambda file: save_file(tensors, file.name), mode="wb")

    def _stored(self) -> dict[str, Any]:
        """Return everything that training goes on from."""
        stored = checkpoint.run_identity(self.experiment, self.seed) | asdict(self.state) | {"images": self.images}
        return stored | {name: part.state_dict() for name, part in self.parts.items()}

    def _save_snapshot(self) -> None:
        self.state.seconds = time.perf_counter() - self.started
        if self.is_main_process:
            write_atomically(self.snapshot, lambda file: torch.save(self._stored(), file), mode="wb")
            self.snapshot_mtime = checkpoint.snapshot_mtime(self.snapshot)

    def _restore(self) -> None:
        """Go back to the snapshot, or to the initial state if there is none."""
        self.snapshot_mtime = checkpoint.snapshot_mtime(self.snapshot)
        run = (self.snapshot, self.experiment, self.seed)
        stored = checkpoint.read_run(*run) if self.snapshot_mtime else copy.deepcopy(self.initial)
        try:
            images = stored["images"]
            for name, part in self.parts.items():
                part.load_state_dict(stored[name])
            self.state = TrainingState(**{f.name: stored[f.name] for f in fields(TrainingState)})
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise SnapshotError(self.snapshot, error, "a whole snapshot", "delete the file to start again") from error
        checkpoint.refuse_other_images(self.snapshot, images, self.images)

    def _done(self) -> dict[str, Any]:
        """Return the result of a finished run, which needs its snapshot no longer."""
        result = checkpoint.read_run(self.result, self.experiment, self.seed)
        if self.is_main_process:
            with suppress(OSError):  # a finished run may lie where nothing can be changed
                self.snapshot.unlink(missing_ok=True)
        return result

    def _result(self) -> dict[str, Any]:
        state, identity = self.state, checkpoint.run_identity(self.experiment, self.seed)
        return {
            "config_hash": identity["config_hash"],
            "seed": self.seed,
            "metrics": state.metrics,
            "split": self.experiment.val_split,
            "best_validation": state.best,
            "images": {split: len(samples) for split, samples in self.samples.items()},
            "data_fingerprint": fingerprint([*self.samples["train"], *self.samples["val"]]),
            "parameters": sum(p.numel() for p in self.network.parameters()),
            "initial_weights": state.load_report,
            "duration_seconds": round(time.perf_counter() - self.started, 1),
            "peak_memory_gib": round(utils.peak_memory(self.device), 3),
            **utils.provenance(self.device),
            "commit": self.commit,
            **({"commits": state.commits} if len(state.commits) > 1 else {}),
            "processes": utils.world_size(),
            "experiment": identity["experiment"],
        }
