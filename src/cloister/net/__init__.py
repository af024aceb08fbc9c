"""How organisations reach each other: identities, TLS with pinned keys, framed connections, a listener.

No module here but ``client`` imports torch.
"""
