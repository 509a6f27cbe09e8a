"""One request from its bytes to its answer: admission, stages, the service object."""
