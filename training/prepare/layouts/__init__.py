"""How each owner lays out a download: a module per source, each with one function ``find``."""
