"""Another project's model -> a checkpoint of ours, once: read, told apart, converted, checked, then written."""

from __future__ import annotations

from pathlib import Path

from ...errors import DefarError
from ..factories import is_factory
from .diffusers_folder import from_folder
from .known import from_family
from .options import ImportOptions
from .own import from_card, from_factory


def import_model(
    source: str | Path, out: Path, asked: ImportOptions | None = None, weights_file: Path | None = None
) -> list[str]:
    """Convert `source` into the checkpoint `out` and say, line by line, what was taken and what was done to it.

    source: a file of weights of a known family; a folder of diffusers; "my_model:build", the user's own factory, whose
    weights are in weights_file; or a .toml that names one. Naming a factory here is trust, naming it in a file is none.
    Raises DefarError, and writes nothing, for whatever is broken, ambiguous or unknown.
    """
    asked = asked or ImportOptions()
    if is_factory(str(source)) and not Path(source).exists():
        return from_factory(str(source), Path(out), asked, weights_file, trust=(str(source),))
    if Path(source).suffix == ".toml":
        return from_card(Path(source), Path(out), asked, weights_file)
    if weights_file is not None:
        raise DefarError(f"{weights_file}: a second file goes with a factory, such as my_model:build, only")
    if Path(source).is_dir():
        return from_folder(Path(source), Path(out), asked)
    return from_family(Path(source), Path(out), asked)
