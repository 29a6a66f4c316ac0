"""Statistics: how large a difference is, how certain it is, and the sentence that reports it."""
