"""One request from its bytes to its answer: admission, the steps, the service object."""
