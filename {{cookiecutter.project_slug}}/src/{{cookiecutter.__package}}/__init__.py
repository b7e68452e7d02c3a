"""An HTTP service. Start reading in `app.py`."""
