"""An HTTP service; `app.py` shows it on one page."""
