"""Every warning says how grave it is and what to do."""

from __future__ import annotations

import pytest

from model_store.pictures.picture_warnings import PictureWarningCode
from service.imaging.response_warnings import WarningCode
from service.imaging.warning_advice import ADVICE, Severity, advice_on


def test_every_code_has_advice() -> None:
    assert set(ADVICE) == set(WarningCode)


def test_every_remark_of_decoding_has_a_code_of_the_answer() -> None:
    assert {str(code) for code in PictureWarningCode} <= {str(code) for code in WarningCode}


def test_actions_are_sentences_and_nothing_is_done_about_information_alone() -> None:
    for code, advice in ADVICE.items():
        assert advice.action[0].isupper(), code
        assert advice.action.endswith("."), code
        assert (advice.action == "Nothing needs to be done.") is (advice.severity is Severity.INFO)


def test_what_is_no_frontal_chest_by_its_header_is_refused() -> None:
    assert advice_on("not_frontal_view").severity is Severity.REFUSE
    assert advice_on("not_a_chest").severity is Severity.REFUSE


def test_an_unknown_code_is_an_error() -> None:
    with pytest.raises(ValueError, match="no_such_code"):
        advice_on("no_such_code")
