"""The command line of a service: `python -m order_service check`. See docs/commands.md."""
