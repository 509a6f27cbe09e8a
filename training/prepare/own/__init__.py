"""A hospital's own X-rays and masks, in common formats of files and annotations."""
