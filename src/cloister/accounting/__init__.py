"""What noise is worth: the epsilon of what was released, and which noise would keep one. Outside of the enclave."""
