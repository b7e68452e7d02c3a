"""The endpoints of the admin port: for the platform, and for the operators of the service."""
