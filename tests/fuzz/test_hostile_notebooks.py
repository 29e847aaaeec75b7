"""Notebooks' parameters: what papermill writes into a cell is a value and never code, and the cell after it refuses
what it does not know in one line."""

import ast
import json
import math
import random
from pathlib import Path

import pytest
from papermill.translators import PythonTranslator

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CODE = (
    "'; import os; os.system('touch code_was_run'); '",
    '"; __import__("os").system("touch code_was_run"); "',
    '"""',
    "'''",
    '\\"; open("code_was_run", "w"); "',
    "\\",
    "\\\\",
    "\n%%bash\ntouch code_was_run",
    "!touch code_was_run",
    "{0.__class__}",
    "\0",
    "\x1b[2J",
    "\u2028import os",
    "\\N{BULLET}",
    "\\x22",
    "\\u0022",
    "é\\\n",
    "$(touch code_was_run)",
    "\ud800",
    "${HOME}",
    "\r",
)
OTHERS = (
    None,
    True,
    5,
    -1,
    2**70,
    1.5,
    math.nan,
    math.inf,
    -math.inf,
    [],
    ["tiny"],
    {},
    {"tiny": 1},
    "",
    "TINY",
    "best",
    "../full",
)


def literals(source: str) -> dict:
    """What a cell of assignments assigns. Anything but a value, such as a call, is an error; float("nan") is none."""
    found = {}
    for line in ast.parse(source).body:
        assert isinstance(line, ast.Assign) and len(line.targets) == 1, ast.dump(line)
        value = line.value
        if isinstance(value, ast.Call):
            assert value.func.id == "float" and value.args[0].value in ("nan", "inf", "-inf"), ast.dump(value)
            found[line.targets[0].id] = float(value.args[0].value)
        else:
            found[line.targets[0].id] = ast.literal_eval(value)
    return found


def test_a_parameter_becomes_a_value_and_never_code(watch):
    chance = random.Random(0)
    signs = "\"'\\\n\r\t{}()#;%!x u2\0"
    words = [*CODE, *("".join(chance.choices(signs, k=chance.randrange(1, 12))) for _ in range(150))]
    for word in words:
        for parameter in (word, [word], {word: word}):
            call = lambda parameter=parameter: literals(PythonTranslator.codify({"profile": parameter}))  # noqa: E731
            watch(repr(parameter), call, lambda found, parameter=parameter: found == {"profile": parameter})
    for number in OTHERS:
        call = lambda number=number: literals(PythonTranslator.codify({"profile": number}))  # noqa: E731
        watch(repr(number), call, lambda found, number=number: repr(found["profile"]) == repr(number))
    watch.done("parameters")


def cells(notebook: Path) -> tuple[str, str]:
    """Its cell of parameters and the one after, without Jupyter's own words."""
    code = [cell for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert "parameters" in code[0]["metadata"]["tags"], notebook.name
    return tuple("".join(line for line in cell["source"] if not line.startswith("%")) for cell in code[:2])


@pytest.mark.filterwarnings("ignore")
def test_notebooks_refuse_what_they_do_not_know(watch):
    """Each notebook with a few of the values, so that all values meet several notebooks."""
    values = [*CODE, *OTHERS, "no/such/place", "/dev/null", "a" * 5000]
    for number, notebook in enumerate(NOTEBOOKS):
        parameters, first = cells(notebook)
        names = list(literals(parameters))
        assert {"profile", "device", "root"} <= set(names), notebook.name
        defaults = {"profile": "tiny", "device": "cpu", "root": str(watch.top)} | (
            {"id": "fig4"} if "id" in names else {}
        )
        for place, value in enumerate(values[number % 4 :: 4]):
            name = names[place % len(names)]
            if (name, value) == ("root", ""):  # the current folder, rightly
                continue
            given = PythonTranslator.codify(defaults | {name: value})
            watch(f"{notebook.name}, {name} = {value!r}", lambda given=given, first=first: exec(given + first, {}))
    watch.done("notebooks")
