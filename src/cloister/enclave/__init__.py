"""What runs inside the enclave. Holds no torch."""
