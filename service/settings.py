"""The settings of one service process: validated once, frozen, and passed in.

Each setting has one name in three spellings: the field `max_upload_bytes`, the variable
`LUNGSEG_MAX_UPLOAD_BYTES` and the flag `--max-upload-bytes` (or `--max_upload_bytes`). A flag
overrides the environment, which overrides the default. Nothing here reads the environment itself:
the caller passes a mapping.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from service.web_origin import web_origin

ENVIRONMENT_PREFIX = "LUNGSEG_"
_HOST_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*|[0-9A-Fa-f]*:[0-9A-Fa-f:.]+")


ALL_DEVICES = "all"
"""Value of `devices`: every GPU that is visible."""


class SettingsError(ValueError):
    """A setting has an invalid value; the message is one sentence that names it."""


class Settings(BaseModel):
    """All settings of one service process."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    host: str = Field("127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="TCP port, 0 for any free one")
    api_keys_file: Path | None = Field(
        None,
        description="file with the SHA-256 of an API key a line, then name=, scopes= and expires=; "
        "default: no key is needed",
    )
    failed_keys_per_minute: int = Field(
        30,
        ge=0,
        le=1_000_000,
        description="invalid API keys a minute from one address, then 429; 0 for any number",
    )
    metrics_key: bool = Field(
        False, description="true: /metrics asks for an API key of the scope metrics"
    )
    allow_anyone: bool = Field(
        False, description="true: listen beyond this machine although no key is needed"
    )
    allowed_hosts: tuple[str, ...] = Field(
        (),
        description="names by which the service may be called where no key is asked for, beside "
        "loopback names and the address it listens on, separated by commas; * for any",
    )
    cors_origins: tuple[str, ...] = Field(
        (),
        description="origins whose pages may call the service and read its answers, such as "
        "https://viewer.example, separated by commas; default: none",
    )
    admin_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="port of 127.0.0.1 for reload and rollback of the model, 0 for any free one; "
        "default: there is none",
    )
    admin_keys_file: Path | None = Field(
        None, description="keys for the admin port, of the scope admin; default: api-keys-file"
    )
    audit_log: Path | None = Field(
        None, description="file of the audit log; default: none is written"
    )
    audit_key_file: Path | None = Field(
        None, description="file with the secret that seals the audit log's lines"
    )
    audit_required: bool = Field(
        False, description="true: 503 for masks while the audit log cannot be written"
    )
    audit_max_bytes: int = Field(
        64 * 1024 * 1024,
        ge=4096,
        le=2**40,
        description="size of the audit log from which another file is begun",
    )
    tls_cert: Path | None = Field(
        None, description="PEM file with the certificate and its chain: serves HTTPS"
    )
    tls_key: Path | None = Field(None, description="PEM file with the certificate's private key")
    model: Path | None = Field(
        None,
        description="model folder; default: the model that the package holds. Given again, it "
        "names a further model",
    )
    further_models: tuple[Path, ...] = Field(
        (),
        description="folders of models that are served beside, separated by commas; a request "
        "asks for one by its field model",
    )
    shadow_model: Path | None = Field(
        None,
        description="folder of a model whose masks are compared with those of the first model and "
        "never given; default: none",
    )
    shadow_share: float = Field(
        0.1, gt=0, le=1, description="share of the X-rays that the shadow model is to see"
    )
    allow_model_change: bool = Field(
        False,
        description="true: a restarted compute process may serve another model than at the start",
    )
    greet: bool = Field(
        False, description="true: one line for people on standard output once it is ready"
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:[0-9]{1,3})?)$",
        description="where the model runs: auto (GPUs where there are some), cpu, cuda, or one "
        "GPU by its number, such as cuda:0",
    )
    devices: str = Field(
        ALL_DEVICES,
        pattern=r"^(all|(cpu|cuda:[0-9]{1,3})(,(cpu|cuda:[0-9]{1,3}))*)$",
        description="devices with a compute process each, such as cuda:0,cuda:1; all: every "
        "visible GPU, or one process on the CPU",
    )
    threads: int = Field(
        0, ge=0, le=1024, description="CPU threads of the model, 0 for the allowed CPUs less one"
    )
    max_upload_bytes: int = Field(
        64 * 1024 * 1024, ge=1024, le=2**31, description="largest request body in bytes"
    )
    max_pixels: int = Field(
        40_000_000, ge=1024, le=2**31, description="largest image in pixels (width x height)"
    )
    max_boxes: int = Field(32, ge=1, le=1024, description="most boxes in one request")
    max_batch: int = Field(4, ge=1, le=256, description="most requests handed to a GPU at a time")
    batch_window_s: float = Field(
        0.0,
        ge=0,
        le=1,
        description="seconds after the first waiting request in which more may join its batch, "
        "under load only; 0 waits never, best for models that compute image by image",
    )
    queue_limit: int = Field(
        64, ge=1, le=100_000, description="most requests that wait for the model; more get 429"
    )
    queue_limit_bytes: int = Field(
        1024 * 1024 * 1024,
        ge=1024,
        le=2**40,
        description="most bytes of uploads and decoded images inside; more get 429",
    )
    embedding_cache_bytes: int = Field(
        0,
        ge=0,
        le=2**40,
        description="bytes of image embeddings kept for further boxes on the same X-ray",
    )
    request_timeout_s: float = Field(
        30.0, gt=0, le=3600, description="seconds for one request, upload included; then 504"
    )
    drain_timeout_s: float = Field(
        25.0, ge=0, le=3600, description="seconds for running requests after SIGTERM"
    )
    recheck_interval_s: float = Field(
        60.0, gt=0, le=86_400, description="seconds between repetitions of the self test"
    )
    stall_timeout_s: float = Field(
        60.0,
        gt=0,
        le=3600,
        description="seconds for one image in the compute process; then it "
        "counts as stalled and is restarted",
    )
    upload_idle_timeout_s: float = Field(
        10.0, gt=0, le=3600, description="seconds without a byte of an upload; then 408"
    )
    header_timeout_s: float = Field(
        10.0, gt=0, le=3600, description="seconds for the headers of a request; then 408"
    )
    answer_idle_timeout_s: float = Field(
        60.0,
        gt=0,
        le=3600,
        description="seconds in which a caller takes nothing of its answer; "
        "then the connection is cut",
    )
    max_connections: int = Field(
        1024,
        ge=16,
        le=50_000,
        description="most connections at a time, as far as file descriptors allow; beyond it the "
        "one that has waited longest without a request is closed",
    )
    otlp_endpoint: str | None = Field(
        None,
        pattern=r"https?://[^/]+/?",
        description="collector of OpenTelemetry traces, such as http://127.0.0.1:4318; default: "
        "nothing is sent anywhere",
    )
    dicom_plane: Literal["detector", "none"] = Field(
        "detector",
        description="plane of a DICOM answer whose X-ray has none of its own: the detector's, "
        "which 3D Slicer and OHIF need, or none",
    )
    uid_key: str = Field(
        "",
        repr=False,
        description="secret without which nobody can compute the UIDs of DICOM answers from "
        "those of their X-rays",
    )
    fronts: int = Field(
        0,
        ge=0,
        le=64,
        description="processes that hold callers' connections, 1 for the serving process itself, "
        "0 for that one, and beside a GPU for a quarter of the allowed CPUs, at most 8",
    )
    image_workers: int = Field(
        0,
        ge=0,
        le=256,
        description="processes that decode uploads and render answers, 0 for half of the allowed "
        "CPUs, all of them beside a GPU, at least 2, as far as memory allows",
    )
    dicom_from_start: bool = Field(
        False,
        description="true: image workers hold what answers in DICOM need (90 MB) from the start, "
        "not from the first such answer on, which takes a second longer",
    )
    image_threads: int = Field(
        0, ge=0, le=256, description="old name of image-workers; give that one instead"
    )

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _split_hosts(cls, value: Any) -> Any:
        """Parse `a, b` as two names or addresses, without scheme and port."""
        names = value.split(",") if isinstance(value, str) else value
        found = tuple(name.strip() for name in names if name.strip())
        for name in found:
            if name != "*" and not _HOST_NAME.fullmatch(name):
                raise ValueError(f"{name} is not a host name (without scheme and port)")
        return found

    @field_validator("further_models", mode="before")
    @classmethod
    def _split_folders(cls, value: Any) -> Any:
        """Parse `a,b` as two folders."""
        return [one for one in value.split(",") if one] if isinstance(value, str) else value

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split_origins(cls, value: Any) -> Any:
        """Parse `a, b` as two origins, in the form of browsers."""
        origins = value.split(",") if isinstance(value, str) else value
        return tuple(web_origin(one) for one in origins if one.strip())

    @property
    def device_names(self) -> tuple[str, ...]:
        """Devices known from the start: those listed, or `device`."""
        return (self.device,) if self.devices == ALL_DEVICES else tuple(self.devices.split(","))


