"""The secure worker: how contributions become a new model. Holds no torch, because the enclave holds none."""
