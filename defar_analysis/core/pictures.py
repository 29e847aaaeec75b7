"""Pictures in folders: which there are, and reading one as a square array of bytes."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from defar_analysis.core.cifar10 import one_line
from defar_analysis.errors import DefarError

ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
FORMATS = ("PNG", "JPEG", "BMP", "WEBP")  # whatever the name says: of Pillow's other readers one starts Ghostscript
MOST_PIXELS = 89_478_485  # of a picture, before or after it is resized: 268 MB as RGB, and where Pillow warns


def visible(folder: Path) -> list[Path]:
    """What is in a folder and not hidden, sorted."""
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _pictures(folder: Path) -> list[Path]:
    named = [file for file in visible(folder) if file.suffix.lower() in ENDINGS and not file.is_dir()]
    for file in named:
        if not file.is_file():  # left out, it would be missed, or shift its class's labels
            raise DefarError(f"{file}: is no file, perhaps a link to nowhere; mend or remove it")
    return named


def list_pictures(path: Path) -> tuple[list[Path], np.ndarray | None]:
    """The pictures and their labels, the place of a class's folder among the sorted ones; None for a flat folder."""
    flat, folders = _pictures(path), [entry for entry in visible(path) if entry.is_dir()]
    classes = [_pictures(folder) for folder in folders]
    if flat and any(classes):
        raise DefarError(f"{path}: pictures both in it and in its subfolders; keep either classes or one flat folder")
    if flat:
        return flat, None
    if not any(classes):
        raise DefarError(f"{path}: no pictures ({', '.join(sorted(ENDINGS))}) in it or in its subfolders")
    for folder, files in zip(folders, classes, strict=True):
        if not files:
            raise DefarError(f"{folder}: a class without pictures; fill it or remove it")
    everything = [file for files in classes for file in files]
    return everything, np.repeat(np.arange(len(classes)), [len(files) for files in classes])


def read_picture(
    file: Path, size: int | None, shape: tuple[int, ...] | None, crop: Callable | None = None
) -> np.ndarray:
    """One picture as (3,H,W) uint8; shape: what it must be, asked before any pixel is decoded. size: its side after
    crop(picture, size), by default `square`. Raises DefarError naming the picture."""
    try:
        from PIL import Image
    except ImportError as error:
        raise DefarError(f"{file}: reading pictures needs pillow: pip install pillow") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=FORMATS) as picture:
                deep = any(";16B" in str(tile) for tile in picture.tile)  # Pillow would cut 16-bit RGB, and not say so
                if picture.mode.startswith(("I", "F")) or deep:
                    raise DefarError(f"{file}: more than 8 bits per channel ({picture.mode}); convert it to 8-bit RGB")
                width, height = picture.size
                if width * height > MOST_PIXELS:
                    raise DefarError(f"{file}: refused, too many pixels ({width}x{height}); make it smaller")
                if size is None and shape not in (None, (3, height, width)):
                    raise DefarError(f"{file}: {width}x{height}, the others {shape[2]}x{shape[1]}; give a size")
                picture = picture.convert("RGB")
                picture = (crop or square)(picture, size) if size else picture
                return np.asarray(picture).transpose(2, 0, 1)
    except DefarError as error:
        raise DefarError(f"{file}: {str(error).removeprefix(f'{file}: ')}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DefarError(f"{file}: refused, too many pixels ({one_line(error)}); make it smaller") from error
    except Exception as error:  # PIL's decoders raise OSError, SyntaxError, struct.error, ... for a broken file
        raise DefarError(f"{file}: not a readable picture ({one_line(error)}); replace or remove it") from error


def square(picture, size: int):
    """The central square of a PIL picture, resized, antialiased."""
    from PIL import Image

    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BICUBIC)


def adm_square(picture, size: int):
    """ADM's centre crop: halve by boxes while the short side is at least twice `size`, resize it to `size` (bicubic),
    cut the centre. What latents of ImageNet are made of."""
    from PIL import Image

    while min(picture.size) >= 2 * size:
        picture = picture.resize(tuple(side // 2 for side in picture.size), resample=Image.Resampling.BOX)
    scale = size / min(picture.size)
    sides = tuple(round(side * scale) for side in picture.size)
    if sides[0] * sides[1] > MOST_PIXELS:
        raise DefarError(f"a strip of {picture.size} would become one of {sides} pixels; cut it before")
    picture = picture.resize(sides, resample=Image.Resampling.BICUBIC)
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    return picture.crop((left, top, left + size, top + size))
