"""The example API. Copy this package for your own resource, then delete it."""
