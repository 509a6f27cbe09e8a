"""The settings of a node: one TOML file, validated whole before anything starts."""

from __future__ import annotations

import ipaddress
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

ResultKind = Literal["seg", "sc", "sr", "gsps"]


class NodeSettingsError(ValueError):
    """The file cannot be used; the message is one sentence that names the setting."""


def _title(text: str) -> str:
    """Check an application entity title (PS3.5, VR AE)."""
    is_valid = 1 <= len(text) <= 16 and text.isascii() and text.isprintable() and "\\" not in text
    if not is_valid or text != text.strip():
        raise ValueError(
            "an AE title has 1 to 16 ASCII letters, no backslash, no space at its ends"
        )
    return text


def _network(text: str) -> str:
    ipaddress.ip_network(text, strict=False)
    return text


AeTitle = Annotated[str, AfterValidator(_title)]
Network = Annotated[str, AfterValidator(_network)]
Port = Annotated[int, Field(ge=1, le=65535)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TlsSettings(_Section):
    """Files of a TLS connection, PEM.

    Attributes:
        certificate: own certificate and its chain.
        key: its private key.
        trusted: certificates of the authorities that must have signed the other side's.
    """

    certificate: Path
    key: Path
    trusted: Path


class Sender(_Section):
    """Who may send."""

    ae_title: AeTitle
    # addresses or networks that it may call from
    addresses: tuple[Network, ...] = Field(min_length=1)


class ReceiveSettings(_Section):
    """The storage SCP.

    Attributes:
        ae_title: the node's own AE title.
        host: address to listen on.
        port: port; 104 and 11112 are DICOM's registered ones.
        senders: who may send.
        max_associations: most associations at a time.
        acse_timeout_s: seconds to wait for the negotiation of an association.
        dimse_timeout_s: seconds to wait for a message.
        network_timeout_s: seconds without a byte after which an association is aborted.
        tls: if given, accept only TLS.
    """

    ae_title: AeTitle = "LUNGSEG"
    host: str = "0.0.0.0"
    port: Port = 11112
    senders: tuple[Sender, ...] = Field(min_length=1)
    max_associations: int = Field(default=10, ge=1, le=1000)
    max_object_bytes: int = Field(default=64 * 1024 * 1024, ge=1024, le=2**31)
    acse_timeout_s: float = Field(default=30.0, gt=0, le=3600)
    dimse_timeout_s: float = Field(default=30.0, gt=0, le=3600)
    network_timeout_s: float = Field(default=60.0, gt=0, le=3600)
    tls: TlsSettings | None = None


class SelectSettings(_Section):
    """The rule for objects to segment; others are received, counted and dropped.

    Attributes:
        modalities: accepted values of Modality; an absent value is accepted.
        other_body_parts: values of BodyPartExamined to skip.
        other_views: values of ViewPosition to skip.
    """

    modalities: tuple[str, ...] = ("CR", "DX", "RG", "OT")
    other_body_parts: tuple[str, ...] = (
        *("ABDOMEN", "ANKLE", "ARM", "BREAST", "CALCANEUS", "CLAVICLE", "CSPINE", "ELBOW"),
        *("EXTREMITY", "FEMUR", "FINGER", "FOOT", "FOREARM", "HAND", "HIP", "HUMERUS", "JAW"),
        *("KNEE", "LEG", "LSPINE", "NECK", "PELVIS", "SHOULDER", "SKULL", "SPINE", "TOE"),
        *("TSPINE", "WRIST"),
    )
    other_views: tuple[str, ...] = ("LL", "RL", "LATERAL", "LAT", "LLD", "RLD", "LLO", "RLO")


class ServiceSettings(_Section):
    """One segmentation service.

    Attributes:
        api_key_file: file whose first line is the service's key.
        trusted: certificates to trust over HTTPS, PEM; by default the system's.
    """

    url: str = Field(pattern=r"^https?://[^/?#]+(/[^?#]*)?$")
    api_key_file: Path | None = None
    trusted: Path | None = None


class SegmentSettings(_Section):
    """The requests to the services.

    Attributes:
        services: one or more; each request goes to the one with the fewest open requests.
        model: the model to use, NAME/VERSION or NAME for the first of that name; by default the
            service's first.
        convention: convention of the masks.
        lungs: one segment for both lungs, or one for each.
        view: content of the secondary capture.
        timeout_s: most seconds for one answer.
        parallel: most X-rays at a time.
        refuse_warnings: warnings that stop the masks, beside those of severity `refuse`; only the
            report is sent, and it names the warning.
    """

    services: tuple[ServiceSettings, ...] = Field(min_length=1)
    model: str | None = Field(default=None, pattern=r"^[^/\s]+(/[^/\s]+)?$")
    convention: Literal["lung_field", "whole_lung"] = "lung_field"
    lungs: Literal["both", "each"] = "each"
    view: Literal["overlay", "outline", "isolated", "enhanced"] = "outline"
    timeout_s: float = Field(default=60.0, gt=0, le=3600)
    parallel: int = Field(default=2, ge=1, le=64)
    refuse_warnings: tuple[str, ...] = ()


class _Destination(_Section):
    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,32}$")
    results: tuple[ResultKind, ...] = Field(default=("seg", "sc", "sr"), min_length=1)
    send_refused_masks: bool = False
    timeout_s: float = Field(default=30.0, gt=0, le=3600)


