"""Settings: precedence, refusals in one sentence, and where the default model is looked for."""

from __future__ import annotations

import pytest

from service.settings import (
    Settings,
    SettingsError,
    settings_from,
    unknown_variables,
)


def test_defaults_are_the_documented_ones() -> None:
    """The address of the README is the default."""
    settings = settings_from([], {})
    assert (settings.host, settings.port, settings.device) == ("127.0.0.1", 8000, "auto")


def test_a_flag_wins_over_the_environment_and_that_over_the_default() -> None:
    """Flags, then variables, then defaults."""
    environment = {"LUNGSEG_PORT": "9001", "LUNGSEG_QUEUE_LIMIT": "7", "PORT": "1"}
    settings = settings_from(["--port", "9002"], environment)
    assert (settings.port, settings.queue_limit, settings.max_batch) == (9002, 7, 4)


@pytest.mark.parametrize("flag", ["--max-upload-bytes", "--max_upload_bytes"])
def test_both_spellings_of_a_flag_work(flag: str) -> None:
    """Dashes and underscores."""
    assert settings_from([flag, "4096"], {}).max_upload_bytes == 4096


def test_an_empty_variable_counts_as_not_given() -> None:
    """Compose files write `LUNGSEG_PORT=` for "use the default"."""
    assert settings_from([], {"LUNGSEG_PORT": ""}).port == 8000


@pytest.mark.parametrize(
    ("arguments", "environment", "named"),
    [
        (["--port", "abc"], {}, "--port"),
        (["--port", "70000"], {}, "--port"),
        ([], {"LUNGSEG_PORT": "tcp://10.0.0.7:8000"}, "LUNGSEG_PORT"),
        ([], {"LUNGSEG_DEVICE": "tpu"}, "LUNGSEG_DEVICE"),
        ([], {"LUNGSEG_QUEUE_LIMIT": "0"}, "LUNGSEG_QUEUE_LIMIT"),
        (["--request-timeout-s", "nan"], {}, "--request-timeout-s"),
        (["--request-timeout-s", "-1"], {}, "--request-timeout-s"),
    ],
)
def test_a_bad_value_is_one_sentence_that_names_its_source(
    arguments: list[str], environment: dict[str, str], named: str
) -> None:
    """The operator is told which spelling was wrong."""
    with pytest.raises(SettingsError) as caught:
        settings_from(arguments, environment)
    assert str(caught.value).startswith(named + " ")
    assert "\n" not in str(caught.value)


def test_an_unknown_flag_ends_with_code_2() -> None:
    """Argparse's own refusal."""
    with pytest.raises(SystemExit) as caught:
        settings_from(["--prot", "1"], {})
    assert caught.value.code == 2


def test_settings_cannot_be_changed() -> None:
    """Frozen."""
    with pytest.raises(ValueError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]


def test_misspelt_variables_are_found() -> None:
    """Only those of our prefix."""
    environment = {"LUNGSEG_PROT": "1", "LUNGSEG_PORT": "1", "PATH": "x"}
    assert unknown_variables(environment) == ["LUNGSEG_PROT"]
