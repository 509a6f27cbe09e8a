"""A bill of materials of an image in CycloneDX, made offline from the lock.

CycloneDX's generator reads the lists with their hashes. Licences and descriptions come from the
SOUP list. The stored model is one of the components.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import LicenseAcknowledgement
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.supply.lock_files import Locked, of_image
from deploy.supply.soup import Soup, read_soup
from model_store import __version__
from model_store.model_index import default_model

ROOT = Path(__file__).parents[2]
VERSION = SchemaVersion.V1_6


def sbom(image: str, extras: tuple[str, ...] = ()) -> str:
    """Return the bill of materials of the image `cpu` or `cuda` with these extras, as JSON.

    Raises:
        ValueError: The records do not match the lock, or the result violates CycloneDX's schema.
    """
    packages = of_image(image, extras)
    bom = Bom.from_json(_generated(packages))  # type: ignore[attr-defined]
    known = {one.locked.name: one for one in read_soup()}
    for component in bom.components:
        _complete(component, known[component.name])
    root = bom.metadata.component
    root.version = __version__
    components = {component.name: component for component in bom.components}
    for name, component in components.items():
        _link(bom, component, known[name].requires, components)
    _link(bom, root, _asked_for(extras), components)
    bom.components.add(model := _model())
    bom.register_dependency(root, [model])
    text = make_outputter(bom, OutputFormat.JSON, VERSION).output_as_string(indent=1)
    problem = JsonStrictValidator(VERSION).validate_str(text)
    if problem is not None:
        raise ValueError(f"not valid CycloneDX {VERSION.to_version()}: {problem}")
    return text


def _generated(packages: list[Locked]) -> dict[str, Any]:
    lines = (
        " ".join([f"{p.name}=={p.version}", *(f"--hash=sha256:{h}" for h in p.sha256s)])
        for p in packages
    )
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "requirements.txt"
        listed.write_text("\n".join(lines) + "\n")
        command = [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "cyclonedx_py",
            "requirements",
            str(listed),
        ]
        command += ["--pyproject", str(ROOT / "pyproject.toml"), "--mc-type", "application"]
        command += ["--output-format", "JSON", "--spec-version", VERSION.to_version()]
        command += ["--output-reproducible"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    generated: dict[str, Any] = json.loads(done.stdout)
    return generated


def _complete(component: Component, known: Soup) -> None:
    component.description = known.does
    by = LicenseAcknowledgement.CONCLUDED if known.licence_from else LicenseAcknowledgement.DECLARED
    component.licenses = [
        LicenseFactory().make_from_string(known.licence, license_acknowledgement=by)
    ]
    if "+" in (component.version or ""):  # not PyPI's: its index is named in the Dockerfile
        component.external_references.clear()


def _link(
    bom: Bom, component: Component, requires: Iterable[str], components: dict[str, Component]
) -> None:
    names = (canonicalize_name(Requirement(one).name) for one in requires)
    bom.register_dependency(component, [components[name] for name in names if name in components])


def _asked_for(extras: tuple[str, ...]) -> list[str]:
    """Return the requirements of `pyproject.toml`, and the build requirements of the wheel."""
    read = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = read["project"]
    optional = [one for extra in extras for one in project["optional-dependencies"][extra]]
    return [*project["dependencies"], *optional, *read["build-system"]["requires"]]


def _model() -> Component:
    model = default_model()
    return Component(
        name=model.name,
        version=str(model.version),
        type=ComponentType.MACHINE_LEARNING_MODEL,
        description="The stored model inside the image",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=model.sha256)],
        bom_ref=f"model-{model.label}",
    )
