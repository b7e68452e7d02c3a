"""Settings: their sources, their names, and the error messages for invalid values."""
