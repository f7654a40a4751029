"""Every transition is kept: durable logs, an index, and a RAM tier to sample from."""
