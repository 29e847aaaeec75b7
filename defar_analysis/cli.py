"""`defar`, the one command line: its subcommands are the functions in commands/."""

from __future__ import annotations

import os
import sys

try:
    import tyro
except ImportError:
    sys.exit("defar: error: the command line needs more than the core: pip install 'defar-analysis[analysis]'")

from .commands.bring import doctor, import_
from .commands.data import data
from .commands.figures import figure, measure, reproduce, table
from .commands.inspect import inspect
from .commands.quality import evaluate, robustness
from .commands.sample import sample
from .commands.train import train, train_autoencoder, train_discriminator
from .errors import DefarError, Interrupted, one_line

COMMANDS = {
    f.__name__.strip("_").replace("_", "-"): f  # import_ is a keyword without its underscore
    for f in (
        train,
        train_discriminator,
        train_autoencoder,
        sample,
        measure,
        inspect,
        evaluate,
        robustness,
        figure,
        table,
        reproduce,
        data,
        import_,
        doctor,
    )
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 for what the doctor found, 2 for a mistake to mend, 130
    when interrupted."""
    for stream in (sys.stdout, sys.stderr):  # a file's name may be of bytes that are no letters
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = tyro.extras.subcommand_cli_from_dict(
            COMMANDS, prog="defar", args=arguments, config=(tyro.conf.FlagCreatePairsOff,),
            description="Measure and mend exposure bias in flow matching.",
        )  # fmt: skip
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        return 130
    except DefarError as error:
        print(f"defar: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `defar ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"defar: error: {one_line(error)}", file=sys.stderr)
        return 2
    except MemoryError:
        print("defar: error: not enough memory; ask for less at once, such as a smaller --chunk", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("defar: interrupted; finished results are kept, the same command goes on", file=sys.stderr)
        return 130
    return status or 0


if __name__ == "__main__":
    sys.exit(main())
