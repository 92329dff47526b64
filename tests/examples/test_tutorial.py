"""The notebook runs from top to bottom in a kernel of its own, and its numbers are what it says."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "tutorial"
NOTEBOOK = FOLDER / "job_recipe.ipynb"

LONGEST_CELL_S = 100

#: Run after the notebook's own cells: what its variables hold.
RESULTS = """
import json
print(json.dumps({
    "accuracies": accuracies,
    "alone": by_themselves,
    "seconds": seconds,
    "matrix": {model: {site: at[site]["accuracy"] for site in at} for model, at in matrix.items()},
    "failed": [failure.site, failure.round, failure.run.get_status()],
    "survived": survived.get_status(),
    "rows": len(survived.metrics),
}))
"""


def read() -> dict[str, Any]:
    notebook: dict[str, Any] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return notebook


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def test_the_notebook_is_kept_without_outputs_and_in_one_form() -> None:
    notebook = read()
    for cell in notebook["cells"]:
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            kept = (cell["outputs"], cell["execution_count"])
            assert kept == ([], None), f"clear all outputs and save again: {source(cell)}"
    assert notebook["metadata"].keys() == {"kernelspec", "language_info"}
    assert notebook["metadata"]["language_info"] == {"name": "python"}
    written = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    assert NOTEBOOK.read_text(encoding="utf-8") == written


def test_links_of_the_notebook_lead_to_files() -> None:
    texts = [source(cell) for cell in read()["cells"] if cell["cell_type"] == "markdown"]
    links = [part.partition(")")[0] for text in texts for part in text.split("](")[1:]]
    assert len(links) >= 4
    for link in links:
        assert (FOLDER / link).is_file(), link


async def executed(folder: Path, sockets: Path) -> list[Any]:
    """Run the notebook that is in a folder, and `RESULTS` after it; gives its code cells."""
    import nbformat
    from nbclient import NotebookClient
    from traitlets.config import Config

    formats: Any = nbformat  # it is typed in part
    notebook: Any = formats.read(folder / NOTEBOOK.name, 4)
    notebook.cells.append(formats.v4.new_code_cell(RESULTS))
    kernel = {"transport": "ipc", "ip": str(sockets / "k")}
    client: Any = NotebookClient(
        notebook,
        config=Config({"KernelManager": kernel}),
        timeout=LONGEST_CELL_S,
        resources={"metadata": {"path": str(folder)}},
    )
    await client.async_execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell: Any) -> str:
    return "".join(
        out.text for out in cell.outputs if out.output_type == "stream" and out.name == "stdout"
    )


def shown(cell: Any, kind: str) -> str:
    """What a cell shows as its value."""
    (found,) = (out.data[kind] for out in cell.outputs if out.output_type == "execute_result")
    return str(found)


def check_outputs(cells: list[Any], folder: Path) -> None:
    """What readers see in cells, by what begins a line of the cell."""

    def find(line: str) -> Any:
        (cell,) = (cell for cell in cells if any(s == line for s in cell.source.splitlines()))
        return cell

    for cell in cells:
        kinds = {(out.output_type, out.get("name", "")) for out in cell.outputs}
        assert kinds <= {("stream", "stdout"), ("execute_result", "")}, (cell.source, cell.outputs)
    lines = printed(find("recipe = FedAvgRecipe(")).splitlines()
    assert lines[0] == "fedavg: 8 sites, 10 rounds, seed 7"
    rounds = [line.split()[1] for line in lines if line.startswith("round ")]
    assert rounds == [str(number) for number in range(11)]
    plot = find('run.plot("accuracy")')
    assert "<svg" in shown(plot, "text/html")
    assert "accuracy" in shown(plot, "text/plain")
    (_, *reports) = sorted(folder.glob("covey_runs/*/*/report.html"))
    assert shown(find("from IPython.display import FileLink"), "text/html").count("report.html")
    assert len(reports) >= 8
    assert printed(cells[-2]).splitlines()[-1] == "completed"
    assert "did you mean 'num_rounds'?" in printed(
        find("from covey.recipes import ConfigError, JobFailed")
    )
    failure = printed(find('broken = recipe.replace(name="broken", train=train_badly)'))
    assert failure.splitlines()[-1].strip() == 'images = digits.sites()["site-33"]'


@pytest.mark.timeout(300)  # half a minute, and much more on a busy machine
def test_the_notebook_runs_and_learns_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tutorial"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__", "covey_runs"))
    for name in ("COVEY_FRESH", "COVEY_WORKSPACE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    with tempfile.TemporaryDirectory() as sockets:  # a socket's path may not be long
        cells = asyncio.run(executed(folder, Path(sockets)))
    check_outputs(cells, folder)
    results: dict[str, Any] = json.loads(printed(cells[-1]))
    accuracies = results["accuracies"]
    expected = {"FedAvg", "FedProx", "SCAFFOLD", "FedOpt", "FedAvg by script"}
    assert accuracies.keys() == expected
    assert min(accuracies.values()) >= 0.88
    assert accuracies["SCAFFOLD"] >= accuracies["FedAvg"] - 0.005
    assert len(results["alone"]) == 8
    assert max(results["alone"].values()) <= accuracies["FedAvg"] - 0.05
    assert results["seconds"]["FedBuff"] <= 0.7 * results["seconds"]["FedAvg"]
    check_matrix(results["matrix"])
    assert results["failed"] == ["site-3", 1, "failed"]
    assert results["survived"] == "completed"
    assert results["rows"] == 9 + 8 + 9 + 9  # one site less in one round


def check_matrix(matrix: dict[str, dict[str, float]]) -> None:
    """Every model at every site; a site's own is better at home than elsewhere."""
    sites = {f"site-{number}" for number in range(1, 9)}
    assert matrix.keys() == {"global", "best", *sites}
    assert all(row.keys() == sites for row in matrix.values())
    for site in sites:
        elsewhere = [matrix[site][other] for other in sites - {site}]
        assert matrix[site][site] > sum(elsewhere) / len(elsewhere)
