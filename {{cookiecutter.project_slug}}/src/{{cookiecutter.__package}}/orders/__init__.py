"""Orders: the example. Copy this package for a resource of your own, then delete it."""
