"""Published systems built on the ops."""