class DimseDestination(_Destination):
    """An archive that accepts C-STORE.

    Attributes:
        name: its name in logs and metrics.
        results: kinds of objects that it gets.
        send_refused_masks: whether to send masks even after a warning that stops them.
        timeout_s: seconds for one message.
        tls: if given, connect with TLS.
    """

    kind: Literal["dimse"]
    ae_title: AeTitle
    host: str = Field(min_length=1)
    port: Port
    tls: TlsSettings | None = None


class StowDestination(_Destination):
    """An archive that accepts STOW-RS.

    Attributes:
        url: its DICOMweb root.
        username: for basic authentication.
        password_file: file whose first line is the password.
        trusted: certificates to trust over HTTPS, PEM.
    """

    kind: Literal["stow"]
    url: str = Field(pattern=r"^https?://[^?#]+$")
    username: str | None = None
    password_file: Path | None = None
    trusted: Path | None = None


Destination = Annotated[DimseDestination | StowDestination, Field(discriminator="kind")]


class FetchSettings(_Section):
    """A WADO-RS server for `--fetch`.

    Attributes:
        url: its DICOMweb root.
        username: for basic authentication.
        password_file: file whose first line is the password.
        trusted: certificates to trust over HTTPS, PEM.
    """

    url: str = Field(pattern=r"^https?://[^?#]+$")
    username: str | None = None
    password_file: Path | None = None
    trusted: Path | None = None


class RetrySettings(_Section):
    """Retries when a service or a destination does not answer.

    Attributes:
        first_pause_s: pause after the first failure; it doubles with each further one.
        give_up_after_s: age of an X-ray at which it becomes a dead letter.
    """

    first_pause_s: float = Field(default=5.0, gt=0, le=3600)
    longest_pause_s: float = Field(default=600.0, gt=0, le=86_400)
    give_up_after_s: float = Field(default=7 * 86_400.0, gt=0)


class SpoolSettings(_Section):
    """The folder in which X-rays and results wait.

    Attributes:
        folder: folder on a disk that survives a restart; created if missing.
        max_bytes: most bytes in it; beyond, C-STORE answers that the node is out of resources.
        min_free_bytes: free bytes of the disk below which C-STORE answers the same.
        keep_delivered_s: seconds for which an X-ray and its results stay after every destination
            has confirmed them; 0 deletes them at once. They are deleted earlier when the disk is
            nearly full.
    """

    folder: Path
    max_bytes: int = Field(default=10 * 1024**3, ge=1024 * 1024)
    min_free_bytes: int = Field(default=256 * 1024**2, ge=0)
    keep_delivered_s: float = Field(default=0.0, ge=0, le=366 * 86_400)


class MetricsSettings(_Section):
    """The address for Prometheus.

    Attributes:
        host: address to listen on.
        port: port, 0 for none.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=9112, ge=0, le=65535)


class NodeSettings(_Section):
    """The whole configuration of a node."""

    spool: SpoolSettings
    receive: ReceiveSettings
    segment: SegmentSettings
    destinations: tuple[Destination, ...] = Field(min_length=1)
    fetch: FetchSettings | None = None
    select: SelectSettings = Field(default_factory=SelectSettings)
    retry: RetrySettings = Field(default_factory=RetrySettings)
    metrics: MetricsSettings = Field(default_factory=MetricsSettings)

    @model_validator(mode="after")
    def _names_differ(self) -> NodeSettings:
        names = [destination.name for destination in self.destinations]
        if len(set(names)) < len(names):
            raise ValueError("two destinations have the same name")
        return self


def read_node_settings(path: Path) -> NodeSettings:
    """Read and check a file.

    Args:
        path: the TOML file.

    Raises:
        NodeSettingsError: it cannot be read, is not TOML, or has an invalid setting.
    """
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise NodeSettingsError(f"{path} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise NodeSettingsError(f"{path} is no TOML: {error}.") from None
    try:
        return NodeSettings(**values)
    except ValidationError as error:
        raise NodeSettingsError(f"{path}: {_sentence(error)}") from None


def first_line(path: Path) -> str:
    """Return the secret in the first line of a file.

    Raises:
        NodeSettingsError: the file cannot be read or is empty.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise NodeSettingsError(f"{path} cannot be read.") from None
    if not lines or not lines[0].strip():
        raise NodeSettingsError(f"{path} is empty.")
    return lines[0].strip()


def _sentence(error: ValidationError) -> str:
    """Return the first fault as a sentence that names the setting."""
    first: Any = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"]) or "the file"
    reason = first["msg"].removeprefix("Value error, ")
    return f"{place} is not usable: {reason[0].lower() + reason[1:]}."
