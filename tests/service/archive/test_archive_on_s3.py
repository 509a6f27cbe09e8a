"""Archives that lie in a bucket: read from it, written to it, gone on with in it.

A server of moto stands for S3; what speaks to it is Arrow's own client, as with the real one.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import boto3
import pyarrow
import pytest
from moto.server import ThreadedMotoServer
from pyarrow import parquet

from service.archive import cluster
from service.archive.cluster import UnitSize
from service.archive.inputs import inputs_of
from service.archive.locations import location_of
from service.archive.run import ArchiveRun, run_archive
from service.archive.segmenter import ResultOptions
from service.archive.units import Unit, UnitPlan
from service.settings import Settings
from tests.service.ray_serve.test_replicas import xray

BUCKET, XRAYS = "xrays", 3


@dataclass(frozen=True)
class Bucket:
    """A bucket that holds X-rays below `in/`.

    Attributes:
        client: a client of its server.
        environment: what tells other clients where it is and who asks.
        options: the same for one address.
    """

    client: Any
    environment: Mapping[str, str]
    options: str

    def names(self, folder: str) -> list[str]:
        found = self.client.list_objects_v2(Bucket=BUCKET, Prefix=folder)
        return [one["Key"] for one in found.get("Contents", [])]

    def read(self, name: str) -> bytes:
        return bytes(self.client.get_object(Bucket=BUCKET, Key=name)["Body"].read())


@pytest.fixture(scope="module")
def bucket() -> Generator[Bucket, None, None]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    key = {"aws_access_key_id": "someone", "aws_secret_access_key": "secret"}
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", **key)
    client.create_bucket(Bucket=BUCKET)
    for number in range(XRAYS):
        name = f"in/{number % 2}/{number}.png"
        client.put_object(Bucket=BUCKET, Key=name, Body=xray(number))
    client.put_object(Bucket=BUCKET, Key="in/broken.png", Body=b"\x89PNG\r\n\x1a\nno more")
    environment = {name.upper(): value for name, value in key.items()}
    environment |= {"AWS_ENDPOINT_URL": url, "AWS_REGION": "us-east-1"}
    environment["AWS_EC2_METADATA_DISABLED"] = "true"
    try:
        yield Bucket(client, environment, f"?endpoint_override={host}%3A{port}&scheme=http")
    finally:
        server.stop()


@pytest.fixture
def asked(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    return bucket


def test_folders_and_patterns_of_a_bucket_name_its_files(asked: Bucket) -> None:
    everything = [one.address for one in inputs_of([f"s3://{BUCKET}/in"], "lung_field")]
    names = ("0/0.png", "0/2.png", "1/1.png", "broken.png")
    assert everything == [f"s3://{BUCKET}/in/{name}" for name in names]
    some = inputs_of([f"s3://{BUCKET}/in/*/[02].png"], "lung_field")
    assert [one.address for one in some] == everything[:2]


@pytest.mark.parametrize("name", ["a b.png", "50%.png", "50%25.png", "[1]?#&.png", "größe.png"])
def test_any_name_that_a_bucket_holds_can_be_read(asked: Bucket, name: str) -> None:
    asked.client.put_object(Bucket=BUCKET, Key=f"odd/{name}", Body=name.encode())
    addresses = [one.address for one in inputs_of([f"s3://{BUCKET}/odd"], "lung_field")]
    assert f"s3://{BUCKET}/odd/{name}" in addresses
    assert location_of(f"s3://{BUCKET}/odd/{name}").read(100) == name.encode()


def test_options_of_an_address_stay_with_every_file_that_it_names(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An actor on another host opens a file by its address alone."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.setenv(name, bucket.environment[name])
    first, *_ = inputs_of([f"s3://{BUCKET}/in{bucket.options}"], "lung_field")
    assert first.address == f"s3://{BUCKET}/in/0/0.png{bucket.options}"
    assert location_of(first.address).read(10**7) == xray(0)
    location_of(f"s3://{BUCKET}/kept{bucket.options}").below("a/b.bin").write(b"whole")
    assert bucket.read("kept/a/b.bin") == b"whole"


def in_this_process(
    plan: UnitPlan, batches: Sequence[pyarrow.Table], size: UnitSize, actors: int
) -> Iterator[tuple[int, int]]:
    """Stand for Ray: one actor after another does the batches, here."""
    unit = Unit(plan)
    try:
        for batch in batches:
            (row,) = unit(batch).to_pylist()
            yield row["done"], row["failed"]
    finally:
        unit._segmenter.close()


def test_results_lie_in_the_bucket_and_a_second_run_goes_on_with_them(
    asked: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a run does beside Ray; `test_archive_killed.py` has Ray, and files of this machine."""
    monkeypatch.setattr(cluster, "joined", lambda address, cpus: contextlib.nullcontext())
    monkeypatch.setattr(cluster, "segmented_batches", in_this_process)
    settings = Settings(image_workers=1, threads=1)
    run = ArchiveRun(
        [f"s3://{BUCKET}/in"],
        f"s3://{BUCKET}/out",
        "lung_field",
        settings,
        ResultOptions(masks=True),
        UnitSize(1.0, 0.0),
        actors=1,
        rows_per_part=2,
        contact_sheet=0,
    )
    told = run_archive(run)
    assert (told["new"], told["xrays"], told["failed"]) == (XRAYS + 1, XRAYS + 1, 1)
    location = location_of(f"s3://{BUCKET}/out/results")
    rows = parquet.read_table(location.path, filesystem=location.files).to_pylist()
    done = [row for row in rows if row["status"] == "done"]
    assert (len(rows), len(done)) == (XRAYS + 1, XRAYS)
    for row in done:
        (mask,) = row["masks"]
        written = asked.read(f"out/{mask['png_file']}")
        assert hashlib.sha256(written).hexdigest() == mask["png_sha256"]
    before = asked.names("out/results")
    assert run_archive(run)["new"] == 0
    assert asked.names("out/results") == before
    assert "summary.html" in "".join(asked.names("out/summary"))
