"""The SOUP list and the bills of materials say what the lock says, and each licence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.licenses import canonicalize_license_expression
from packaging.requirements import Requirement

from deploy.supply import declared, soup
from deploy.supply.lock_files import EXTRAS, IMAGES, all_locked, of_image
from model_store.model_index import default_model

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=[("cpu", ("pacs",)), ("cuda", ())])
def image(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module")
def bill(image: tuple[str, tuple[str, ...]], tmp_path_factory: pytest.TempPathFactory) -> str:
    name, extras = image
    out = tmp_path_factory.mktemp("sbom") / "new" / "sbom.json"
    command = [sys.executable, "-m", "deploy.supply", "sbom", "--image", name, "--out", str(out)]
    command += [word for extra in extras for word in ("--extra", extra)]
    subprocess.run(command, check=True, cwd=ROOT, timeout=60)
    return out.read_text()


def test_the_bill_of_materials_is_valid_and_has_each_package_with_hashes_and_licence(
    bill: str, image: tuple[str, tuple[str, ...]]
) -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill) is None
    read = json.loads(bill)
    libraries = {one["name"]: one for one in read["components"] if one["type"] == "library"}
    locked = {one.name: one for one in of_image(*image)}
    assert libraries.keys() == locked.keys()
    for name, one in libraries.items():
        assert one["version"] == locked[name].version
        assert one["purl"].startswith(f"pkg:pypi/{name}@")
        (licence,) = one["licenses"]
        assert (
            licence.get("expression") or licence["license"].get("id") or licence["license"]["name"]
        )
        hashes = [h["content"] for r in one.get("externalReferences", []) for h in r["hashes"]]
        assert sorted(hashes) == sorted(locked[name].sha256s)


def test_every_component_of_the_bill_is_required_by_somebody(bill: str) -> None:
    read = json.loads(bill)
    needs = {one["ref"]: set(one.get("dependsOn", [])) for one in read["dependencies"]}
    names = {one["bom-ref"]: one["name"] for one in read["components"]}
    reached, waiting = set(), {"root-component"}
    while waiting:
        one = waiting.pop()
        reached.add(one)
        waiting |= needs[one] - reached
    assert not {names[ref] for ref in names.keys() - reached}
    by_name = {name: ref for ref, name in names.items()}
    assert by_name["pydantic-core"] in needs[by_name["pydantic"]]


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("extras", [(), ("otel",), ("pacs",), ("otel", "pacs")])
def test_what_a_locked_package_requires_is_locked_at_a_version_that_it_allows(
    name: str, extras: tuple[str, ...]
) -> None:
    versions = {one.name: one.public_version for one in of_image(name, extras)}
    checked = 0
    for one in soup.read_soup():
        if one.locked.name not in versions:
            continue
        for line in one.requires:
            requirement = Requirement(line)
            is_for_gpus = requirement.name.startswith(("nvidia-", "cuda-", "triton"))
            if name == "cpu" and one.locked.name == "torch" and is_for_gpus:
                continue
            assert requirement.name in versions, f"{one.locked.name} requires {line}"
            assert requirement.specifier.contains(versions[requirement.name], prereleases=True)
            checked += 1
    assert checked > 40


def test_the_stored_model_is_a_component_with_its_hash(bill: str) -> None:
    kinds = {one["type"]: one for one in json.loads(bill)["components"]}
    model = kinds["machine-learning-model"]
    assert (model["name"], model["version"]) == (default_model().name, str(default_model().version))
    assert model["hashes"] == [{"alg": "SHA-256", "content": default_model().sha256}]


def test_the_page_is_what_the_lock_and_the_records_make_of_it() -> None:
    assert soup.PAGE.read_text() == soup.page()
    assert "Template, not reviewed" in soup.page()


def test_every_package_has_a_licence_a_purpose_a_page_of_anomalies_and_a_test() -> None:
    listed = soup.read_soup()
    assert [one.locked for one in listed] == all_locked()
    for one in listed:
        assert canonicalize_license_expression(one.licence) == one.licence
        assert one.does and one.anomalies.startswith("https://") and one.where
        assert (ROOT / one.test).is_file(), f"{one.locked.name}: {one.test}"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"numpy": {"version": "0.1", "licence": "MIT"}}, "declared.json is not of this lock"),
        ({"left-pad": {"version": "1.0", "licence": "MIT"}}, "declared.json is not of this lock"),
        ({"numpy": None}, "numpy declares no licence"),
    ],
)
def test_records_that_do_not_belong_to_the_lock_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], sentence: str
) -> None:
    records = json.loads(declared.DECLARED.read_text())
    for name, entry in change.items():
        records[name] = entry or {**records[name], "licence": None}
    (tmp_path / "declared.json").write_text(json.dumps(records))
    monkeypatch.setattr(soup, "DECLARED", tmp_path / "declared.json")
    with pytest.raises(ValueError, match=sentence):
        soup.read_soup()


def test_a_package_that_nobody_described_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = soup.KNOWLEDGE.read_text().replace("[numpy]", "[nunpy]")
    (tmp_path / "soup.toml").write_text(known)
    monkeypatch.setattr(soup, "KNOWLEDGE", tmp_path / "soup.toml")
    with pytest.raises(ValueError, match="by hand: numpy, nunpy"):
        soup.read_soup()


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ({"license_expression": "MIT", "license": "something"}, "MIT"),
        ({"license": "Apache 2.0"}, "Apache-2.0"),
        ({"license": "LICENSE", "classifier": [next(iter(declared.SPDX))]}, None),
        ({"license": "LICENSE", "classifier": ["License :: OSI Approved :: MIT License"]}, "MIT"),
        ({"license": "BSD", "classifier": ["License :: OSI Approved :: BSD License"]}, None),
        ({}, None),
    ],
)
def test_a_licence_is_read_from_metadata_or_left_open(
    metadata: dict[str, Any], licence: str | None
) -> None:
    assert declared.declared_licence(metadata) == licence


def test_requirements_are_those_of_the_images_with_the_extras_that_others_ask_for() -> None:
    metadata = {
        "one": {"requires_dist": ["two[fast]>=2", "gone; sys_platform == 'win32'"]},
        "two": {"requires_dist": ["Three_3==3", "four; extra == 'fast'", "five; extra == 'slow'"]},
        "three-3": {},
    }
    expected = {"one": ["two>=2"], "two": ["four", "three-3==3"], "three-3": []}
    assert declared.requirements_of(metadata) == expected


def test_extras_are_told_apart_from_the_images() -> None:
    where = {one.locked.name: one.where for one in soup.read_soup()}
    assert where["numpy"] == ("cpu", "cuda")
    assert where["nvidia-cublas"] == ("cuda",)
    assert where["pynetdicom"] == ("pacs",)
    assert where["requests"] == EXTRAS
