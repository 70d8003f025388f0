"""From a finished run to what serves it: one folder, and other formats."""
