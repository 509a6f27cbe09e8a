"""The stages: what each trains and what it starts from."""
