"""Which package may import which, and which layer of a package which other."""

import ast
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HTTP_SERVERS = {"fastapi", "starlette", "uvicorn"}
FORBIDDEN = {
    "model_store": {"training", "service", "benchmarks", *HTTP_SERVERS},
    "model_store/pictures": {"torch"},
    "training": {"service", "benchmarks", *HTTP_SERVERS},
    "service": {"training", "benchmarks", "monai", "scipy"},
    "service/pipeline": HTTP_SERVERS,
    "service/imaging": {"torch", *HTTP_SERVERS},
    "service/compute": {"PIL", "pydicom", *HTTP_SERVERS},
    "service/workers": {"torch", *HTTP_SERVERS},
    "service/archive": {"torch", "PIL", "pydicom", *HTTP_SERVERS},
}
"""Folder to what no file below it imports, at any depth of nesting."""

SERVICE_LAYERS: Mapping[str, set[str]] = {
    "archive": {"pipeline", "imaging", "compute", "workers"},
    "fronts": {"http", "pipeline", "imaging", "workers"},
    "http": {"pipeline", "imaging", "compute", "workers"},
    "pipeline": {"imaging", "compute", "workers", "audit"},
    "audit": set(),
    "imaging": {"workers"},
    "compute": set(),
    "workers": set(),
    "client": set(),
    "dicom_node": {"client"},
}
"""Layer of the service to the layers that it may import beside itself."""

SERVICE_ENTRY_POINTS = {
    "__main__",
    "admin",
    "app",
    "drift_report",
    "healthcheck",
    "ray_app",
    "segment_file",
    "segment_file_results",
    "segment_folder",
}
"""Modules that may import every layer. All others beside the layers are leaves and import none."""

RAY_MODULES = {
    "service/archive/cluster.py",
    "service/ray_app.py",
    "training/commands/sweep.py",
}
"""Files that import Ray: the base install has none."""

VAGUE = {"utils", "common", "helpers", "manager", "misc"}


def imported_modules(path: Path) -> set[str]:
    """Full names of the modules that a file imports, at any depth of nesting."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            modules.add(node.module)
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


def layers_imported(path: Path, package: str, layers: Mapping[str, set[str]]) -> set[str]:
    """Layers of a package that a file imports."""
    parts = [name.split(".") for name in imported_modules(path)]
    return {p[1] for p in parts if p[0] == package and len(p) > 1 and p[1] in layers}


def assert_layers(package: str, layers: Mapping[str, set[str]]) -> None:
    """Fails where a file of a layer imports a layer that it may not."""
    for layer, allowed in layers.items():
        for path in (ROOT / package / layer).rglob("*.py"):
            wrong = layers_imported(path, package, layers) - allowed - {layer}
            assert not wrong, f"{path.relative_to(ROOT)} imports {', '.join(sorted(wrong))}"


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_no_forbidden_edge(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        imported = {name.split(".")[0] for name in imported_modules(path)}
        wrong = imported & FORBIDDEN[folder]
        assert not wrong, f"{path.relative_to(ROOT)} imports {', '.join(sorted(wrong))}"


def test_the_services_layers_import_downwards_alone() -> None:
    assert_layers("service", SERVICE_LAYERS)


def test_every_folder_of_the_service_is_a_layer() -> None:
    folders = {path.parent.name for path in (ROOT / "service").glob("*/*.py")}
    assert folders <= set(SERVICE_LAYERS)


def test_leaves_of_the_service_import_no_layer() -> None:
    leaves = [p for p in (ROOT / "service").glob("*.py") if p.stem not in SERVICE_ENTRY_POINTS]
    assert {"errors", "settings", "metrics", "logging"} <= {path.stem for path in leaves}
    for path in leaves:
        wrong = layers_imported(path, "service", SERVICE_LAYERS)
        assert not wrong, f"{path.name} imports {', '.join(sorted(wrong))}"


def test_the_client_needs_httpx_alone() -> None:
    for path in (ROOT / "service" / "client").glob("*.py"):
        others = {name.split(".")[0] for name in imported_modules(path)} - sys.stdlib_module_names
        assert others <= {"httpx"}, f"{path.name} imports {', '.join(sorted(others))}"


def test_ray_is_imported_for_scaling_out_alone() -> None:
    for package in ("model_store", "training", "service"):
        for path in (ROOT / package).rglob("*.py"):
            imported = {name.split(".")[0] for name in imported_modules(path)}
            name = path.relative_to(ROOT).as_posix()
            assert "ray" not in imported or name in RAY_MODULES, f"{name} imports Ray"
            assert "pyarrow" not in imported or name.startswith("service/archive/"), name


def test_the_base_install_imports_no_ray() -> None:
    modules = "service.app, service.__main__, service.archive, training.__main__, model_store"
    code = f"import sys, {modules}; assert not {{'ray', 'pyarrow'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=300)


def test_no_vague_names() -> None:
    for package in ("model_store", "training", "service"):
        for path in (ROOT / package).rglob("*.py"):
            assert path.stem not in VAGUE, path


def test_every_slow_file_is_there() -> None:
    lines = (ROOT / "tests" / "slow_files.txt").read_text(encoding="utf-8").splitlines()
    files = [ROOT / "tests" / line for line in lines if not line.startswith("#")]
    missing = [file.name for file in files if not file.is_file()]
    assert missing == []
