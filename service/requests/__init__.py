"""What came in: the upload, its form, its boxes, and what is recorded of it."""
