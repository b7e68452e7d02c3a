"""The peers: one small file each, started as `python -m benchmarks.candidates.<name>` on `$PORT`."""
