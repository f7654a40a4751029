"""Robot drivers that need no simulator, one file each."""
