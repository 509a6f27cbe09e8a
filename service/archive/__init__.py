"""Archives of X-rays: `python -m service.archive` segments millions of files over many hosts.

Ray Data sends names of files to hosts and counts of rows back, nothing else. On each host an actor
runs the code behind `POST /segment` without HTTP: confined image workers, the proven model, the
same rendering. Pixels stay in their host's shared memory, and masks equal the service's byte for
byte. An actor writes its rows as a Parquet part before it reports them, so that no finished part is
made twice.

Ray is imported by `cluster` and what runs on it alone: the extra `ray`.
"""
