"""The one exception that a user is meant to read."""


class DefarError(ValueError):
    """A mistake the caller can mend.

    The message is one line: it names the offending value and says what to do. The command line prints it without a
    traceback and exits with status 2; in a notebook it is an ordinary ``ValueError``.
    """


def one_line(error: OSError) -> str:
    """What the system refused, to which file, in one line: a full disk, a read-only or missing folder."""
    return f"{error.filename or 'a file'}: {error.strerror or error}; choose another place, or make room and run again"


class Interrupted(Exception):
    """Long work was asked to stop and has saved its state; the message says how to go on. Exit status 130."""
