"""Settings: where their values come from, what they are called, and what is said when one is wrong."""
