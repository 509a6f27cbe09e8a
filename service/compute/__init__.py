"""The network: queue, worker, compute process, loading, readiness."""
