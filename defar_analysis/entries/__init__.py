"""The catalog's entries: what each figure and table is built from, how it is drawn and what is said below it."""

from .paper import FIGURES, TABLES_AND_CLAIMS
from .questions import QUESTIONS
from .studies import STUDIES

__all__ = ["ENTRIES"]

ENTRIES = (*FIGURES, *STUDIES, *QUESTIONS, *TABLES_AND_CLAIMS)
