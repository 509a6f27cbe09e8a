"""Archives of X-rays: `python -m service.archive` segments millions of files over many hosts.

Ray Data sends only names of files to hosts, and only counts of rows come back. On each host an
actor runs the code behind `POST /segment` without HTTP: confined image workers, the proven model,
the same rendering. Pixels stay in their host's shared memory, and masks equal the service's byte
for byte. An actor writes its rows as a Parquet part before it reports them, so no finished part is
computed twice.

Only `cluster` and the code that runs on it import Ray: the extra `ray`.
"""
