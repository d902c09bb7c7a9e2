"""Where finished runs live; the only memory there is. Nobody else knows a path."""
