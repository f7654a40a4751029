"""What rewards are made of: reading their text, adding them up, learning a classifier."""
