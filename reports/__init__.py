"""Reads run folders; writes tables, learning curves and one HTML page. Never imports ray or torch."""
