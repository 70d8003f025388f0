"""A bundle behind HTTP: requests of single users, searched in batches."""
