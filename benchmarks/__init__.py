"""How fast the generated service is, beside its peers, in one run; begin reading at `run.py`."""
