"""Names planted in file names, queries, fields, headers and DICOM values come out nowhere."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator

import pytest

from model_store.stages import STAGES
from service.logging import JsonLineFormatter
from tests.dicom_files import as_file, make_xray, raw_file
from tests.service.fake_model import FakePredictor, form, make_app, picture, png, running

pytestmark = pytest.mark.anyio
CANARY = "CANARY^ZEBEDEE"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Every log line of every library, as the process would write it."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLineFormatter())
    handler.addFilter(lambda line: not line.name.startswith("http"))  # the caller, in this process
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)


def raising(requests: object) -> None:
    raise ValueError(CANARY)


@pytest.mark.parametrize("predictor", [FakePredictor(), FakePredictor(raising)])
async def test_no_canary_in_logs_metrics_or_answers(
    predictor: FakePredictor, log: io.StringIO
) -> None:
    dicom = as_file(make_xray(PatientName=CANARY, PatientID=CANARY, StudyDescription=CANARY))
    named = f"{CANARY}.png"
    async with running(make_app(predictor)) as client:
        answers = [
            await client.post("/segment", **form(name=named)),
            await client.post("/segment", files={"image": (named, dicom)}),
            await client.post("/segment", files={"image": (named, dicom[: len(dicom) // 2])}),
            await client.post("/segment", files={"image": (named, CANARY.encode() * 9)}),
            await client.post(f"/segment?patient={CANARY}", **form()),
            await client.post("/segment", **form(bbox=CANARY)),
            await client.post("/segment", **form(convention=CANARY)),
            await client.post("/segment", **form(), headers={"X-Request-ID": CANARY}),
            await client.post("/segment", **form(), headers={"traceparent": CANARY}),
            await client.get(f"/{CANARY}"),
            await client.get("/metrics"),
        ]
        answers.append(await client.post("/segment", files={"image": (named, png(picture()))}))
    assert '"event": "request"' in log.getvalue()
    assert log.getvalue().count('"event": "request"') == len(answers) - 1  # no scrape
    for text in (log.getvalue(), *(answer.text for answer in answers)):
        assert "ZEBEDEE" not in text
    for answer in answers:
        assert "ZEBEDEE" not in str(answer.headers)


NAMING = (
    *("PatientName", "PatientID", "PatientBirthDate", "StudyDescription", "AccessionNumber"),
    *("ReferringPhysicianName", "StudyID", "SeriesDescription", "InstitutionName", "ViewPosition"),
    *("BodyPartExamined", "PatientSex", "PatientOrientation", "PixelSpacing", "StudyTime"),
    *("PatientAge", "SpecificCharacterSet", "PhotometricInterpretation", "ImageComments"),
)
ACCEPTED = (
    *("application/json", "image/png", "application/dicom"),
    'multipart/related; type="application/dicom"',
)


@pytest.mark.parametrize("canary", ["CANARY^ZEBEDEE", "ZEBEDEECANARY"])
@pytest.mark.parametrize("accepted", ACCEPTED)
async def test_no_value_of_a_header_is_told_beside_any_answer(
    accepted: str, canary: str, log: io.StringIO
) -> None:
    """Answers in DICOM repeat the patient's name: they are for the archive that has it."""
    files = [raw_file(make_xray(), {keyword: canary.encode()}) for keyword in NAMING]
    # Together they are no X-ray any more; the description of the pixels is left alone.
    described = ("PhotometricInterpretation", "PatientOrientation")
    together = {name: canary.encode() for name in NAMING if name not in described}
    files.append(raw_file(make_xray(), together))
    statuses = set()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        async with running(make_app()) as client:
            for file in files:
                answer = await client.post(
                    "/segment",
                    files={"image": (f"{canary}.dcm", file)},
                    headers={"Accept": accepted},
                )
                statuses.add(answer.status_code)
                assert "ZEBEDEE" not in str(answer.headers)
                if "dicom" not in answer.headers["content-type"]:
                    assert b"ZEBEDEE" not in answer.content
            metrics = (await client.get("/metrics")).text
    assert statuses == {200, 415, 400} or statuses == {200, 400}
    assert "lungseg_requests_total" in metrics and "ZEBEDEE" not in metrics
    assert log.getvalue().count('"event": "request"') == len(files)  # a scrape is not logged
    assert "ZEBEDEE" not in log.getvalue()
    assert not [one for one in warned if "ZEBEDEE" in str(one.message)]


async def test_nothing_that_names_a_patient_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """File name, query, box, unknown field, accept header: canaries that must not appear."""
    app = make_app()
    async with running(app) as client:
        with caplog.at_level(logging.DEBUG, logger="service"):
            trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
            named = form(name="CANARY_DOE.png", bbox="11.0625,12.0625,71.0625,72.0625")
            await client.post("/segment", **named, headers={"traceparent": trace})
            await client.post("/segment?CANARY=1", **form())
            await client.post("/segment", **form(CANARY="CANARY"))
            await client.get("/CANARY")
            await client.post("/segment", **form(), headers={"Accept": "CANARY/CANARY"})
    fields = [getattr(record, "fields", {}) for record in caplog.records]
    text = caplog.text + json.dumps(fields, default=str)
    assert "CANARY" not in text
    assert ".0625" not in text
    lines = [f for r, f in zip(caplog.records, fields, strict=True) if r.name == "service.requests"]
    assert [line["status"] for line in lines] == [200, 422, 422, 404, 406]
    assert lines[0]["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    assert lines[0]["route"] == "/segment"
    assert (lines[0]["width"], lines[0]["height"], lines[0]["boxes"]) == (96, 80, 1)
    assert set(lines[0]["stages_ms"]) == set(STAGES)
    assert lines[3]["route"] == "unmatched"
