"""From pictures on disk to tensors: sources, decoding, order, and the caches that training reads."""
