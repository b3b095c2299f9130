"""A bounded memory of a stream, and how it is searched."""
