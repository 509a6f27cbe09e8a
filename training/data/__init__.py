"""X-rays with masks: reading, augmentation, and batches with boxes."""
