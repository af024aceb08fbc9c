"""Tensors whose values live elsewhere: pointers, the operations on them, and modules made of them."""
