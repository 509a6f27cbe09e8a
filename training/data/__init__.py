"""X-rays with masks: read, changed, and put together into batches with their boxes."""
