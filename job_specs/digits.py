"""scikit-learn's handwritten digits and a small convolutional network for them.

How the network is trained stands in digits_cnn.yaml.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import Dataset


class DigitsCNN(nn.Module):
    """Four 3x3 convolutions with a halving after each pair, the mean over pixels, a linear head.

    The norms are GroupNorm: unlike BatchNorm they do not depend on how a batch is cut into ranks.
    """

    def __init__(self, *, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_conv_block(1, width),
            *_conv_block(width, width),
            nn.MaxPool2d(2),
            *_conv_block(width, 2 * width),
            *_conv_block(2 * width, 2 * width),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(2 * width, 10),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 1, 8, 8) to logits (B, 10)."""
        return self.layers(images)


def _conv_block(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False),
        nn.GroupNorm(num_groups=8, num_channels=out_channels),
        nn.ReLU(),
    ]


class Digits(Dataset[tuple[Tensor, Tensor]]):
    """Pairs of an image (1, 8, 8), float32 in 0..1, and its label, an int64 scalar in 0..9."""

    def __init__(self, images: Tensor, labels: Tensor, *, max_shift: int) -> None:
        """Takes images (N, 8, 8) and labels (N,); shifts each image by at most `max_shift`."""
        self._padded_images = F.pad(images, [max_shift] * 4)
        self._labels = labels
        self._max_shift = max_shift

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        # The launcher seeds torch's generator for each sample, so the same shift comes again
        # in whichever process the sample is drawn, and after a resume.
        top, left = torch.randint(2 * self._max_shift + 1, (2,)).tolist()
        image = self._padded_images[index, top : top + 8, left : left + 8]
        return image.unsqueeze(0), self._labels[index]


def digits(*, split: Literal["train", "test"] = "train", augment: bool | None = None) -> Digits:
    """The 1,437 training or the 360 test images; every fifth image of each class is for the test.

    `augment` shifts images at random by up to one pixel; absent, it does so for training only.
    """
    bunch = load_digits()
    images = torch.from_numpy(bunch.images).float() / 16  # pixels are counts from 0 to 16
    labels = torch.from_numpy(bunch.target)

    is_test = torch.zeros(len(labels), dtype=torch.bool)
    is_test[labels.argsort(stable=True)[::5]] = True
    chosen = is_test if split == "test" else ~is_test

    if augment is None:
        augment = split == "train"
    return Digits(images[chosen], labels[chosen], max_shift=int(augment))
