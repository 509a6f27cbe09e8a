"""A hospital's own X-rays and masks, in the formats in which people keep and annotate them."""
