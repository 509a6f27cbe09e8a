"""Pictures, from decoded pixels to the answer's body, without HTTP and without the network."""
