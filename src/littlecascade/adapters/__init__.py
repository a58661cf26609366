"""Adapters: small changes of a network's matrices and learned tokens, trained, stacked, converted and merged."""
