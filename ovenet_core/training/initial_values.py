"""The values that a network begins to train with: random ones, official weights, a trained baseline."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from ovenet_core.ovenet import OCRHead, OVeNet
from ovenet_core.training.checkpoint import trained_run, weights_identity
from ovenet_core.training.config import Experiment
from ovenet_core.utils import ConfigError, RunError, read_state
from ovenet_core.weights import load_official, our_name, under_our_names


def initialise_as_authors(network: OVeNet) -> None:
    """Set the weights of convolutions to N(0, 0.001), with OCR only in backbone and offset branch; the rest as PyTorch.

    Biases are PyTorch's too. Offsets then do not begin at zero.
    """
    as_pytorch = ("semantic_head.", "offset_head.head.") if isinstance(network.semantic_head, OCRHead) else ()
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()
            if not name.startswith(as_pytorch):
                nn.init.normal_(module.weight, std=0.001)


def load_initial_weights(
    network: OVeNet, experiment: Experiment, weights: str | Path | None, init_from: str | Path | None
) -> str:
    """Set the initial values that an experiment asks for besides random ones; return where they come from.

    Raises:
        ConfigError: the file or the folder that the experiment names is not given.
        RunError: `init_from` is not finished, or is of OVeNet, or of another backbone, width or number of classes.
    """
    name, reports = experiment.pretrained, []
    if name:
        if weights is None or Path(weights).name != name:
            raise ConfigError("weights", weights, f"the path of {name}, which the experiment starts from", "give it")
        state, widened = read_state(weights), 0
        if experiment.widen_pretrained:
            state, widened = widen(state, network)
        reports.append(str(load_official(network, state, name)))
        if widened:
            reports.append(f"  {widened} of them fill the first channels of wider layers, which see no others")
    if experiment.init_from:
        if init_from is None:
            expected = f"a finished run or weights of {experiment.init_from}, which the experiment starts from"
            raise ConfigError("init_from", None, expected, "give the folder or the file")
        reports.append(load_baseline(network, init_from))
    return "\n".join(reports) or "random"


def load_baseline(network: OVeNet, source: str | Path) -> str:
    """Give a network the backbone and the semantic head of a trained one (Table 5, "Fr"); return what was loaded.

    `source` is the folder of its run, or a file of weights.
    """
    expected, source = "a baseline with this network's backbone and classes", Path(source)
    file, e = (source, None) if source.is_file() else trained_run(source)
    state = under_our_names(read_state(file), file.name)
    own = {name: tensor.shape for name, tensor in network.state_dict().items() if not name.startswith("offset_head.")}
    others = own.items() ^ {name: tensor.shape for name, tensor in state.items()}.items()
    if any(not name.endswith("num_batches_tracked") for name, _ in others):  # which counts batches, and for nobody
        found, fix = "weights of another network", "give other weights"
        if e:
            system = "a baseline" if e.branch_stage is None else "OVeNet"  # which has an offset head too many
            found, fix = f"{system} ({e.backbone}, width {e.width}) on {e.benchmark}", "give its run folder"
        raise RunError(source, found, expected, fix)
    network.load_state_dict(state, strict=False)
    origin = f"a run of configuration {e.config_hash}" if e else file.name
    digest = weights_identity(file, e or Experiment())["weights"][:12]
    return f"backbone and semantic head from {origin}, weights {digest}"


def widen(state: Mapping[str, Tensor], network: nn.Module) -> tuple[dict[str, Tensor], int]:
    """Let official weights fill the first channels of each wider layer of a backbone; also say how many tensors did.

    These channels see no others and compute the same as before; the others keep the network's initial values. Heads
    are left as they are: they see the branches one behind the other, so their first channels are not a narrower one's.
    For a control of ours: HRNet with as many parameters as OVeNet.
    """
    own, widened, count = network.state_dict(), dict(state), 0
    for name, tensor in state.items():
        wide = own.get(our_name(name) or "")
        if wide is not None and our_name(name).startswith("backbone.") and _is_narrower(tensor, wide):
            widened[name], count = wide.clone(), count + 1
            widened[name][: len(tensor)] = 0
            widened[name][tuple(slice(size) for size in tensor.shape)] = tensor
    return widened, count


def _is_narrower(tensor: Tensor, own: Tensor) -> bool:
    """Return whether it has fewer output or input channels, and not more, and is else the same."""
    fewer = [a <= b for a, b in zip(tensor.shape[:2], own.shape[:2], strict=False)]
    return tensor.dim() == own.dim() and tensor.shape != own.shape and all(fewer) and tensor.shape[2:] == own.shape[2:]
