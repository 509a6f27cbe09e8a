"""The quality head, which classifies pictures, trained on changed X-rays and other pictures."""
