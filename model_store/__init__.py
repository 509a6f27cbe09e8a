"""What a stored model is: architecture, geometry, integers, artifact format, and the models.

This package is the only one that both ``training`` (which writes artifacts) and ``service`` (which
reads them) may import. It imports neither of them, nor any web framework.
"""

__version__ = "0.6.0"
