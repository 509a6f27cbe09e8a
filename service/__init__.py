"""The service: serves stored models over HTTP and, without a server, from the command line."""
