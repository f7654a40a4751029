"""Act, learn, evaluate, supervise the processes of a run."""
