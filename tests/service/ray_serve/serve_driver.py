"""Runs Ray Serve for a test: deploys each configuration that comes as a line of JSON."""

from __future__ import annotations

import json
import os
import sys
import time


def main() -> None:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray import serve
    from ray.serve._private.api import serve_start
    from ray.serve.schema import ServeDeploySchema

    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=200 * 2**20,
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        log_to_driver=False,
        logging_level="warning",
    )
    client = None
    try:
        for line in sys.stdin:
            config = ServeDeploySchema.model_validate(json.loads(line))
            options = config.http_options.model_dump()
            client = client or serve_start(http_options=options)
            client.deploy_apps(config)
            wait_until_all_are_new(serve)
            print("deployed", flush=True)
    finally:
        serve.shutdown()
        ray.shutdown()


def wait_until_all_are_new(serve: object) -> None:
    while True:
        time.sleep(0.3)
        found = serve.status().applications.get("lungseg")  # type: ignore[attr-defined]
        if found is None or found.status == "DEPLOY_FAILED":
            if found is not None:
                sys.exit(f"deploy failed: {found.message}")
            continue
        states = [one.status for one in found.deployments.values()]
        if found.status == "RUNNING" and states and all(state == "HEALTHY" for state in states):
            return


if __name__ == "__main__":
    main()
