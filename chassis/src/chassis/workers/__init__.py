"""Several worker processes in one pod (`APP_WORKERS`), and the process that supervises them."""
