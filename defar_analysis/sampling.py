"""From a checkpoint to a file of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .core.checkpoints import load_checkpoint
from .core.devices import resolve_device
from .core.samplers import Euler, Heun, sample
from .core.seeding import balanced_labels, image_noise
from .errors import DefarError
from .files import replaced


def sample_to_file(
    checkpoint: Path, out: Path, count: int = 64, steps: int = 50, solver: str = "euler", seed: int = 0, device="auto"
) -> str:
    """Sample `count` images, classes in turn, into a .png grid or an .npz; returns one line that says what it cost."""
    out = Path(out)
    if out.suffix not in (".png", ".npz"):
        raise DefarError(f"{out}: give a name ending in .png or .npz")
    if count < 1 or steps < 1:
        raise DefarError(f"count = {count} and steps = {steps} must both be at least 1")
    if not out.parent.is_dir():
        raise DefarError(f"{out.parent}: no such folder; make it first")
    where = resolve_device(device)
    loaded = load_checkpoint(checkpoint, device=where)
    indices = range(count)
    labels = None if loaded.classes is None else balanced_labels(indices, loaded.classes)
    drawn = sample(
        loaded.model, image_noise(seed, indices, loaded.shape).to(where), {"euler": Euler, "heun": Heun}[solver](steps),
        interpolant=loaded.interpolant, labels=None if labels is None else labels.to(where),
    )  # fmt: skip
    images = loaded.codec.decode(drawn.x).permute(0, 2, 3, 1).cpu().numpy()
    if out.suffix == ".npz":
        with replaced(out) as beside, open(beside, "wb") as file:
            np.savez(file, arr_0=images, **({} if labels is None else {"arr_1": labels.numpy()}))
    else:
        from PIL import Image

        with replaced(out) as beside:
            Image.fromarray(image_grid(images)).save(beside, format="PNG")
    return f"{out}: {count} images, {solver} with {steps} steps, {drawn.nfe} evaluations for each image, seed {seed}"


def image_grid(images: np.ndarray) -> np.ndarray:
    """(N, H, W, C) uint8 -> one picture, about square, in reading order, empty places white."""
    count, height, width, channels = images.shape
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    padded = np.full((rows * columns, height, width, channels), 255, np.uint8)
    padded[:count] = images
    grid = padded.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    return np.squeeze(grid.reshape(rows * height, columns * width, channels))