def admin_keys_file(settings: Settings) -> Path | None:
    """Return the file of keys for the admin port; None for none."""
    return settings.admin_keys_file or settings.api_keys_file


def settings_from(
    arguments: Sequence[str], environment: Mapping[str, str], *, program: str = "python -m service"
) -> Settings:
    """Build the settings from command-line arguments and an environment.

    Args:
        arguments: the arguments without the program's name.
        environment: variables; those that do not start with `LUNGSEG_` are ignored.
        program: name of the program in the usage text.

    Returns:
        The validated settings.

    Raises:
        SettingsError: a value is invalid; the message is one sentence.
        SystemExit: `--help` was given, or a flag is unknown (code 2, argparse's own text).
    """
    values: dict[str, Any] = {}
    spelling: dict[str, str] = {}
    for name in Settings.model_fields:
        variable = ENVIRONMENT_PREFIX + name.upper()
        if environment.get(variable, "") != "":
            values[name], spelling[name] = environment[variable], variable
    flags = vars(_argument_parser(program).parse_args(arguments))
    for name, value in _split_models(flags).items():
        if value is not None:
            values[name], spelling[name] = value, "--" + name.replace("_", "-")
    try:
        return Settings(**values)
    except ValidationError as error:
        raise SettingsError(_sentence(error, spelling)) from None


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """List variables that look like settings but are not, such as misspelt ones.

    They are worth a warning, not a refusal: Kubernetes adds variables of its own, like
    `LUNGSEG_SERVICE_HOST`, when a Service is named `lungseg`.
    """
    known = {ENVIRONMENT_PREFIX + name.upper() for name in Settings.model_fields}
    return sorted(
        name for name in environment if name.startswith(ENVIRONMENT_PREFIX) and name not in known
    )


