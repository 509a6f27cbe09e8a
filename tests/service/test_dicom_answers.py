"""`Accept: application/dicom` over HTTP, on headers that hospitals send."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from service.imaging.task_data import ANSWER_TASK
from tests.dicom_files import HONG, YAMADA, ZHANG, as_file, make_xray, raw_file
from tests.service.fake_model import FakePredictor, form, make_app, pixels_of, running

pytestmark = pytest.mark.anyio
CASES = Path(__file__).parents[3] / "shared" / "cases" / "dicom"
SC_MULTIFRAME_WORD = "1.2.840.10008.5.1.4.1.1.7.3"

Check = Callable[[Dataset], bool]
ANSWERED: dict[str, Check] = {
    "dcm_japanese_iso2022": lambda seg: seg.PatientName == "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "cs_empty": lambda seg: seg.PatientName == "Test^Film",
    "cs_2022_IR100": lambda seg: seg.PatientName == "Test^Film",
    "dcm_birthdate_19000000": lambda seg: seg.PatientBirthDate == "",
    "dcm_sex_lower": lambda seg: seg.PatientSex == "",
    "studytime_colons": lambda seg: seg.StudyTime == "" and seg.StudyDate == "20260101",
    "pixelspacing_zero": lambda seg: _measures(seg)[0].PixelSpacing == [0.14, 0.14],  # the imager's
    "dcm_sc_multiframe_1frame": lambda seg: _source(seg) == SC_MULTIFRAME_WORD,
    "part_TORAX": lambda seg: seg.BodyPartExamined == "CHEST",  # an accent is no code
}
CONSTRUCTED: dict[str, tuple[dict[str, bytes], Check]] = {
    "Korea": (
        {"SpecificCharacterSet": b"\\ISO 2022 IR 149", "PatientName": HONG},
        lambda seg: seg.PatientName == "Hong^Gildong=洪^吉洞=홍^길동",
    ),
    "China": (
        {"SpecificCharacterSet": b"\\ISO 2022 IR 58", "PatientName": ZHANG},
        lambda seg: seg.PatientName == "Zhang^XiaoDong=张^小东",
    ),
    "Japan": (
        {"SpecificCharacterSet": b"\\ISO 2022 IR 87", "PatientName": YAMADA},
        lambda seg: "山田" in str(seg.PatientName),
    ),
    "default set named": ({"SpecificCharacterSet": b"ISO_IR 6"}, lambda seg: True),
    "UTF-8 named": (
        {"SpecificCharacterSet": b"UTF-8", "PatientName": "Müller^Jörg".encode()},
        lambda seg: seg.PatientName == "Müller^Jörg",
    ),
    "sex unknown": ({"PatientSex": b"U"}, lambda seg: seg.PatientSex == ""),
    "sex in words": ({"PatientSex": b"Male"}, lambda seg: seg.PatientSex == ""),
    "birth date of zeros": (
        {"PatientBirthDate": b"00000000"},
        lambda seg: seg.PatientBirthDate == "",
    ),
    "birth year": ({"PatientBirthDate": b"1970"}, lambda seg: seg.PatientBirthDate == ""),
    "study date of old": ({"StudyDate": b"2026.01.01"}, lambda seg: seg.StudyDate == ""),
    "several names": ({"PatientName": b"A^B\\C^D"}, lambda seg: seg.PatientName == ""),
    "one spacing": ({"PixelSpacing": b"0.14"}, lambda seg: not _measures(seg)),
    "a plane without thickness": (
        {
            "FrameOfReferenceUID": b"1.2.3.4",
            "ImagePositionPatient": b"0\\0\\0",
            "ImageOrientationPatient": b"1\\0\\0\\0\\1\\0",
        },
        lambda seg: seg.FrameOfReferenceUID == "1.2.3.4",
    ),
    "a frame of reference alone": (
        {"FrameOfReferenceUID": b"1.2.3.4"},
        lambda seg: seg.FrameOfReferenceUID != "1.2.3.4",  # the place in it is not known
    ),
}


def _measures(segmentation: Dataset) -> Any:
    return segmentation.SharedFunctionalGroupsSequence[0].get("PixelMeasuresSequence")


def _source(segmentation: Dataset) -> str:
    (reference,) = segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    return str(reference.ReferencedSOPClassUID)


async def answer_to(data: bytes, **settings: Any) -> tuple[int, bytes]:
    app = make_app(**settings)
    async with running(app) as client:
        response = await client.post(
            "/segment", files={"image": ("x", data)}, headers={"Accept": "application/dicom"}
        )
    return response.status_code, response.content


async def segmentation_of(data: bytes, **settings: Any) -> Dataset:
    status, content = await answer_to(data, **settings)
    assert status == 200, content
    return pydicom.dcmread(io.BytesIO(content))


@pytest.mark.parametrize("name", ANSWERED)
async def test_headers_that_were_reported_are_answered(name: str) -> None:
    if not CASES.is_dir():
        pytest.skip(f"no reported files at {CASES}: they were NOT tried")
    assert ANSWERED[name](await segmentation_of((CASES / f"{name}.dcm").read_bytes()))


@pytest.mark.parametrize("name", CONSTRUCTED)
async def test_their_neighbours_are_answered(name: str) -> None:
    values, is_right = CONSTRUCTED[name]
    segmentation = await segmentation_of(raw_file(make_xray(), values))
    assert segmentation.SpecificCharacterSet == "ISO_IR 192"
    assert is_right(segmentation)


async def test_an_identifier_that_is_missing_is_refused_before_the_model_runs() -> None:
    predictor = FakePredictor()
    app = make_app(predictor)
    data = raw_file(make_xray(), {}, missing=["StudyInstanceUID"])
    async with running(app) as client:
        files = {"image": ("x", data)}
        refused = await client.post(
            "/segment", files=files, headers={"Accept": "application/dicom"}
        )
        assert refused.status_code == 422
        assert refused.json()["code"] == "invalid_field"
        assert "StudyInstanceUID" in refused.json()["detail"]
        assert predictor.batch_sizes == []
        assert (await client.post("/segment", files=files)).status_code == 200  # JSON needs none


async def test_a_repeated_request_gives_the_same_file() -> None:
    data = as_file(make_xray())
    assert (await answer_to(data)) == (await answer_to(data))


async def test_the_key_and_the_plane_are_settings() -> None:
    data = as_file(make_xray())
    plain, keyed = await segmentation_of(data), await segmentation_of(data, uid_key="secret")
    assert plain.SOPInstanceUID != keyed.SOPInstanceUID
    assert plain.FrameOfReferenceUID != keyed.FrameOfReferenceUID
    assert "FrameOfReferenceUID" not in await segmentation_of(data, dicom_plane="none")


SEVERAL = 'multipart/related; type="application/dicom"'


@pytest.mark.parametrize("accept", ["application/json", "application/dicom", SEVERAL])
async def test_no_worker_is_told_the_key_of_the_deployment(accept: str) -> None:
    app = make_app(uid_key="the deployment's secret")
    async with running(app) as client:
        files = {"image": ("x", as_file(make_xray()))}
        answer = await client.post("/segment", files=files, headers={"Accept": accept})
    assert answer.status_code == 200
    told = app.state.service._pool.told
    assert len([one for one in told if "object_options" in one]) == 1
    assert not [one for one in told if "the deployment's secret" in one]


@pytest.mark.parametrize(
    ("accept", "is_dicom"),
    [
        ("application/json", False),
        ("image/png", False),
        ("application/dicom", True),
        (SEVERAL, True),
    ],
)
async def test_workers_load_what_dicom_answers_need_for_these_alone(
    accept: str, is_dicom: bool
) -> None:
    app = make_app()
    async with running(app) as client:
        files = {"image": ("x", as_file(make_xray()))}
        answer = await client.post("/segment", files=files, headers={"Accept": accept})
    assert answer.status_code == 200
    pool = app.state.service._pool
    assert pool.needing_extras == ([ANSWER_TASK] if is_dicom else [])
    assert pool.is_prepared == is_dicom


async def test_x_rays_have_keys_of_their_own_and_one_device() -> None:
    xrays = [as_file(make_xray()), as_file(make_xray())]
    first, second, *again = [
        await devices_and_series(data, uid_key="secret") for data in (*xrays, *xrays)
    ]
    assert again == [first, second]
    assert first[0] == second[0]  # the device
    assert first[1] != second[1]
    assert (await devices_and_series(xrays[0], uid_key="other"))[0] != first[0]


async def devices_and_series(data: bytes, **settings: Any) -> tuple[str, str]:
    """Return the device's and the series' UID of a structured report."""
    app = make_app(**settings)
    async with running(app) as client:
        answer = await client.post(
            "/segment",
            files={"image": ("x", data)},
            data={"objects": "sr"},
            headers={"Accept": SEVERAL},
        )
    assert answer.status_code == 200, answer.text
    report = pydicom.dcmread(io.BytesIO(answer.content[answer.content.index(b"\r\n\r\n") + 4 :]))
    uids = [
        str(item.UID)
        for item in report.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeMeaning == "Device Observer UID"
    ]
    return uids[0], str(report.SeriesInstanceUID)


async def test_the_masks_are_those_of_the_other_answers() -> None:
    data = as_file(make_xray())
    app = make_app()
    async with running(app) as client:
        files = {"image": ("x", data)}
        picture = await client.post("/segment", files=files, headers={"Accept": "image/png"})
    segmentation = await segmentation_of(data)
    assert np.array_equal(segmentation.pixel_array > 0, pixels_of(picture.content) > 0)


async def test_other_formats_are_still_not_acceptable() -> None:
    app = make_app()
    async with running(app) as client:
        response = await client.post("/segment", **form(), headers={"Accept": "application/dicom"})
    assert response.status_code == 406


MULTIPART = {"Accept": 'multipart/related; type="application/dicom"'}
RAW = {"Content-Type": "application/dicom"}


def parts_of(content_type: str, body: bytes) -> list[Dataset]:
    boundary = content_type.split("boundary=")[1].encode()
    pieces = body.split(b"--" + boundary)
    assert pieces[0] == b"" and pieces[-1] == b"--\r\n"
    files = [piece.removeprefix(b"\r\nContent-Type: application/dicom\r\n\r\n") for piece in pieces]
    return [pydicom.dcmread(io.BytesIO(file[:-2])) for file in files[1:-1]]


async def test_one_request_gives_all_objects_that_refer_to_each_other() -> None:
    data = as_file(make_xray(ImagerPixelSpacing=[0.14, 0.15]))
    async with running(make_app()) as client:
        response = await client.post("/segment", files={"image": ("x", data)}, headers=MULTIPART)
    assert response.status_code == 200
    segmentation, capture, report = parts_of(response.headers["content-type"], response.content)
    assert segmentation.Modality == "SEG"
    assert capture.SOPClassUID == pydicom.uid.SecondaryCaptureImageStorage
    assert report.Modality == "SR"
    assert len({one.StudyInstanceUID for one in (segmentation, capture, report)}) == 1
    assert segmentation.SOPInstanceUID in str(report)
    assert segmentation.SOPInstanceUID == (await segmentation_of(data)).SOPInstanceUID
    assert "square millimeter" in str(report)


async def test_isolated_lungs_are_a_capture_with_all_bits_of_the_xray() -> None:
    stored = (np.arange(80 * 96).reshape(80, 96) // 2).astype(np.uint16)
    data = as_file(make_xray(stored))
    fields = {"objects": "sc", "view": "isolated"}
    async with running(make_app()) as client:
        files = {"image": ("x", data)}
        response = await client.post("/segment", files=files, data=fields, headers=MULTIPART)
        mask = await client.post("/segment", files=files, headers={"Accept": "image/png"})
    (capture,) = parts_of(response.headers["content-type"], response.content)
    inside = pixels_of(mask.content) > 0
    seen = capture.pixel_array[:80]
    assert capture.BitsAllocated == 16 and inside.any() and not inside.all()
    assert len(np.unique(seen[inside])) > 256
    assert not seen[~inside].any()


async def test_the_objects_can_be_chosen() -> None:
    data = as_file(make_xray())
    async with running(make_app()) as client:
        files = {"image": ("x", data)}
        chosen = await client.post(
            "/segment", files=files, data={"objects": "sr,seg"}, headers=MULTIPART
        )
        found = parts_of(chosen.headers["content-type"], chosen.content)
        assert [one.Modality for one in found] == ["SR", "SEG"]
        for objects in ("seg,seg", "kos", ""):
            refused = await client.post(
                "/segment", files=files, data={"objects": objects}, headers=MULTIPART
            )
            assert (refused.status_code, refused.json()["code"]) == (422, "invalid_field")
        refused = await client.post("/segment", files=files, data={"objects": "seg"})
        assert refused.status_code == 422  # a JSON answer holds no objects


async def test_a_dicom_file_is_taken_as_the_body_with_its_options_in_the_address() -> None:
    data = as_file(make_xray())
    async with running(make_app()) as client:
        sent = await client.post(
            "/segment?convention=whole_lung&bbox=1,1,60,40&bbox=2,2,30,30",
            content=data,
            headers=RAW,
        )
        form_sent = await client.post(
            "/segment",
            files={"image": ("x", data)},
            data={"convention": "whole_lung", "bbox": ["1,1,60,40", "2,2,30,30"]},
        )
    assert sent.status_code == 200
    assert sent.json()["masks"] == form_sent.json()["masks"]
    assert sent.json()["convention"] == "whole_lung"


@pytest.mark.parametrize("query", ["conventoin=x", "image=x", "threshold=2", "overlay=a&overlay=b"])
async def test_a_parameter_that_is_wrong_is_refused(query: str) -> None:
    async with running(make_app()) as client:
        response = await client.post(f"/segment?{query}", content=as_file(make_xray()), headers=RAW)
    assert (response.status_code, response.json()["code"]) == (422, "invalid_field")


async def test_a_query_beside_a_form_is_still_refused() -> None:
    async with running(make_app()) as client:
        response = await client.post("/segment?threshold=0.4", **form())
    assert (response.status_code, response.json()["code"]) == (422, "invalid_field")


async def test_a_raw_body_has_the_same_limit() -> None:
    data = as_file(make_xray())
    async with running(make_app(max_upload_bytes=4096)) as client:
        response = await client.post("/segment", content=data, headers=RAW)
    assert (response.status_code, response.json()["code"]) == (413, "payload_too_large")


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("multipart/related", 200),
        ("multipart/*", 200),
        ('multipart/related; type="application/dicom"; q=0.9, image/png;q=0.1', 200),
        ('multipart/related; type="image/png"', 406),
    ],
)
async def test_several_objects_are_asked_for_as_in_dicomweb(accept: str, status: int) -> None:
    async with running(make_app()) as client:
        files = {"image": ("x", as_file(make_xray()))}
        response = await client.post("/segment", files=files, headers={"Accept": accept})
    assert response.status_code == status
    if status == 200:
        assert response.headers["content-type"].startswith("multipart/related; type=")
