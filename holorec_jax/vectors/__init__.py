"""Item vectors: what is known of an item before any generator sees it."""
