"""Federated training of many owners in one process, to try a study before anybody is asked."""
