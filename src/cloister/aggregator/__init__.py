"""The aggregator: it makes a new model of contributions. Holds no torch, because the enclave holds none."""
