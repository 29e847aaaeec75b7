"""The one exception that a user is meant to read."""

LONGEST = 1500  # characters of a message: a value out of a hostile file may have millions


class DefarError(ValueError):
    """A mistake the caller can mend.

    The message is one line: it names the offending value and says what to do. The command line prints it without a
    traceback and exits with status 2; in a notebook it is an ordinary ``ValueError``.
    """

    def __str__(self) -> str:
        return visible(super().__str__())


def visible(text: str) -> str:
    """Text that somebody else wrote, a file's name or a value in it, as one line that a terminal shows and does not
    obey: control signs and bytes that are no letters as Python escapes, the middle of what is too long left out."""
    if len(text) > LONGEST:  # values stand at the beginning, mends at the end
        text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 3 :]}"
    return "".join(sign if sign.isprintable() or (sign.isspace() and sign not in _BREAKS) else ascii(sign)[1:-1]
                   for sign in text)  # fmt: skip


_BREAKS = "\t\n\v\f\r\x1c\x1d\x1e\x1f\x85\u2028\u2029"


def reason(error: BaseException, longest: int = 120) -> str:
    """What another library says of a broken file, in a few words on one line."""
    return " ".join(str(error).split())[:longest] or type(error).__name__


def one_line(error: OSError) -> str:
    """What the system refused, to which file, in one line: a full disk, a read-only or missing folder."""
    return visible(
        f"{error.filename or 'a file'}: {error.strerror or error}; choose another place, or make room and run again"
    )


class Interrupted(Exception):
    """Long work was asked to stop and has saved its state; the message says how to go on. Exit status 130."""
