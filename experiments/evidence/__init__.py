"""Statistics: how large a difference is, how sure that is, and the sentence that states it."""
