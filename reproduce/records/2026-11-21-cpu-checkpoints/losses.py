"""The README's table: velocity loss of the shipped checkpoints and of the Gaussian reference on 512 test images."""

from pathlib import Path

import torch

from defar_analysis import GaussianFlow, cifar10, load_checkpoint
from defar_analysis.core.seeding import image_noise

FOLDERS = [Path(__file__).parents[2] / "checkpoints" / name for name in ("cifar10-defar", "cifar10-sit")]

train, test = cifar10("train"), cifar10("test")
starts = range(0, len(train), 1000)
fields = {"Gaussian reference": GaussianFlow.fit(train.batch(range(s, s + 1000)).data for s in starts)}
fields |= {folder.name: load_checkpoint(folder).model for folder in FOLDERS}
batch = test.batch(range(512))
noise = image_noise(123, range(512), batch.data.shape[1:])
for name, field in fields.items():
    losses = []
    for t in (0.1, 0.3, 0.5, 0.7, 0.9):
        x = t * batch.data + (1 - t) * noise
        with torch.no_grad():
            velocity = field(x, torch.full((512,), t), batch.labels)
        losses.append(float((velocity - (batch.data - noise)).square().mean()))
    print(name, *(f"{loss:.4f}" for loss in losses))
