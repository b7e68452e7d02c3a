"""The endpoints for operators on the admin port."""
