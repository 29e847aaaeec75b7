"""A disk that is full, as the system tells it."""

import resource
from contextlib import contextmanager


@contextmanager
def full_after(size):
    """No file grows beyond `size` bytes: a write is refused in the middle, as it is on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
