"""From pictures to predictions and scores."""

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from tqdm.auto import tqdm

from ovenet_core.benchmarks import Benchmark, Sample
from ovenet_core.metrics import ConfusionMatrix, Scores
from ovenet_core.ovenet import Prediction

MEAN = (0.485, 0.456, 0.406)  # of ImageNet, RGB in [0, 1]
DEVIATION = (0.229, 0.224, 0.225)


def normalise(
    images: UInt8[Tensor, "batch 3 height width"], channels_last: bool = False
) -> Float[Tensor, "batch 3 height width"]:
    """RGB in [0, 255] to what the network expects: [0, 1], minus the ImageNet mean, over the ImageNet deviation."""
    mean, deviation = (torch.tensor(v, device=images.device).view(3, 1, 1) for v in (MEAN, DEVIATION))
    images = (images.float() / 255 - mean) / deviation
    return images.contiguous(memory_format=torch.channels_last) if channels_last else images


def predict(
    network: nn.Module,
    image: UInt8[np.ndarray, "height width 3"],
    *,
    picture_size: tuple[int, int] | None = None,
    channels_last: bool = False,
) -> Prediction:
    """The network's prediction for one picture (RGB), resized to `picture_size` (height, width) first if given."""
    if picture_size is not None:
        image = cv2.resize(image, picture_size[::-1], interpolation=cv2.INTER_AREA)
    device = next(network.parameters()).device
    pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).to(device)
    with torch.inference_mode():
        return network(normalise(pixels[None], channels_last))


def classes(prediction: Prediction, size: tuple[int, int]) -> dict[str, UInt8[Tensor, "height width"]]:
    """The predicted train ids of S_i, S_s and S_f for one picture, at (height, width)."""
    outputs = prediction.outputs().items()
    return {name: prediction.enlarged(o.main, size).argmax(1)[0].to(torch.uint8) for name, o in outputs}


def evaluate(
    network: nn.Module,
    data: Benchmark,
    samples: list[Sample],
    *,
    picture_size: tuple[int, int] | None = None,
    channels_last: bool = False,
    progress: bool = True,
) -> dict[str, Scores]:
    """Scores of S_i, S_s and S_f over labelled samples, at the size of the labels; the network's mode is kept."""
    training = network.training
    network.eval()
    matrices: dict[str, ConfusionMatrix] = {}
    for sample in tqdm(samples, desc="scoring", unit="picture", leave=False, disable=not progress):
        image, label = data.read(sample)
        prediction = predict(network, image, picture_size=picture_size, channels_last=channels_last)
        target = torch.from_numpy(np.ascontiguousarray(label))
        for name, ids in classes(prediction, label.shape).items():
            matrix = matrices.setdefault(name, ConfusionMatrix(data.num_classes))
            matrix.update(ids, target.to(ids.device))
    network.train(training)
    return {name: matrix.scores() for name, matrix in matrices.items()}
