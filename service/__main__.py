"""`python -m service`: reads the settings, opens the port, and serves until it is stopped.

Exit codes: 0 stopped on request, 2 a setting is not usable, 3 the port cannot be opened, 4 the
model was refused. Each comes with one sentence on standard error and no stack trace.
"""

from __future__ import annotations

import gc
import logging
import os
import socket
import sys
from collections.abc import Callable
from functools import partial

from service.audit.chain import AuditError
from service.http.key_file import KeyFileError, require_a_key
from service.settings import Settings, SettingsError, settings_from, unknown_variables
from service.settings_checks import (
    require_admin_keys,
    require_safe_address,
    require_trace_exporter,
    require_usable_certificate,
    require_whole_audit,
)

EXIT_BAD_SETTING = 2
EXIT_CANNOT_LISTEN = 3
EXIT_MODEL_REFUSED = 4
BACKLOG = 2048
ADMIN_HOST = "127.0.0.1"
SWITCH_INTERVAL_S = 0.0005
"""How long a thread may keep Python's lock while another waits for it. By default it is 5 ms; under
load each compute thread would wait that long for the event loop."""


def main() -> int:
    """Run the service.

    Returns:
        The exit code.
    """
    try:
        settings = settings_from(sys.argv[1:], os.environ)
        require_safe_address(settings)
        require_usable_certificate(settings)
        require_trace_exporter(settings)
        require_whole_audit(settings)
        require_admin_keys(settings)
        if settings.api_keys_file is not None:
            require_a_key(settings.api_keys_file)
        if settings.admin_keys_file is not None:
            require_a_key(settings.admin_keys_file)
        if settings.metrics_key and settings.api_keys_file is None:
            raise SettingsError("--metrics-key needs --api-keys-file FILE.")
    except (SettingsError, KeyFileError) as error:
        return _refuse(str(error), EXIT_BAD_SETTING)
    try:
        listener = _listen(settings.host, settings.port)
    except OSError as error:
        return _refuse_to_listen(settings.host, settings.port, error)
    with listener:
        if settings.admin_port is None:
            return _serve(settings, listener, None)
        try:
            admin = _listen(ADMIN_HOST, settings.admin_port)
        except OSError as error:
            return _refuse_to_listen(ADMIN_HOST, settings.admin_port, error)
        with admin:
            return _serve(settings, listener, admin)


def _listen(host: str, port: int) -> socket.socket:
    """Open the port before the slow imports, so that early callers wait and are not refused."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio sets TCP_NODELAY. Otherwise the body of an answer waits until
    # the caller acknowledges the headers.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _refuse_to_listen(host: str, port: int, error: OSError) -> int:
    reason = (error.strerror or str(error)).lower()
    return _refuse(f"Cannot listen on {host}:{port}: {reason}.", EXIT_CANNOT_LISTEN)


def _serve(settings: Settings, listener: socket.socket, admin: socket.socket | None) -> int:
    from service.compute.early_start import EarlyStart
    from service.heap import keep_one_heap
    from service.line_writer import never_wait_for_readers

    keep_one_heap()  # before there are threads
    never_wait_for_readers()
    early = EarlyStart(settings.device_names[0])  # it imports while this process does
    import prometheus_client
    import uvicorn

    from service.app import create_app
    from service.compute.model_loading import start_compute_child
    from service.cpu_allowance import front_processes
    from service.fronts.front_processes import FrontProcesses
    from service.fronts.fronted_server import FrontedServer
    from service.greeting import greet_when_ready
    from service.http.connection import bounded_connection
    from service.http.descriptors import most_connections
    from service.http.server import DrainingServer
    from service.logging import configure_logging
    from service.pipeline.image_workers import gpus_of
    from service.workers.memory_release import release_memory_in_thread

    release_memory_in_thread()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    log = configure_logging()
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    logger = logging.getLogger("service.process")
    for name in unknown_variables(os.environ):
        logger.warning("unknown variable", extra={"fields": {"variable": name}})
    if settings.image_threads:
        fields = {"setting": "image-threads", "use": "image-workers"}
        logger.warning("setting has another name", extra={"fields": fields})
    refusals: list[Exception] = []
    try:
        app = create_app(
            settings,
            predictor_factory=partial(start_compute_child, early=early),
            on_refused=refusals.append,
            admin_listener=admin,
        )
    except AuditError as error:
        early.close()
        return _refuse(str(error), EXIT_BAD_SETTING)
    service = app.state.service
    log.on_lost = service.metrics.log_lines_lost.inc
    service.metrics.log_lines_lost.inc(log.lost_lines)
    connections = most_connections(settings.max_connections, service.admission.most_inside)
    service.metrics.connections_limit.set(connections)
    config = uvicorn.Config(
        app,
        http=bounded_connection(
            settings.header_timeout_s,
            settings.answer_idle_timeout_s,
            connections,
            on_unreadable=service.metrics.count_unparsed,
            on_change=service.metrics.connections.set,
            on_closed=service.metrics.connection_closed,
        ),
        ws="none",
        loop="asyncio",  # also where another extra installs uvloop
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here depends on addresses in headers
        lifespan="on",
        backlog=BACKLOG,
        timeout_graceful_shutdown=max(1, int(settings.drain_timeout_s)),
    )
    count = settings.fronts or front_processes(gpus=gpus_of(settings))
    own = [] if count > 1 else [listener]
    make_server: Callable[..., DrainingServer] = DrainingServer
    if count > 1:
        fronts = FrontProcesses(count, listener, app.state.masks, app, connections)
        make_server = partial(FrontedServer, fronts=fronts)
    server = make_server(
        config,
        on_stop=service.readiness.mark_draining,
        running=lambda: service.requests_running,
        must_end=lambda: bool(refusals),
        drain_timeout_s=settings.drain_timeout_s,
    )
    host, port = listener.getsockname()[:2]
    shown_host = f"[{host}]" if ":" in host else host
    scheme = "http" if settings.tls_cert is None else "https"
    url = f"{scheme}://{shown_host}:{port}"
    logger.info("listening", extra={"fields": {"url": url}})
    if admin is not None:
        address = f"http://{ADMIN_HOST}:{admin.getsockname()[1]}"
        logger.info("admin listening", extra={"fields": {"url": address}})
    if settings.greet:
        greet_when_ready(url, service.served)
    gc.collect()
    gc.freeze()  # otherwise a full collection visits all imports and delays requests
    server.run(sockets=own)
    logger.info("stopped")
    return _explain_refusal(refusals[0]) if refusals else 0


def _explain_refusal(error: Exception) -> int:
    sentence = " ".join(str(error).split()) or type(error).__name__
    if getattr(error, "is_setting", False):
        return _refuse(sentence, EXIT_BAD_SETTING)  # a device this machine does not have
    return _refuse(sentence, EXIT_MODEL_REFUSED)


def _refuse(sentence: str, exit_code: int) -> int:
    print(f"service: {sentence}", file=sys.stderr)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
