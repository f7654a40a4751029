"""Networks, normaliser and other parts that policy families share."""