def _argument_parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        description="Serves lung segmentation over HTTP (POST /segment).",
        epilog="Each flag has a variable, for example LUNGSEG_PORT for --port; the flag wins. "
        "Exit codes: 0 stopped, 2 a bad setting, 3 cannot listen, 4 the model was refused.",
        allow_abbrev=False,
    )
    for name, field in Settings.model_fields.items():
        flag = "--" + name.replace("_", "-")
        spellings = [flag, "--" + name] if "_" in name else [flag]
        shown = f"{field.description} (default: {field.default})"
        action = "append" if name == "model" else "store"
        metavar = "VALUE" if name != "device" else "{auto,cpu,cuda,cuda:N}"
        parser.add_argument(*spellings, dest=name, help=shown, metavar=metavar, action=action)
    return parser


def _split_models(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flags with the second and later `--model` moved to the further models."""
    first, *others = flags["model"] or [None]
    listed = flags["further_models"]
    if others:
        listed = [*others, *(listed or "").split(",")]
        listed = [one for one in listed if one]
    return {**flags, "model": first, "further_models": listed}


def _sentence(error: ValidationError, spelling: Mapping[str, str]) -> str:
    first = error.errors()[0]
    name = str(first["loc"][0])
    reason = first["msg"][0].lower() + first["msg"][1:]
    return f"{spelling.get(name, name)} is not usable: {reason} (it is {first['input']!r})."
