"""The networks themselves, as torch modules."""
