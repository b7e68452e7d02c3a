"""The template's version, which `/info` shows, and which an update of the template moves."""

__version__ = "0.1.0"
