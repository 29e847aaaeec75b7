"""Hostile pictures: headers that claim too much, formats in disguise, depths and layers that nobody asked for."""

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from hostile.damage import damaged, something_else

SIDE = 8
PIXELS = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
POSTSCRIPT = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 8 8
%%EndComments
(code_was_run) (w) file closefile
showpage
%%EOF
"""


def picture(kind: str, image: Image.Image | None = None, **options: object) -> bytes:
    buffer = io.BytesIO()
    (image or Image.fromarray(PIXELS)).save(buffer, format=kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int = 8, colour: int = 2, data: bytes = b"", more: bytes = b"") -> bytes:
    """A PNG that says what it is told to say; data: what its pixels unpack to; more: chunks before these."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(data))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + more + pixels + chunk(b"IEND", b"")


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def hostile_pictures() -> Iterator[tuple[str, str, bytes]]:
    """(what is wrong, a name, content). Some are merely odd, and may be read as what they show."""
    for seed, (kind, suffix) in enumerate((("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp"), ("BMP", "bmp"))):
        for what, content in damaged(picture(kind), flips=25, splices=8, seed=seed):
            yield f"{kind}, {what}", f"a.{suffix}", content
        for what, content in something_else():
            yield f"{kind}, {what}", f"a.{suffix}", content
    yield from _bombs()
    for kind in ("GIF", "TIFF", "PPM", "TGA", "ICO", "PCX", "PDF", "DDS", "SGI", "IM", "MSP"):
        image = Image.fromarray(PIXELS).convert("1" if kind == "MSP" else "RGB")
        yield f"{kind} under another name", "a.png", picture(kind, image)
    yield "EPS, which Pillow gives to Ghostscript", "a.png", POSTSCRIPT
    yield "a script in SVG", "a.png", b'<svg xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>'
    yield "JPEG under another name", "a.png", picture("JPEG")
    for mode in ("L", "P", "LA", "RGBA", "1"):
        yield f"mode {mode}", "a.png", picture("PNG", Image.fromarray(PIXELS).convert(mode))
    yield "CMYK", "a.jpg", picture("JPEG", Image.fromarray(PIXELS).convert("CMYK"))
    yield "16 bits, grey", "a.png", picture("PNG", Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257))
    deep = (b"\0" + bytes(SIDE * 6)) * SIDE
    yield "16 bits, colours", "a.png", png(SIDE, SIDE, 16, 2, deep)
    frames = [Image.fromarray(np.roll(PIXELS, k, 0)) for k in range(3)]
    for kind in ("PNG", "WEBP"):
        moving = picture(kind, frames[0], save_all=True, append_images=frames[1:])
        yield f"animated {kind}", f"a.{kind.lower()}", moving
    yield "another size", "a.png", picture("PNG", Image.fromarray(np.zeros((9, 8, 3), np.uint8)))


def _bombs() -> Iterator[tuple[str, str, bytes]]:
    for width, height in (
        (100_000, 100_000),
        (2**31 - 1, 2**31 - 1),
        (2**31 - 1, 1),
        (0, 0),
        (0, 8),
        (50_000, 2_000),
        (2**32 - 1, 8),
        (100_000, 1),
        (1, 100_000),
    ):
        for depth, colour in ((8, 2), (1, 0), (16, 6), (8, 3)):
            yield f"PNG of {width} x {height}, {depth} bits", "a.png", png(width, height, depth, colour)
    yield "100,000 x 1, whole", "a.png", png(100_000, 1, data=b"\0" * 300_001)
    yield "100,000 x 100,000, its zeros whole", "a.png", png(100_000, 100_000, data=b"\0" * 10_000_000)
    for width, height in ((100_000, 100_000), (2**31 - 1, 2**31 - 1), (-1, 8), (8, -(2**31))):
        head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
        yield f"BMP of {width} x {height}", "a.bmp", b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + head + b"\0" * 64
    jpeg = bytearray(picture("JPEG"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", 65_500, 65_500)
    yield "JPEG of 65,500 x 65,500", "a.jpg", bytes(jpeg)
    text = zlib.compress(b"a" * (64 << 20), 9)
    for kind in (b"zTXt", b"iCCP"):
        told = chunk(kind, b"name\0\0" + text)
        yield f"PNG with {kind.decode()} of 64 MB", "a.png", png(SIDE, SIDE, more=told)
    yield "PNG with a chunk of 2 GB", "a.png", png(SIDE, SIDE, more=struct.pack(">I", 2**31 - 1) + b"teXt")
    yield "PNG of 100,000 chunks", "a.png", png(SIDE, SIDE, more=chunk(b"teXt", b"") * 100_000)
