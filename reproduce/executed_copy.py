"""Make docs/<id>_executed.ipynb, an executed notebook to read without running it, from results/<profile>/notebooks.

    defar reproduce --only plane && python reproduce/executed_copy.py

Times, paths and the parameters that papermill wrote are left out, and pictures are reduced to 256 colours, so the same
results make the same small file.
"""

import argparse
import base64
import io
import json
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]


def cleaned(notebook: dict, source: dict) -> dict:
    """The cells of `source` with the outputs that `notebook` has for them."""
    outputs = {cell["id"]: cell for cell in notebook["cells"]}
    for cell in source["cells"]:
        if cell["cell_type"] == "code":
            done = outputs[cell["id"]]
            cell["execution_count"] = done["execution_count"]
            cell["outputs"] = [small(output) for output in done["outputs"]]
    return source


def small(output: dict) -> dict:
    data = output.get("data", {})
    if "image/png" in data:
        buffer = io.BytesIO()
        picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).convert("RGB")
        picture.quantize(256).save(buffer, format="PNG", optimize=True)
        data["image/png"] = base64.b64encode(buffer.getvalue()).decode()
    if "text" in output:
        output["text"] = "".join(output["text"]).replace(f"{ROOT}/", "").splitlines(keepends=True)
    return {**output, "metadata": {}} if "metadata" in output else output


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("id", nargs="?", default="plane")
    parser.add_argument("--profile", default="quick")
    given = parser.parse_args()
    executed = json.loads((ROOT / "results" / given.profile / "notebooks" / f"{given.id}.ipynb").read_text("utf-8"))
    shipped = json.loads((ROOT / "notebooks" / f"{given.id}.ipynb").read_text("utf-8"))
    path = ROOT / "docs" / f"{given.id}_executed.ipynb"
    path.write_text(json.dumps(cleaned(executed, shipped), indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
