"""One exchange, from its first byte to its last."""
