"""What masks are worth: boxes that are off, unusual X-rays, annotators who disagree."""
