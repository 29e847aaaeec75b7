"""Measures the samples of some of the study's groups and puts their rows into figures/data/methods*.csv, in the place
of those that were there: for when the runs of the other groups are not here.

python reproduce/records/2026-11-21-objectives/samples.py GROUP [GROUP ...]     from the project's root; about 3 minutes
a run on two CPU threads; stopped, it goes on. GROUP: "equal steps", labels, ..., as figures/data/methods.csv has them
"""

import sys
from pathlib import Path

from defar_analysis import catalog
from defar_analysis.errors import DefarError
from defar_analysis.experiment import Experiment
from defar_analysis.studies.methods import remeasured

if __name__ == "__main__":
    try:
        if not sys.argv[1:]:
            raise DefarError('no group; name one, as "equal steps"')
        artefact = catalog.write(remeasured(Experiment(Path("."), "full"), sys.argv[1:]))
        print(*catalog.save(artefact, catalog.draw(artefact)), sep="\n")
    except DefarError as error:
        sys.exit(f"error: {error}")
