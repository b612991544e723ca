"""The project holds together: pins agree, notebooks are tested and keep to the rules, the README is true."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
LOCK = (ROOT / "requirements.lock").read_text()
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())
README = (ROOT / "README.md").read_text()
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CONDA_NAMES = {"pytorch": "torch"}  # where conda-forge has another name than PyPI
PYTHONS = ("3.11", "3.12")  # that the project is tested on


def run(*command: str) -> str:
    """What `python -m command` prints in the root of the project; fails with that if the command fails."""
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# -- Pins


def locked_lines() -> list[str]:
    """The entries of the lock, each with its hashes, on one line."""
    return LOCK.replace("\\\n", " ").strip().splitlines()


def locked(python: str = PYTHONS[0]) -> dict[str, Version]:
    """The versions that the lock installs on Linux with this Python."""
    platform = {"python_version": python, "python_full_version": f"{python}.9", "sys_platform": "linux"}
    platform |= {
        "platform_machine": "x86_64",
        "os_name": "posix",
        "implementation_name": "cpython",
        "extra": "",
    }
    found = {}
    for line in locked_lines():
        requirement = Requirement(line.partition(" --hash=")[0])
        if requirement.marker is None or requirement.marker.evaluate(platform):
            (pin,) = requirement.specifier
            found[canonicalize_name(requirement.name)] = Version(pin.version)
    return found


def required() -> list[Requirement]:
    """What pyproject.toml asks for to build, to run and to test; the lock need not have other extras."""
    extras = PROJECT["optional-dependencies"]["test"]
    return [Requirement(text) for text in PYPROJECT["build-system"]["requires"] + PROJECT["dependencies"] + extras]


@pytest.mark.parametrize("python", PYTHONS)
def test_lock_satisfies_pyproject(python):
    versions = locked(python)
    unmet = [str(r) for r in required() if not r.specifier.contains(versions.get(canonicalize_name(r.name), "0"))]
    assert not unmet, f"not satisfied by requirements.lock: {unmet}; run make lock"


def test_every_locked_package_has_hashes():
    bare = [line for line in locked_lines() if not re.search(r" --hash=sha256:[0-9a-f]{64}", line)]
    assert not bare, f"without a hash: {bare}; run make lock"


def test_pip_takes_every_locked_package():
    # uv, which writes the lock, overlooks upper bounds on Python; pip, which installs it, does not.
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    installed = {(canonicalize_name(d.name), d.version): d.metadata["Requires-Python"] for d in distributions()}
    for name, version in locked(python).items():
        pythons = installed.get((name, str(version))) or ""
        assert SpecifierSet(pythons).contains(f"{python}.9"), f"{name} {version} wants Python {pythons}"


def test_lock_names_no_host_and_no_path():
    found = [
        line for line in LOCK.splitlines() if re.search(r"://|^ *-[^-]|--(extra-)?index-url|--find-links| @ ", line)
    ]
    assert not found, f"requirements.lock must install from wherever its user's pip does; remove {found}"


def conda_pins() -> dict[str, SpecifierSet]:
    """The conda packages of environment.yml with their versions as pip writes them."""
    specs = [spec.split(maxsplit=1) for spec in ENVIRONMENT["dependencies"] if isinstance(spec, str)]
    versions = {name: rest[0] if rest else "" for name, *rest in specs}
    return {CONDA_NAMES.get(name, name): SpecifierSet(re.sub(r"^=(?!=)", "==", v)) for name, v in versions.items()}


def test_environment_has_the_locked_torch_and_torchvision():
    versions, pins = locked(), conda_pins()
    for name in ("torch", "torchvision"):
        assert pins[name] == SpecifierSet(f"=={versions[name]}"), f"environment.yml pins another {name} than the lock"


def test_lock_has_the_pair_that_pyproject_constrains():
    constraints = [Requirement(text) for text in PYPROJECT["tool"]["uv"]["constraint-dependencies"]]
    assert {"torch", "torchvision"} <= {r.name for r in constraints}
    assert all(r.specifier.contains(locked()[r.name]) for r in constraints)


def test_environment_agrees_with_the_lock():
    pins = conda_pins()
    wrong = [name for name, version in locked().items() if name in pins and not pins[name].contains(version)]
    assert not wrong, f"environment.yml excludes the locked version of {wrong}"


def test_environment_has_a_python_that_the_project_supports():
    minors = [f"3.{minor}" for minor in range(30)]
    allowed = {minor for minor in minors if conda_pins()["python"].contains(f"{minor}.5")}
    assert allowed == set(PYTHONS) and all(SpecifierSet(PROJECT["requires-python"]).contains(p) for p in allowed)


def test_environment_installs_the_rest_from_this_package():
    assert [c for c in ENVIRONMENT["channels"] if c != "nodefaults"] == ["conda-forge"]
    (pip,) = (entry["pip"] for entry in ENVIRONMENT["dependencies"] if isinstance(entry, dict))
    assert pip == ["--editable .[test]"]


# -- Notebooks


def cells(notebook: Path, kind: str = "code") -> list[dict]:
    found = json.loads(notebook.read_text())["cells"]
    return [
        c | {"source": "".join(c["source"])} for c in found if c["cell_type"] == kind and "".join(c["source"]).strip()
    ]


def parsed(source: str) -> ast.Module:
    """The syntax tree of a cell; lines of IPython (%, !) do not count."""
    return ast.parse("\n".join("pass" if line.startswith(("%", "!")) else line for line in source.splitlines()))


def each_notebook(test):
    return pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)(test)


def test_every_notebook_is_in_the_suite():
    assert NOTEBOOKS, "there is nothing in notebooks/"
    collected = run("pytest", "--collect-only", "--quiet", "--ignore-glob=*.py", "-p", "no:cacheprovider")
    missing = [path.name for path in NOTEBOOKS if f"notebooks/{path.name}::" not in collected]
    assert not missing, f"pytest, as pyproject.toml configures it, does not run {missing}"


def test_notebooks_lie_where_they_are_tested():
    elsewhere = {path for folder in ("ovenet_core", "tests", "docs") for path in (ROOT / folder).rglob("*.ipynb")}
    assert not elsewhere | set(ROOT.glob("*.ipynb")) | (set((ROOT / "notebooks").rglob("*/*.ipynb")))


@each_notebook
def test_parameters_are_annotated_literals_in_one_cell(notebook):
    tagged = [c for c in cells(notebook) if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == 1, "papermill needs exactly one cell tagged parameters"
    for statement in parsed(tagged[0]["source"]).body:
        text = ast.unparse(statement)
        assert isinstance(statement, ast.AnnAssign) and statement.value is not None, f"{text}: write name: type = value"
        ast.literal_eval(statement.value)  # ValueError: not a literal, so papermill cannot replace it


@each_notebook
def test_notebook_defines_no_class(notebook):
    for cell in cells(notebook):
        defined = [node.name for node in ast.walk(parsed(cell["source"])) if isinstance(node, ast.ClassDef)]
        assert not defined, f"{defined} belongs into ovenet_core"


@each_notebook
def test_code_cells_are_short(notebook):
    long = [cell["source"][:60] for cell in cells(notebook) if len(cell["source"].splitlines()) > 25]
    assert not long, f"more than 25 lines in the cells that start with {long}"


@each_notebook
def test_notebook_is_stored_as_executed_from_top_to_bottom(notebook):
    code = cells(notebook)
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), "run all cells, then save"
    kinds = [output["output_type"] for cell in code for output in cell["outputs"]]
    assert kinds and "error" not in kinds


@each_notebook
def test_notebook_opens_with_a_title_and_its_purpose(notebook):
    first = json.loads(notebook.read_text())["cells"][0]
    title, *rest = "".join(first["source"]).strip().splitlines()
    assert first["cell_type"] == "markdown" and title.startswith("# ") and any(rest)


@each_notebook
def test_notebook_names_nothing_of_the_machine_it_ran_on(notebook):
    text = notebook.read_text()
    assert str(ROOT) not in text and str(Path.home()) + "/" not in text


# -- Style, licence, README, Makefile


def test_ruff_passes():
    run("ruff", "check", "--no-cache")
    run("ruff", "format", "--check", "--no-cache")


def test_citation_has_this_software_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    (paper,) = citation["references"]
    assert paper["title"] == "OVeNet: Offset Vector Network for Semantic Segmentation"
    assert [a["family-names"] for a in paper["authors"]] == ["Alexandropoulos", "Sakaridis", "Maragos"]


def test_links_of_the_readme_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)#]+)", README) if "://" not in link]
    files = [path for path in re.findall(r"`([\w./]+\.\w+)`", README) if "/" in path]
    assert links
    missing = [path for path in [*links, *files] if not (ROOT / path).exists() and not path.startswith("runs/")]
    assert not missing


def test_architecture_tells_what_every_module_owns():
    page = (ROOT / "docs" / "architecture.md").read_text()
    package = ROOT / "ovenet_core"
    modules = {path.relative_to(package).as_posix() for path in package.rglob("*.py")} - {"__init__.py"}
    unsaid = {name for name in modules if not name.endswith("__init__.py") and f"`{name}`" not in page}
    gone = {name for name in re.findall(r"`([\w/]+\.py)`", page) if "/" in name or name in modules} - modules
    assert not unsaid | gone


def lines(*paths: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in paths)


def test_the_package_stays_small():
    package = ROOT / "ovenet_core"
    assert lines(*package.glob("*.py")) <= 1400  # the paper
    assert lines(package / "hrnet.py") <= 220
    assert lines(package / "training" / "trainer.py") <= 300
    assert lines(*package.rglob("*.py")) <= 10400


def test_importing_the_package_has_no_side_effect():
    code = "import gc; state = lambda: (gc.isenabled(), gc.get_freeze_count(), gc.get_threshold()); before = state(); "
    code += "import ovenet_core; print(before == state())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def targets() -> dict[str, str]:
    """The targets of the Makefile, with their help text."""
    return dict(re.findall(r"^([a-z]+):(?:.*?## (.*))?", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_make_explains_every_target():
    assert all(targets().values()), "a target without ## is not in make help"


def test_commands_of_the_readme_exist():
    commands = re.findall(r"\bmake ([a-z]+)\b", "\n".join(re.findall(r"`[^`\n]+`|^make .*", README, re.MULTILINE)))
    assert {"quickstart", "test"} <= set(commands) <= set(targets())


def test_the_top_level_has_what_the_readme_lists_and_what_tools_expect():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git repository")
    folders = {"notebooks", "ovenet_core", "results", "tests", "docs", "workflow", ".ci"}
    files = {
        "README.md",
        "LICENSE",
        "CITATION.cff",
        "Makefile",
        "environment.yml",
        "pyproject.toml",
        "requirements.lock",
        ".gitignore",
    }
    assert {path.split("/")[0] for path in listed.stdout.splitlines()} == folders | files


def test_continuous_integration_runs_the_test_command():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111 and "make test" in script.read_text()


def readme_scores():
    """(path of a result, {prediction: mIoU in % as printed}) of each row of the README's table of results."""
    pattern = r"^\| .*?\]\((results/\S+?\.json)\)[^|]*\|(.*)\|$"
    for path, cells in re.findall(pattern, (ROOT / "README.md").read_text(), re.M):
        printed = [cell.strip().strip("*") for cell in cells.split("|")[-3:]]
        yield path, {name: value for name, value in zip(("S_i", "S_s", "S_f"), printed, strict=True) if value != "–"}


def test_the_readme_states_what_the_results_say():
    rows = list(readme_scores())
    assert len(rows) >= 2
    for path, printed in rows:
        metrics = json.loads((ROOT / path).read_text())["metrics"]
        assert {name: f"{100 * scores['miou']:.2f}" for name, scores in metrics.items()} == printed, path


def test_imports_point_one_way():
    done = subprocess.run([Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stdout.decode()
