"""View and body part: codes, orientation, words of many languages; unknown words claim nothing."""

from __future__ import annotations

from typing import Any

import pytest
from pydicom.dataset import Dataset

from model_store.pictures import view_vocabulary as vocabulary
from model_store.pictures.dicom_view import _words, view_warnings
from tests.dicom_files import make_xray


def coded(*values: str) -> list[Dataset]:
    items = []
    for value in values:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator = value, "SCT"
        item.CodeMeaning = "as said"
        items.append(item)
    return items


def codes(**attributes: Any) -> list[str]:
    defaults = {"ViewPosition": None, "BodyPartExamined": None}
    return [str(one.code) for one in view_warnings(make_xray(**{**defaults, **attributes}))]


@pytest.mark.parametrize("value", ["399067008", "399173006", "399198007", "R-10232", "399182000"])
def test_other_views_are_known_by_code_whatever_the_words(value: str) -> None:
    assert codes(ViewCodeSequence=coded(value), ViewPosition="PA") == ["not_frontal_view"]


@pytest.mark.parametrize("value", ["399348003", "272479007", "R-10206"])
def test_frontal_views_are_known_by_code_whatever_the_words(value: str) -> None:
    assert codes(ViewCodeSequence=coded(value), ViewPosition="LL") == []


def test_an_unknown_code_claims_nothing() -> None:
    assert codes(ViewCodeSequence=coded("4711"), ViewPosition="LATERAL") == ["not_frontal_view"]
    assert codes(ViewCodeSequence=coded("4711")) == []


@pytest.mark.parametrize("orientation", [["A", "F"], ["P", "F"], ["AL", "F"], ["F", "A"]])
def test_a_lateral_is_known_by_its_orientation(orientation: list[str]) -> None:
    assert codes(PatientOrientation=orientation, ViewPosition="PA") == ["not_frontal_view"]


@pytest.mark.parametrize("orientation", [["L", "F"], ["R", "F"], ["F", "R"], "", ["L"], ["", ""]])
def test_other_orientations_are_no_laterals(orientation: Any) -> None:
    assert codes(PatientOrientation=orientation) == []


LATERALS = "LL RL LATERAL Lateral LAT L-LAT PROFIL PERFIL SEITLICH LATERALE LATERO-LATERALE BOCZNE"
LATERALS += (
    " SOKUMEN CEWEI YAN LAO OBLIQUE OBLICUA SCHRÄG seitl. BOČNÁ ΠΛΆΓΙΑ ПРОФИЛЬ ZIJDELINGS 側位"
    " СТРАНИЧНА БІЧНА STRANSKA PROFILNA LATERALNO SIDOBILD SĀNU ŠONINIS"
    " צידי جانبی पार्श्व ด้านข้าง 侧面"
)


@pytest.mark.parametrize("word", [*LATERALS.split(), "LEFT LATERAL", "側面", "боковая"])
def test_laterals_and_obliques_are_known_in_many_languages(word: str) -> None:
    assert codes(ViewPosition=word) == ["not_frontal_view"]


@pytest.mark.parametrize(
    "text", ["LATERAL DECUBITUS", "LEFT LATERAL DECUBITUS", "R LAT DECUB", "DECÚBITO LATERAL IZQ",
             "DÉCUBITUS LATÉRAL DROIT", "DECUBITO LATERALE"]
)  # fmt: skip
def test_a_patient_who_lies_on_a_side_is_seen_from_the_front(text: str) -> None:
    assert codes(ViewPosition=text) == []


@pytest.mark.parametrize(
    "text", ["DORSAL DECUBITUS LATERAL", "LAT DECUBITO SUPINO", "LATERAL EN DECUBITO DORSAL"]
)
def test_a_lateral_across_the_table_is_a_lateral(text: str) -> None:
    assert codes(ViewPosition=text) == ["not_frontal_view"]


FRONTALS = "AP PA POSTERO-ANTERIOR PA_ERECT AP_SUPINE PORTABLE LLD RLD AXIAL X UNKNOWN FRENTE DV"


@pytest.mark.parametrize(
    "word", [*FRONTALS.split(), "PA ERECT", "AP LORDOTIC", "POSTERO ANTERIOR", "ANTERO-POSTERIOR"]
)
def test_frontal_and_unknown_words_claim_nothing(word: str) -> None:
    assert codes(ViewPosition=word) == []


CHESTS = "CHEST THORAX TORAX TÓRAX Tórax BRUST POITRINE CXR UNKNOWN PORTABLE TORACE PECHO LUNGE"
CHESTS += " חזה سینه छाती ทรวงอก PHỔI PARU BRØST PLUĆA ГРЪД 폐 肺 KRŪTINĖ"
CHESTS += " 胸腹部 흉부 ΘΏΡΑΚΑΣ ГРУДЬ GÖĞÜS KYOBU XX 1 胸部 грудь BRUSTKORB CHEST_PA T2"


@pytest.mark.parametrize("word", [*CHESTS.split(), "THORAX ABDOMEN", "CHEST/ABDOMEN", "RX TORAX"])
def test_chests_and_unknown_parts_claim_nothing(word: str) -> None:
    assert codes(BodyPartExamined=word) == []


PARTS = "HAND ABDOMEN SKULL PELVIS KNEE SPINE TSPINE FOOT BREAST CRÂNE MAIN RODILLA MÃO GINOCCHIO"
PARTS += " 腹部 膝関節 ЖИВОТ ЧЕРЕП 복부 ΛΕΚΆΝΗ KUB"
PARTS += " MÃOS PIEDS DEDOS BÆKKEN KNÆ SKULDER KOLJENO GLAVA РУКА КОЛІНО ΓΌΝΑΤΟ ברך يد دست 손 발목"
PARTS += " 踝关节 髋关节 股関節 घुटना เข่า ZEHE FERSE FEMORE AVANT-BRAS"
PARTS += " SCHÄDEL BECKEN KNIE GENOU CRÁNEO CZASZKA DŁOŃ ZUGAI FUBU"


@pytest.mark.parametrize("word", [*PARTS.split(), "L SPINE", "LEFT HAND", "Main gauche"])
def test_other_parts_are_known_in_many_languages(word: str) -> None:
    assert codes(BodyPartExamined=word) == ["not_a_chest"]


@pytest.mark.parametrize(
    "words", [vocabulary.OTHER_VIEW_WORDS, vocabulary.CHEST_WORDS, vocabulary.OTHER_PARTS]
)
def test_every_word_of_the_vocabulary_is_written_as_headers_are_compared(
    words: frozenset[str],
) -> None:
    assert [word for word in words if word not in _words(word)] == []


@pytest.mark.parametrize("value", ["85562004", "T-D8700", "89546000", "72696002"])
def test_other_parts_are_known_by_code_whatever_the_words(value: str) -> None:
    region = coded(value)
    assert codes(AnatomicRegionSequence=region, BodyPartExamined="CHEST") == ["not_a_chest"]


@pytest.mark.parametrize("value", ["51185008", "816094009", "39607008", "T-D3000", "99HOSP-1"])
def test_chests_and_unknown_parts_by_code_claim_nothing(value: str) -> None:
    assert codes(AnatomicRegionSequence=coded(value), BodyPartExamined="HAND") == []
