"""Image workers: expendable child processes that open and render pictures under hard limits.

An untrusted file is parsed by native code only in a worker. The front (the process that holds the
callers' connections) sends bytes and gets bytes; it opens no picture and unpickles nothing.

    pool = WorkerPool(PoolConfig(tasks="package.module"), workers=2)
    await pool.start()
    with Blob.of(upload) as file:
        reply = await pool.run(
            "decode", {"max_pixels": 40_000_000}, blobs=[file], cpu_s=2.0, wall_s=20.0
        )
    reply.fields, reply.body, reply.blobs    # JSON, raw bytes, shared memory: close it
    await pool.close()

`package.module` defines `TASKS`, which maps names to functions `(Task) -> Answer`, and may define
`warm_up()`; see `service.workers.task`. `run` raises the errors of `service.workers.errors`:
`TooCostly` (422, caused by the file), `WorkerLost` (503, retry), `TaskRefused` (the function
refused the input) and `TaskFailed` (the function raised).

One warmed process without threads (the template) imports all that workers need and forks them, so
that their memory is shared and a lost one is replaced in milliseconds:

    front ── control socket ── template
      └──── socket each ────── workers, forked by the template

Why this pool and not a library's:

* pebble 5.2 kills one task's process at a timeout, but its channel ends in `Connection.recv`,
  which unpickles what the worker sends: a worker that met hostile bytes would run code in the
  front. It has no limit but the wall clock, and gives no reason for a worker's end.
* loky, `concurrent.futures` and `multiprocessing` unpickle, too, and a dead worker breaks the whole
  executor, so other tasks are lost.
* None of them forks from a warmed process of one thread: `fork` copies the front with its threads'
  locks, `spawn` repeats the imports (a second and 100 MB each), and `forkserver` gives its children
  no limits.
"""
