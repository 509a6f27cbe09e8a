"""HTTP: routes, connection, upload, form, keys, problems, documentation, traces."""
