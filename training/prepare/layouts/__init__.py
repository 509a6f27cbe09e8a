"""The layouts of downloads: a module per source, each with a function ``find``."""
