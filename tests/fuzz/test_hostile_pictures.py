"""Pictures that somebody else made, in folders of images and on their way into latents."""

import os
import shutil

import numpy as np
import pytest
from hostile.pictures import PIXELS, SIDE, hostile_pictures, picture, png
from PIL import Image

from defar_analysis.core.datasets import image_folder
from defar_analysis.core.latent_shards import open_source
from defar_analysis.core.pictures import adm_square, read_picture


def shown(dataset):
    """Whether the first picture is the good one, and the second looks like something."""
    return np.array_equal(dataset.images[0], PIXELS.transpose(2, 0, 1)) and dataset.images.shape == (2, 3, SIDE, SIDE)


@pytest.mark.filterwarnings("ignore")
def test_a_picture_is_read_or_refused_by_its_name(watch, monkeypatch):
    ghostscript = watch.top / "gs"  # Pillow starts it for EPS, whatever the file's name says
    ghostscript.write_text(f"#!/bin/sh\n: > {watch.top}/code_was_run\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", str(watch.top))
    folder = watch.top / "pictures"
    folder.mkdir()
    (folder / "0.png").write_bytes(picture("PNG"))
    for what, name, content in hostile_pictures():
        (folder / name).write_bytes(content)
        for size in (None, SIDE):
            line = watch(what, lambda size=size: image_folder(folder, size=size), shown)
            assert not line or str(folder / name) in line, (what, line)
        (folder / name).unlink()
    watch.done("pictures, in folders")


@pytest.mark.filterwarnings("ignore")
def test_a_picture_on_its_way_into_latents(watch):
    folder = watch.top / "pictures"
    folder.mkdir()
    for what, name, content in hostile_pictures():
        (folder / name).write_bytes(content)
        watch(what, lambda: open_source(str(folder), size=16).read(range(1)), lambda x: x.shape == (1, 3, 16, 16))
        (folder / name).unlink()
    watch.done("pictures, as latents")


def test_too_many_pixels_are_refused_though_pillow_would_take_them(watch, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    file = watch.top / "huge.png"
    for width, height in ((100_000, 100_000), (100_000, 1_000), (2**31 - 1, 1)):
        file.write_bytes(png(width, height))
        assert "too many pixels" in watch(f"{width} x {height}", lambda: read_picture(file, 8, None))
    watch.done("bombs of pixels")


def test_a_long_strip_is_not_made_longer(watch):
    file = watch.top / "strip.png"
    file.write_bytes(png(100_000, 1, data=b"\0" * 300_001))
    line = watch("a strip", lambda: read_picture(file, 256, None, adm_square))  # it would be 25,600,000 x 256
    assert "strip" in line and str(file) in line
    assert read_picture(file, 4, None).shape == (3, 4, 4)  # its central square is one pixel
    watch.done("strips")


def test_names_and_links(watch):
    folder, good = watch.top / "pictures", picture("PNG")

    def with_entry(make):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "0.png").write_bytes(good)
        make()
        return lambda: image_folder(folder)

    def linked(name, target):
        return lambda: (folder / name).symlink_to(target)

    names = ["a\nb.png", "\x1b[2J.png", "\u202egnp.png", "a" * 250 + ".png", "-rf.png", "$(touch code_was_run).png"]
    for name in [*names, os.fsdecode(b"\xff\xfe.png")]:
        call = with_entry(lambda name=name: (folder / name).write_bytes(good))
        watch(repr(name), call, lambda found: len(found) == 2)
        call = with_entry(lambda name=name: (folder / name).write_bytes(b"broken"))
        watch(repr(name), call)
        listed = open_source(str(folder), size=SIDE)  # a checksum over the names, whatever they are
        assert listed.count == 2
    for target in ("loop.png", "nowhere", "/dev/zero", "/dev/null", "/dev/full"):
        watch(target, with_entry(linked("loop.png", target)))
    watch("a pipe", with_entry(lambda: os.mkfifo(folder / "pipe.png")))
    watch("a link to its own folder", with_entry(linked("again", ".")))
    watch("nothing but a folder", with_entry(lambda: ((folder / "0.png").unlink(), (folder / "b.png").mkdir())))
    watch("a link to the good one", with_entry(linked("b.png", "0.png")), lambda found: len(found) == 2)
    for bad in (watch.top / "a\0b", watch.top / "none"):
        watch(str(bad), lambda bad=bad: image_folder(bad))
    watch.done("names and links")
