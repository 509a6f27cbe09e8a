"""Checks of settings that belong together, made once before the service opens its port.

Each refuses a combination that is unsafe or cannot work; `Settings` checks single values.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from importlib.util import find_spec

from service.loopback import is_loopback
from service.settings import Settings, SettingsError, admin_keys_file


def require_safe_address(settings: Settings) -> None:
    """Refuse a service that is open to other machines by accident.

    Raises:
        SettingsError: the address can be reached from other machines, no API key is required, and
            the setting that allows this is not set.
    """
    if settings.api_keys_file or settings.allow_anyone or is_loopback(settings.host):
        return
    raise SettingsError(
        f"{settings.host} can be reached from other machines and no API key is required. Give "
        "--api-keys-file FILE, or --allow-anyone true if something else limits who may call."
    )


def require_usable_certificate(settings: Settings) -> None:
    """Refuse a certificate that cannot be used for TLS.

    Raises:
        SettingsError: one of certificate and key is missing, unreadable, locked by a passphrase, or
            they do not belong together.
    """
    if settings.tls_cert is None and settings.tls_key is None:
        return
    if settings.tls_cert is None or settings.tls_key is None:
        raise SettingsError("TLS needs both --tls-cert FILE and --tls-key FILE.")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Without a given passphrase OpenSSL would prompt for one on the terminal, and wait.
        context.load_cert_chain(settings.tls_cert, settings.tls_key, password="")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "locked"
        raise SettingsError(
            f"The TLS certificate {settings.tls_cert} and key {settings.tls_key} cannot be used: "
            f"{str(reason).lower().replace('_', ' ')}."
        ) from None


def require_whole_audit(settings: Settings) -> None:
    """Refuse an audit log without a key, and a key without a log.

    Raises:
        SettingsError: one of the two is missing.
    """
    if (settings.audit_log is None) != (settings.audit_key_file is None):
        raise SettingsError("The audit log needs both --audit-log FILE and --audit-key-file FILE.")
    if settings.audit_required and settings.audit_log is None:
        raise SettingsError("--audit-required needs --audit-log FILE and --audit-key-file FILE.")


def require_admin_keys(settings: Settings) -> None:
    """Refuse an admin port without a file of keys.

    Raises:
        SettingsError: there is no file of keys for it.
    """
    if settings.admin_port is not None and admin_keys_file(settings) is None:
        raise SettingsError("--admin-port needs --admin-keys-file FILE (or --api-keys-file FILE).")


def require_trace_exporter(settings: Settings) -> None:
    """Refuse an endpoint for traces that cannot be exported.

    Raises:
        SettingsError: an endpoint is set and the extra `otel` is not installed.
    """
    names = ("opentelemetry", "opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
    if settings.otlp_endpoint is None or _are_installed(names):
        return
    raise SettingsError(
        "--otlp-endpoint needs OpenTelemetry, which is not installed: "
        "pip install 'adalora-qat[otel]'."
    )


def _are_installed(names: Sequence[str]) -> bool:
    try:
        return all(find_spec(name) is not None for name in names)
    except ModuleNotFoundError:  # a parent package
        return False
