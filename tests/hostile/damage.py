"""What goes wrong with any file: cut short, bits flipped, pieces of it exchanged, something else under its name."""

import random
from collections.abc import Iterator


def damaged(whole: bytes, flips: int = 12, splices: int = 4, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """(what is wrong, content) of copies of a whole file."""
    chance = random.Random(seed)
    for part in (0.0, 0.01, 0.1, 0.3, 0.5, 0.9, 0.99):
        yield f"{part} of it", whole[: int(part * len(whole))]
    for _ in range(flips):
        broken = bytearray(whole)
        places = [chance.randrange(len(whole)) for _ in range(chance.choice((1, 3, 30)))]
        for place in places:
            broken[place] ^= 1 << chance.randrange(8)
        yield f"bits flipped at {sorted(places)[:3]}", bytes(broken)
    for _ in range(splices):
        start, end = sorted(chance.randrange(len(whole)) for _ in range(2))
        yield f"bytes {start} to {end} twice", whole[:end] + whole[start:]
        yield f"bytes {start} to {end} gone", whole[:start] + whole[end:]


def something_else() -> Iterator[tuple[str, bytes]]:
    """Files that are of no kind that anybody asked for."""
    yield "nothing", b""
    yield "one byte", b"\x80"
    yield "text", b"hello\n"
    yield "a web page", b"<!doctype html><html>404</html>"
    yield "a pointer of git LFS", b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 1\n"
    yield "noise", bytes(range(256)) * 8
    yield "zeros", b"\0" * 4096
    yield "a pickle that would run code", b"cos\nsystem\n(S'touch code_was_run'\ntR."
